"""Checkpoints: of a best epoch with the run that made it, and in the layouts of the models' authors."""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import parse_experiment
from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError, DataError, MissingPlugin
from attnsearch.files import atomic_write
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel, Heads
from attnsearch.models.intr import Intr, from_official, to_official
from attnsearch.models.weights import first_names, load_file, load_into, read_checkpoint, renamed, save_checkpoint

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


@dataclass(frozen=True)
class ModelCheckpoint:
    """The weights of one epoch (from 1) and what they belong to.

    Attributes:
        class_names: in the order of the logits.
        accumulation: parts that a batch was worked on in, which memory may have forced above the config's.
        val_hash: of the images that the epoch was chosen on, see `DataTables.val_hash`.
        camera_names: of the training data, in the order of the model's vectors; none where cameras were not known, and
            in checkpoints of older versions.
    """

    path: Path
    config: ExperimentConfig
    class_names: tuple[str, ...]
    epoch: int
    accumulation: int
    val_hash: str
    state: dict[str, Tensor]
    camera_names: tuple[str, ...] = ()

    def build_model(self, heads: Heads) -> AttentionModel:
        """The model with these weights, on the CPU.

        Args:
            heads: of the task that the checkpoint's own config names.
        Raises:
            ConfigError: the weights do not fit the model that the checkpoint's own config describes.
        """
        model = build_model(self.config.model, heads, load_weights=False)
        load_into(model, self.state, str(self.path))
        return model


def write_model_checkpoint(checkpoint: ModelCheckpoint, *, check: Callable[[], None] | None = None) -> None:
    """Writes the checkpoint to its path, whole or not at all.

    Args:
        check: called before the rename; if it raises, the old file stays.
    Raises:
        StoreError: the disk refuses.
    """
    metadata = {
        "class_names": json.dumps(checkpoint.class_names),
        "camera_names": json.dumps(checkpoint.camera_names),
        "config": checkpoint.config.model_dump_json(),
        "epoch": str(checkpoint.epoch),
        "accumulation": str(checkpoint.accumulation),
        "val_hash": checkpoint.val_hash,
    }
    save_checkpoint(checkpoint.path, checkpoint.state, metadata, before_rename=check)


def read_model_checkpoint(path: str | Path) -> ModelCheckpoint:
    """Reads what `write_model_checkpoint` wrote.

    Raises:
        ConfigError: the file is missing, broken, or holds a config that this version cannot read.
    """
    state, metadata = read_checkpoint(path)
    try:
        config = parse_experiment(metadata["config"])
        class_names = _names(metadata["class_names"])
        camera_names = _names(metadata.get("camera_names", "[]"))
        epoch = int(metadata["epoch"])
        accumulation = int(metadata.get("accumulation", config.train.accumulation))
    except MissingPlugin as error:
        raise MissingPlugin(f"{path}: {error}") from error
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise ConfigError(f"{path} holds settings that this version cannot read ({reason}); train it again") from error
    val_hash = metadata.get("val_hash", "")
    return ModelCheckpoint(Path(path), config, class_names, epoch, accumulation, val_hash, state, camera_names)


def _names(text: str) -> tuple[str, ...]:
    """Those in a JSON list."""
    return tuple(str(name) for name in json.loads(text))


def check_class_names(expected: tuple[str, ...], names: tuple[str, ...], source: str) -> None:
    """Compares ordered class names by name.

    Args:
        expected: the names of the data at hand.
        names: those in `source`, a checkpoint.
    Raises:
        DataError: they differ; the first ten differences stand side by side, with the class index.
    """
    if expected == names:
        return
    raise DataError(
        f"the data has {len(expected)} classes and {source} has {len(names)}, and they differ "
        f"(index: data | {source}): {_differences(expected, names)}; use the data it was trained on, or train a new "
        "classifier on its backbone with model.weights=FILE"
    )


def check_camera_names(expected: tuple[str, ...], names: tuple[str, ...], source: str) -> None:
    """Checks that each camera of the data has the vector that the model learned for it.

    Args:
        expected: the names of the data at hand, in the order of their positions.
        names: those in `source`, a checkpoint.
    Raises:
        DataError: the model does not know some cameras, which are named, or knows others at their positions.
    """
    known = names[: len(expected)]
    if expected == known:
        return
    if unknown := [name for name in expected if name not in names]:
        raise DataError(
            f"{source} has no vectors of the cameras {first_names(unknown)}, only of {first_names(list(names))}; leave "
            "out the images of the others, or train with model.n_cameras=null"
        )
    raise DataError(
        f"the data has other cameras at the positions of {source} (position: data | {source}): "
        f"{_differences(expected, known)}; use data with images of each, or train with model.n_cameras=null"
    )


def _differences(expected: tuple[str, ...], names: tuple[str, ...]) -> str:
    """The first differences of two lists of names, side by side with their positions."""
    pairs = enumerate(zip_longest(expected, names))
    return first_names([f"{index}: {left!r} | {right!r}" for index, (left, right) in pairs if left != right])


def import_checkpoint(family: Family, path: str | Path, heads: Heads, config: ModelConfig) -> AttentionModel:
    """A model with the weights that other code has trained, on the CPU.

    Args:
        family: whose code: `intr` writes a dict with `model` and an `argparse.Namespace`, which is the one class that
            is let through; `loupe` a state dict, `best_model.pth`; `br_npa` a state dict,
            `model<id>_best_epoch<E>`, of a `br_npa`, `b_cnn` or `cnn`.
        heads, config: of the model; the weights that the config names are not loaded.
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
    return model


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
        return {renamed(name, _LOUPE_NAMES): tensor for name, tensor in weights.items()}
    weights = {name: tensor for name, tensor in state.items() if not name.startswith(_BR_NPA_CLASSIFIER)}
    return {renamed(name, _BR_NPA_NAMES): tensor for name, tensor in weights.items()}


def _check_n_classes(state: dict[str, Tensor], n_classes: int, path: str | Path) -> None:
    classifier = next((state[name] for name in _CLASSIFIERS if name in state), None)
    if classifier is not None and len(classifier) != n_classes:
        raise ConfigError(
            f"{path} has {len(classifier)} classes, and {n_classes} are named; give the classes it was trained on "
            "(--classes), then start a run on yours from its backbone with model.weights=IMPORTED"
        )
