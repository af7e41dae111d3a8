"""INTR: one query per class attends to the image, and its cross-attention is the explanation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from timm.models.resnet import ResNet
from timm.utils.model import freeze_batch_norm_2d  # type: ignore[attr-defined]
from torch import Tensor, nn

from attnsearch.config.model import IntrSettings
from attnsearch.errors import ConfigError, UsageError
from attnsearch.models.backbones.generic import PixelStatistics, build_any_backbone
from attnsearch.models.base import AttentionModel, Heads
from attnsearch.models.intr_transformer import CrossAttention, DecoderOutput, Transformer
from attnsearch.models.weights import load_file, load_into, renamed
from attnsearch.types import AttentionOutput, Batch, HeadOutput

TEMPERATURE = 10_000.0  # of the position encoding
EPSILON = 1e-6
OFFICIAL_BODY, OWN_BODY = "backbone.0.body.", "backbone."
DETR_HEADS = ("class_embed.", "bbox_embed.")
MAP_NAME = re.compile(r"layer_(\d+)/(predicted|true|class_\d+)/(head_\d+|mean)")


def build(cfg: IntrSettings, heads: Heads) -> Intr:
    """The model that the settings describe, with its weights loaded.

    Raises:
        ConfigError: the backbone or the weights cannot be used.
    """
    state = None if cfg.weights in ("none", "hub") else load_file(cfg.weights)
    if state is None or not any(name.startswith(OFFICIAL_BODY) for name in state):
        return Intr(cfg, heads)
    model = Intr(cfg.model_copy(update={"weights": "none"}), heads)
    load_into(model, from_official(adapt_detr_state(state, heads.n_classes)), cfg.weights)
    return model


def sine_position_encoding(padding_mask: Tensor, n_features: int) -> Tensor:
    """Sines and cosines of each cell's row, then of its column, both counted in valid cells and scaled to (0, 2π].

    Args:
        padding_mask: (B, h, w) bool, True on padding, whose encoding is finite and means nothing.
        n_features: per axis, even.
    Returns:
        (B, 2 · n_features, h, w) float32.
    Source: DETR (Carion et al. 2020), `facebookresearch/detr` models/position_encoding.py, with normalisation.
    """
    is_valid = ~padding_mask
    exponents = torch.arange(0, n_features, 2, device=padding_mask.device, dtype=torch.float32) / n_features
    divisors = TEMPERATURE**exponents  # (n_features / 2)
    encoded = []
    for axis in (1, 2):
        count = is_valid.cumsum(axis, dtype=torch.float32)
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        angles = (2 * math.pi * count / (last + EPSILON))[..., None] / divisors  # (B, h, w, n_features / 2)
        encoded.append(torch.stack((angles.sin(), angles.cos()), dim=4).flatten(3))
    return torch.cat(encoded, dim=3).permute(0, 3, 1, 2)


def grid_padding(padding: Tensor, height: int, width: int) -> Tensor:
    """The padding of pixels (B, H, W) on the cells (B, height, width): cell (i, j) reads pixel (iH / h, jW / w)."""
    n_rows, n_columns = padding.shape[1:]
    rows = torch.arange(height, device=padding.device) * n_rows // height
    columns = torch.arange(width, device=padding.device) * n_columns // width
    return padding[:, rows][:, :, columns]


@dataclass(frozen=True)
class IntrOutput(AttentionOutput):
    """With maps comes what saliency needs to explain any class.

    Attributes:
        last_attention: the cross-attention of the last decoder layer.
        grid: h and w.
    """

    last_attention: CrossAttention | None = None
    grid: tuple[int, int] = (0, 0)


class Intr(AttentionModel):
    """A backbone, a transformer with one query per class, and one presence vector that reads every query's answer.

    Cross-attention runs once per layer; a map costs one softmax over its class's row. Maps are named
    `layer_L/WHOSE/HEAD`: L from 1, WHOSE is `predicted`, `true` (the label's) or `class_C` (C from 0), HEAD is `head_N`
    (N from 1) or `mean`. Cells that are padding are 0, the others sum to 1. By default come the heads of the last layer
    for the predicted and, if no label is negative, the true class. Saliency is the mean over heads of the last layer.

    Source: INTR (Paul et al. 2024, arXiv 2311.04157), released code `Imageomics/INTR`. Differences: the mean over heads
        is that of the heads shown (the code attends twice), maps never carry dropout, the final norm is applied to the
        last state alone, and logits are computed in float32.
    """

    channels_last: ClassVar[bool] = True

    def __init__(self, cfg: IntrSettings, heads: Heads) -> None:
        super().__init__()
        self.n_classes, self.n_layers, self.n_heads = heads.n_classes, cfg.n_decoder_layers, cfg.n_heads
        self.backbone = _build_backbone(cfg)
        self.backbone_name = cfg.backbone
        self.pixels = PixelStatistics(cfg.backbone)
        n_channels = int(cast(Any, self.backbone).feature_info[-1]["num_chs"])
        self.input_proj = nn.Conv2d(n_channels, cfg.d_model, kernel_size=1)
        self.query_embed = nn.Embedding(self.n_classes, cfg.d_model)
        self.transformer = Transformer(
            cfg.d_model,
            cfg.n_heads,
            n_encoder_layers=cfg.n_encoder_layers,
            n_decoder_layers=cfg.n_decoder_layers,
            width=cfg.feedforward_width,
            dropout=cfg.dropout,
        )
        self.presence_vector = heads.per_class(cfg.d_model)

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        features = self.features(batch.images)  # (B, C, h, w)
        height, width = features.shape[2:]
        padding = None if batch.padding is None else grid_padding(batch.padding, height, width)
        decoded = self.decode(features, padding)
        head = self.read(decoded.states[-1])  # of (B, n_classes, d)
        valid_hw = None if padding is None else _valid_hw(padding)
        if maps is None:
            return AttentionOutput(head, valid_hw=valid_hw)
        names = maps or self.default_maps(has_labels=batch.has_labels)
        if not batch.has_labels and any("/true/" in name for name in names):
            raise UsageError("maps of the true class need the labels of all images; ask for those of the predicted")
        shown = self._show(names, decoded.attention, logits=head.logits, labels=batch.labels)  # (B, K, h·w)
        return IntrOutput(
            head,
            maps=shown.view(*shown.shape[:2], height, width),
            map_names=names,
            valid_hw=valid_hw,
            last_attention=decoded.attention[-1],
            grid=(height, width),
        )

    def cell_features(self, batch: Batch) -> Tensor:
        """What the classes attend to: (B, d, h, w), the cells after the encoder, where they have seen each other."""
        features = self.features(batch.images)  # (B, C, h, w)
        height, width = features.shape[2:]
        padding = None if batch.padding is None else grid_padding(batch.padding, height, width)
        memory = self.decode(features, padding).memory  # (B, L, d)
        return memory.transpose(1, 2).reshape(len(memory), -1, height, width)

    def features(self, images: Tensor) -> Tensor:
        """The last stage of the backbone, (B, 3, H, W) -> (B, C, h, w).

        Raises:
            ConfigError: the backbone takes no images of this size.
        """
        body = cast(Any, self.backbone)
        pixels = self.pixels(images)
        try:
            return cast(Tensor, body.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)[-1])
        except AssertionError as error:  # so timm refuses a size
            raise ConfigError(
                f"model.backbone {self.backbone_name!r} refuses images of {images.shape[-1]} px ({error}); set "
                "data.image_size_px to the size in its name, or use another backbone"
            ) from error

    def decode(self, features: Tensor, padding: Tensor | None) -> DecoderOutput:
        """Everything between the features (B, C, h, w) with their padding (B, h, w) and the presence vector."""
        cells = self.input_proj(features)  # (B, d, h, w)
        n_images, d_model, height, width = cells.shape
        is_padding = (
            torch.zeros(1, height, width, dtype=torch.bool, device=cells.device) if padding is None else padding
        )
        positions = sine_position_encoding(is_padding, d_model // 2).expand(n_images, -1, -1, -1)
        return cast(
            DecoderOutput,
            self.transformer(
                cells.flatten(2).transpose(1, 2),
                positions.flatten(2).transpose(1, 2),
                self.query_embed.weight,
                padding=None if padding is None else padding.flatten(1),
            ),
        )

    def read(self, states: Tensor) -> HeadOutput:
        """The presence of each class, in float32, of the last decoder states (B, n_classes, d)."""
        with torch.autocast(states.device.type, enabled=False):
            head: HeadOutput = self.presence_vector(self.transformer.decoder.norm(states.float()))
            return head

    def default_maps(self, *, has_labels: bool) -> tuple[str, ...]:
        """All heads of the last layer, for the predicted and, where all labels are known, for the true class."""
        classes = ("predicted", "true") if has_labels else ("predicted",)
        heads = range(1, self.n_heads + 1)
        return tuple(f"layer_{self.n_layers}/{whose}/head_{head}" for whose in classes for head in heads)

    def figure_maps(self, kind: str) -> tuple[str, ...]:
        layers = range(1, self.n_layers + 1) if kind == "layers" else ()
        return tuple(f"layer_{layer}/predicted/mean" for layer in layers)

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        if not isinstance(output, IntrOutput) or output.last_attention is None:
            raise UsageError("saliency needs the cross-attention of the last layer: call forward with maps=()")
        return output.last_attention.weights(target).mean(dim=1).view(-1, *output.grid)  # (B, h, w)

    def _show(
        self, names: tuple[str, ...], attention: tuple[CrossAttention, ...], *, logits: Tensor, labels: Tensor
    ) -> Tensor:
        """The named maps, (B, K, L) float32; all heads of a layer and class are computed together."""
        computed: dict[tuple[int, str], Tensor] = {}
        shown = []
        for name in names:
            layer, whose, head = self._parse(name)
            if (layer, whose) not in computed:
                computed[layer, whose] = attention[layer - 1].weights(_class_index(whose, logits, labels))
            heads = computed[layer, whose]  # (B, H, L)
            shown.append(heads.mean(dim=1) if head is None else heads[:, head - 1])
        return torch.stack(shown, dim=1)

    def _parse(self, name: str) -> tuple[int, str, int | None]:
        """Layer from 1, whose class, head from 1 or None for their mean."""
        if match := MAP_NAME.fullmatch(name):
            layer, whose = int(match[1]), match[2]
            head = None if match[3] == "mean" else _number(match[3])
            is_class = not whose.startswith("class_") or _number(whose) < self.n_classes
            if 1 <= layer <= self.n_layers and is_class and (head is None or 1 <= head <= self.n_heads):
                return layer, whose, head
        raise UsageError(
            f"there is no map {name}, only layer_L/WHOSE/HEAD with L up to {self.n_layers}, WHOSE predicted, true or "
            f"class_0 to class_{self.n_classes - 1}, HEAD mean or head_1 to head_{self.n_heads}"
        )


def adapt_detr_state(
    state: Mapping[str, Tensor],
    n_classes: int,
    *,
    noise_fraction: float = 0.1,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """The state of a DETR turned into that of an INTR with another number of queries, under the official names.

    The first queries stay as they are; further ones repeat them with normal noise. DETR's two heads go, and a presence
    vector is drawn, unless the state has one (an INTR of other classes).

    Args:
        noise_fraction: standard deviation of that noise.
        generator: of noise and presence vector, on the CPU; None is torch's global one.
    Raises:
        ConfigError: the state has no queries.
    Source: INTR's released code; the noise is drawn here, so that all processes of one seed start alike.
    """
    if "query_embed.weight" not in state:
        raise ConfigError("the weights have no query_embed.weight, so they are not those of a DETR; use detr-r50")
    source = state["query_embed.weight"]
    n_source, d_model = source.shape
    queries = source[torch.arange(n_classes) % n_source].clone()
    if n_classes > n_source:
        queries[n_source:] += noise_fraction * torch.randn(n_classes - n_source, d_model, generator=generator)
    adapted = {name: tensor for name, tensor in state.items() if not name.startswith(DETR_HEADS)}
    bound = math.sqrt(6 / (d_model + 1))  # Xavier
    presence = (2 * torch.rand(1, d_model, generator=generator) - 1) * bound
    return {
        "presence_vector.weight": presence,
        "presence_vector.bias": torch.zeros(1),
        **adapted,
        "query_embed.weight": queries,
    }


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state under the names of INTR's released code -> under ours; only those of the backbone differ."""
    return {renamed(name, [(OFFICIAL_BODY, OWN_BODY)]): tensor for name, tensor in state.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official`; counters of batch norm go, which frozen ones do not have."""
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    return {renamed(name, [(OWN_BODY, OFFICIAL_BODY)]): state[name] for name in names}


def _build_backbone(cfg: IntrSettings) -> nn.Module:
    body = build_any_backbone(cfg)
    if not hasattr(body, "forward_intermediates") or not hasattr(body, "prune_intermediate_layers"):
        raise ConfigError(f"model.backbone {cfg.backbone!r} does not offer its features, use one such as resnet50")
    cast(Any, body).prune_intermediate_layers(1, prune_norm=False, prune_head=True)
    if not cfg.frozen_batch_norm:
        return body
    if not isinstance(body, ResNet):
        raise ConfigError(f"model.frozen_batch_norm needs a ResNet, got {cfg.backbone!r}; set it to false")
    for part in (body.conv1, body.layer1):
        part.requires_grad_(False)
    return cast(nn.Module, cast(Any, freeze_batch_norm_2d)(body))


def _valid_hw(padding: Tensor) -> Tensor:
    """(B, h, w) -> (B, 2) rows and columns that are not padding."""
    return torch.stack([(~padding).any(dim=axis).sum(dim=1) for axis in (2, 1)], dim=1)


def _class_index(whose: str, logits: Tensor, labels: Tensor) -> Tensor:
    """(B,) int64."""
    if whose == "predicted":
        return logits.argmax(dim=1)
    if whose == "true":
        return labels
    return torch.full_like(labels, _number(whose))


def _number(text: str) -> int:
    return int(text.rpartition("_")[2])
