"""Maps that every table of scores should be read against: floors without a model, and post-hoc maps of the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.errors import ConfigError, UsageError, suggest
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.similarity import pair_map
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.removal import upscale_cells
from attnsearch.models.backbones.vit import OverlappingPatches
from attnsearch.models.base import AttentionModel
from attnsearch.models.dcal import Dcal
from attnsearch.tasks.base import Target
from attnsearch.tasks.retrieval import SimilarityTarget
from attnsearch.types import Batch

FLOORS = ("random", "centre", "uniform", "edges")
"""Maps that do not depend on the model; `uniform` is undefined in every metric of order."""
CAMS = {"gradcam": "GradCAM", "gradcam_plus_plus": "GradCAMPlusPlus", "layercam": "LayerCAM", "eigencam": "EigenCAM"}
"""Name -> class in the package `grad-cam`, which is an optional extra."""
PARTS = "parts"
"""The true masks of the discriminative parts: what a perfect map would show."""
OCCLUSION: Final = "occlusion"
"""By how much the followed score falls without each cell, which costs a forward pass per cell."""
PAIR = "pair"
"""What each cell adds to the similarity of a match, see `evaluation.similarity`."""
BASELINES = (*FLOORS, PARTS, OCCLUSION, *CAMS, "rollout", "gradient_rollout", PAIR)
Arrange = Callable[[Tensor], Tensor]
_CENTRE_SIGMA = 0.25  # of the side
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def baseline_saliency(
    name: str, inference: InferenceModel, batch: Batch, target: Target, grid: tuple[int, int]
) -> Tensor:
    """The baseline maps of the images of a batch. Of mirror images that are averaged, only `pair` sees both.

    Args:
        name: one of `BASELINES` but `occlusion`, see `occlusion_saliency`.
        target: what maps that depend on it explain.
        grid: h and w.
    Returns:
        (B, h, w) float32, not negative. `random` depends on the image's id alone.
    Raises:
        ConfigError: an unknown name, a model that cannot have the baseline, or `grad-cam` is not installed.
    """
    model = inference.model
    if name in CAMS:
        return _cam(name, model, batch, target, grid)
    if name == "rollout":
        return _rollout(model, batch, grid)
    if name == "gradient_rollout":
        return _gradient_rollout(model, batch, target, grid)
    if name == PAIR:
        return _pair(inference, batch, target, grid)
    check_names([name])
    if name == "edges":
        return _edges(batch, grid)
    if name == PARTS:
        return _parts(batch, grid)
    return model_free_maps(name, batch.image_ids, grid).to(batch.images.device)


def check_names(names: Iterable[str]) -> None:
    """Checks the names of baselines.

    Raises:
        ConfigError: one is unknown; the message lists all.
    """
    for name in names:
        if name not in BASELINES:
            raise ConfigError(
                f"unknown baseline {name!r}{suggest(name, list(BASELINES))}; known: {', '.join(BASELINES)}"
            )


def model_free_maps(name: str, image_ids: Sequence[str], grid: tuple[int, int]) -> Tensor:
    """The maps (N, h, w) of a floor that sees no image: `random`, `centre` or `uniform`."""
    if name == "random":
        return torch.stack([_random(image_id, grid) for image_id in image_ids])
    one = _centre(grid) if name == "centre" else torch.ones(grid)
    return one.repeat(len(image_ids), 1, 1)


def _random(image_id: str, grid: tuple[int, int]) -> Tensor:
    """(h, w), drawn from a generator that the id alone seeds."""
    digest = hashlib.sha256(image_id.encode(errors="surrogateescape")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(grid, generator=generator)


def _centre(grid: tuple[int, int]) -> Tensor:
    """A Gaussian around the middle of the image: (h, w)."""
    y, x = (((torch.arange(n) + 0.5) / n - 0.5) / _CENTRE_SIGMA for n in grid)
    return torch.exp(-0.5 * (y[:, None] ** 2 + x[None, :] ** 2))


def _edges(batch: Batch, grid: tuple[int, int]) -> Tensor:
    """Mean length of the Sobel gradient of the grey image in each cell, (B, h, w)."""
    images = batch.images.float()
    grey = (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    kernel = images.new_tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])  # (B, 2, H, W)
    return F.adaptive_avg_pool2d(gradient.norm(dim=1, keepdim=True), grid)[:, 0]


def _parts(batch: Batch, grid: tuple[int, int]) -> Tensor:
    """The fraction of each cell that the masks cover, (B, h, w)."""
    if batch.part_masks is None:
        raise ConfigError(f"baseline {PARTS!r} needs part masks, which this data set does not have; leave it out")
    return F.adaptive_avg_pool2d(batch.part_masks[:, None].float(), grid)[:, 0]


def _rollout(model: AttentionModel, batch: Batch, grid: tuple[int, int]) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020), where the family makes it: (B, h, w)."""
    try:
        with torch.no_grad():
            output = model(batch, maps=("rollout",))
    except ValueError:
        raise ConfigError(
            f"baseline 'rollout': {type(model).__name__} has no plain self-attention to roll out; leave it out"
        ) from None
    return F.adaptive_avg_pool2d(output.maps.float(), grid)[:, 0]


def _gradient_rollout(model: AttentionModel, batch: Batch, target: Target, grid: tuple[int, int]) -> Tensor:
    """Attention rollout weighted by gradients of the target (Chefer et al. 2021), where the family makes it."""
    if not isinstance(model, Dcal):
        raise ConfigError(
            f"baseline 'gradient_rollout': {type(model).__name__} has no plain self-attention to roll out; leave it out"
        )
    return F.adaptive_avg_pool2d(model.gradient_rollout(batch, target.raw_score)[:, None], grid)[:, 0]  # (B, h, w)


def _pair(inference: InferenceModel, batch: Batch, target: Target, grid: tuple[int, int]) -> Tensor:
    """What each cell adds to the similarity that a target explains, zero where it takes away: (B, h, w)."""
    if not isinstance(target, SimilarityTarget):
        raise ConfigError(f"baseline {PAIR!r} explains the similarity of two images, which no class is; leave it out")
    try:
        maps = pair_map(inference, batch, target.references)
    except UsageError as error:
        raise ConfigError(f"baseline {PAIR!r}: {error}") from None
    return F.adaptive_avg_pool2d(maps[:, None], grid)[:, 0].clamp(min=0)


def occlusion_saliency(case: SaliencyCase) -> Tensor:
    """By how much the followed score of each image falls without each cell of a grid alone, zero where it rises.

    Args:
        case: whose maps (B, h, w) have the grid.
    Returns:
        (B, h, w) float32.
    Source: Zeiler and Fergus 2014 (arXiv 1311.2901), section 4.2, with the cells of the map as patches.
    """
    (n_images, *_), (h, w) = case.images.shape, case.saliency.shape[1:]
    numbers = torch.arange(h * w, device=case.images.device)
    cell_of = upscale_cells(numbers.view(h, w), (case.images.shape[2], case.images.shape[3]))  # (H, W)
    rows, cells = torch.arange(n_images, device=numbers.device).repeat_interleave(h * w), numbers.repeat(n_images)
    without = case.without(rows, lambda copies: cell_of == cells[copies][:, None, None])["score"]  # (B · h · w,)
    return (case.untouched[:, None] - without.view(n_images, -1)).view(n_images, h, w).clamp(min=0)


def _cam(name: str, model: AttentionModel, batch: Batch, target: Target, grid: tuple[int, int]) -> Tensor:
    """A class activation map (B, h, w) of the target's raw score, such as the logit of a class."""
    try:
        import pytorch_grad_cam
    except ImportError:
        raise ConfigError(f"baseline {name!r} needs the package grad-cam; install attnsearch[gradcam]") from None
    layer, arrange = find_layer(model, batch, target)
    explained = _RawScore(model, batch, target)
    with (
        torch.enable_grad(),
        getattr(pytorch_grad_cam, CAMS[name])(explained, [layer], reshape_transform=arrange) as cam,
    ):
        maps = cam(input_tensor=batch.images, targets=[lambda score: score] * len(batch.image_ids))
    model.zero_grad(set_to_none=True)
    return F.adaptive_avg_pool2d(torch.from_numpy(maps).float()[:, None], grid)[:, 0].to(batch.images.device)


class _RawScore(nn.Module):
    """What a target makes of the model's output, as a function of images alone."""

    def __init__(self, model: AttentionModel, batch: Batch, target: Target) -> None:
        super().__init__()
        self.model, self._batch, self._target = model, batch, target

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,)."""
        return self._target.raw_score(self.model(replace(self._batch, images=images)))


def find_layer(model: AttentionModel, batch: Batch, target: Target) -> tuple[nn.Module, Arrange]:
    """The last module of the backbone with a grid of the image on which the target depends.

    Where a class token is read, no patch counts after the last attention, so that this is the norm before it. Modules
    inside of an attention are left out: what they make are queries, keys and values.

    Returns:
        The module, and what turns its output into (B, C, h, w).
    Raises:
        ConfigError: the backbone has none.
    """
    backbone = cast(nn.Module, getattr(model, model.backbone_prefix.rstrip("."), model))
    one = batch.take(slice(0, 1))
    one = replace(one, images=one.images.detach().requires_grad_())
    outputs = _GridOutputs(backbone, (one.images.shape[2], one.images.shape[3]))
    hooks = [module.register_forward_hook(outputs.remember) for module in _outside_of_attention(backbone)]
    try:
        with torch.enable_grad():
            score = target.take(slice(0, 1)).raw_score(model(one)).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if (layer := outputs.last_that_moves(score)) is None:
        raise ConfigError(
            f"Grad-CAM needs a layer with a grid of cells that the answer depends on, and {type(model).__name__}'s "
            "backbone has none"
        )
    return layer


def _outside_of_attention(backbone: nn.Module) -> list[nn.Module]:
    """The modules below a backbone that are not part of an attention module."""
    attentions = [module for module in backbone.modules() if "attention" in type(module).__name__.lower()]
    left_out = {inner for module in attentions for inner in module.modules() if inner is not module}
    return [module for module in backbone.modules() if module is not backbone and module not in left_out]


class _GridOutputs:
    """The outputs of modules that have a grid of the image, in the order in which they were made."""

    def __init__(self, backbone: nn.Module, image_hw: tuple[int, int]) -> None:
        modules = list(backbone.modules())
        self._image_hw = image_hw
        known = (getattr(module, "num_prefix_tokens", None) for module in modules)
        self._n_prefix: int = next((n_prefix for n_prefix in known if n_prefix is not None), 1)
        self._patches = next((module for module in modules if isinstance(module, OverlappingPatches)), None)
        self._found: list[tuple[nn.Module, Arrange, Tensor]] = []
        self._last: tuple[int, int] | None = None

    def remember(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        """A forward hook; leaves out a module that returns what the one before made, such as a whole stage."""
        if not isinstance(output, Tensor) or (arrange := self._arrangement(tuple(output.shape))) is None:
            return
        made = (id(output), output._version)  # an activation in place makes another version of the same tensor
        if made != self._last:
            self._found.append((module, arrange, output))
        self._last = made

    def last_that_moves(self, score: Tensor) -> tuple[nn.Module, Arrange] | None:
        """The last module, some cell of whose grid a scalar depends on."""
        outputs = [output for _, _, output in self._found]
        gradients = torch.autograd.grad(score, outputs, allow_unused=True) if outputs else ()
        for (module, arrange, _), gradient in zip(reversed(self._found), reversed(gradients), strict=True):
            if gradient is not None and bool(arrange(gradient).any()):
                return module, arrange
        return None

    def _arrangement(self, shape: tuple[int, ...]) -> Arrange | None:
        """What turns an output of a shape into (B, C, h, w); None where it has no grid of the image."""
        if len(shape) == 4 and _is_grid((shape[2], shape[3]), self._image_hw):
            return _unchanged
        if len(shape) == 4 and _is_grid((shape[1], shape[2]), self._image_hw):
            return _channels_first
        if len(shape) != 3:
            return None
        n_cells = shape[1] - self._n_prefix  # class token and registers come first
        if self._patches is not None:
            grid = self._patches.grid(self._image_hw)
            evenly = partial(self._patches.on_even_cells, image_hw=self._image_hw)
            return partial(_tokens_to_grid, grid=grid, evenly=evenly) if n_cells == grid[0] * grid[1] else None
        whole = _token_grid(n_cells, self._image_hw)
        return None if whole is None else partial(_tokens_to_grid, grid=whole)


def _is_grid(grid: tuple[int, int], image_hw: tuple[int, int]) -> bool:
    """Whether two lengths can be the rows and columns of cells of an image: the same stride in both, but for rounding.

    With strides s, h = H / s and w = W / s up to one cell; so h · W and w · H differ by less than the longer side.
    """
    (h, w), (height, width) = grid, image_hw
    return min(h, w) > 1 and abs(h * width - w * height) < max(height, width)


def _token_grid(n_tokens: int, image_hw: tuple[int, int]) -> tuple[int, int] | None:
    """h and w of the cells of an image that are tokens, of the nearest aspect; None where their number fits no grid."""
    height, width = image_hw
    grids = [(h, n_tokens // h) for h in range(1, n_tokens + 1) if n_tokens % h == 0]
    fitting = [grid for grid in grids if _is_grid(grid, image_hw)]
    return min(fitting, key=lambda grid: abs(grid[0] * width - grid[1] * height), default=None)


def _unchanged(features: Tensor) -> Tensor:
    """(B, C, h, w), as it is."""
    return features


def _channels_first(features: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w)."""
    return features.permute(0, 3, 1, 2)


def _tokens_to_grid(tokens: Tensor, *, grid: tuple[int, int], evenly: Arrange = _unchanged) -> Tensor:
    """(B, T, D) -> (B, D, h, w); tokens that are no cell come first.

    Args:
        evenly: lays cells that overlap on ones that divide the image evenly.
    """
    h, w = grid
    return evenly(tokens[:, -h * w :].permute(0, 2, 1).reshape(len(tokens), -1, h, w))
