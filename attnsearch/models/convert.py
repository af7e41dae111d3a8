"""Checkpoints in the layouts of other code: those that the models' authors publish in, out in that of INTR."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Literal

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel, Heads
from attnsearch.models.intr import Intr, from_official, to_official
from attnsearch.models.weights import load_file, load_into

Family = Literal["intr", "loupe", "br_npa"]

#: Foreign code -> the model families whose checkpoints it writes.
_MEMBERS: dict[Family, tuple[str, ...]] = {
    "intr": ("intr",),
    "loupe": ("loupe",),
    "br_npa": ("br_npa", "b_cnn", "cnn"),
}
#: Beginnings of foreign names and of ours.
_LOUPE_NAMES = (
    ("loupe.", "gate."),
    ("head.", "head."),
    ("patch_embed.", "backbone.patch_embed."),
    ("layers.", "backbone.layers."),
    ("norm.", "backbone.norm."),
)
_BR_NPA_NAMES = (
    ("backbone.featMod.", "backbone."),
    ("backbone.attention.", "attention."),
    ("classificationHead.linLay.", "head."),
    *((f"classificationHead.lin{name}.", f"auxiliary.{name}.") for name in ("01", "12", "0", "1", "2")),
)
#: What older versions of timm and torchvision store and nothing needs.
_LOUPE_BUFFERS = ("attn_mask", "relative_position_index")
#: What has one row per class: INTR's queries, the others' classifier.
_CLASSIFIERS = ("query_embed.weight", "head.weight")
_BR_NPA_CLASSIFIER = "backbone.featMod.fc."


def import_checkpoint(family: Family, path: str | Path, heads: Heads, config: ModelConfig) -> dict[str, Tensor]:
    """The whole state, under our names, of a model that other code has trained.

    Args:
        family: whose code: `intr` writes a dict with `model` and an `argparse.Namespace`, which is the one class that
            is let through; `loupe` a state dict, `best_model.pth`; `br_npa` a state dict,
            `model<id>_best_epoch<E>`, of a `br_npa`, `b_cnn` or `cnn`.
        heads: of the model to fill.
        config: of the model to fill; its weights are not loaded.
    Raises:
        ConfigError: the config is of another family, the file is missing, broken or would run code, has another number
            of classes, or does not fit the model; the message lists names that are missing, unexpected or misshapen.
    """
    if config.name not in _MEMBERS[family]:
        raise ConfigError(
            f"a checkpoint of {family} does not fit a model of the family {config.name!r}; use a config of "
            f"{' or '.join(_MEMBERS[family])}"
        )
    state = _read(family, path)
    _check_n_classes(state, heads.n_classes, path)
    model = build_model(config, heads, load_weights=False)
    load_into(model, state, str(path))
    return model.state_dict()


def export_intr(model: AttentionModel, path: Path) -> None:
    """Writes an INTR as its authors' code reads it with `--eval --resume`: `{"model": state}`, without optimizer.

    Raises:
        ConfigError: the model is no INTR on a ResNet with the plain stem, which is all that code knows.
        StoreError: the disk refuses.
    """
    body = model.get_submodule("backbone")
    if not (isinstance(model, Intr) and isinstance(body, ResNet) and isinstance(body.conv1, nn.Conv2d)):
        raise ConfigError(
            "only an intr on a backbone such as resnet50 has the layout of INTR's authors, got "
            f"{type(model).__name__} on {type(body).__name__}"
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in to_official(model.state_dict()).items()}
    content = io.BytesIO()
    torch.save({"model": state}, content)
    atomic_write(path, content.getvalue())


def _read(family: Family, path: str | Path) -> dict[str, Tensor]:
    """A foreign state under our names; names without a rule stay as they are and are reported later."""
    if family == "intr":
        with torch.serialization.safe_globals([argparse.Namespace]):
            return from_official(load_file(path))
    state = load_file(path)
    if family == "loupe":
        weights = {name: tensor for name, tensor in state.items() if not name.endswith(_LOUPE_BUFFERS)}
        return {_renamed(name, _LOUPE_NAMES): tensor for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in state.items() if not name.startswith(_BR_NPA_CLASSIFIER)}
    return {_renamed(name, _BR_NPA_NAMES): tensor for name, tensor in weights.items()}


def _check_n_classes(state: dict[str, Tensor], n_classes: int, path: str | Path) -> None:
    classifier = next((state[name] for name in _CLASSIFIERS if name in state), None)
    if classifier is not None and len(classifier) != n_classes:
        raise ConfigError(
            f"{path} has {len(classifier)} classes, and {n_classes} are named; give the classes it was trained on "
            "(--classes), then start a run on yours from its backbone with model.weights=IMPORTED"
        )


def _renamed(name: str, beginnings: tuple[tuple[str, str], ...]) -> str:
    for foreign, own in beginnings:
        if name.startswith(foreign):
            return own + name.removeprefix(foreign)
    return name
