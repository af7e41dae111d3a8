"""The checkpoint of a best epoch, with the run that made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import parse_experiment
from attnsearch.errors import ConfigError, MissingPlugin
from attnsearch.models import build_model
from attnsearch.models.base import AttentionModel, Heads
from attnsearch.models.weights import load_into, read_checkpoint, save_checkpoint


@dataclass(frozen=True)
class ModelCheckpoint:
    """The weights of one epoch (from 1) and what they belong to.

    Attributes:
        class_names: in the order of the logits.
        accumulation: parts that a batch was worked on in, which memory may have forced above the config's.
        val_hash: of the images that the epoch was chosen on, see `DataTables.val_hash`.
    """

    path: Path
    config: ExperimentConfig
    class_names: tuple[str, ...]
    epoch: int
    accumulation: int
    val_hash: str
    state: dict[str, Tensor]

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


def write_model_checkpoint(
    path: Path,
    model: AttentionModel,
    *,
    config: ExperimentConfig,
    class_names: tuple[str, ...],
    epoch: int,
    accumulation: int,
    val_hash: str,
    check: Callable[[], None] | None = None,
) -> None:
    """Writes the checkpoint, whole or not at all.

    Args:
        check: called before the rename; if it raises, the old file stays.
    Raises:
        StoreError: the disk refuses.
    """
    metadata = {
        "class_names": json.dumps(class_names),
        "config": config.model_dump_json(),
        "epoch": str(epoch),
        "accumulation": str(accumulation),
        "val_hash": val_hash,
    }
    save_checkpoint(path, model, metadata, before_rename=check)


def read_model_checkpoint(path: str | Path) -> ModelCheckpoint:
    """Reads what `write_model_checkpoint` wrote.

    Raises:
        ConfigError: the file is missing, broken, or holds a config that this version cannot read.
    """
    state, metadata = read_checkpoint(path)
    try:
        config = parse_experiment(metadata["config"])
        class_names = tuple(str(name) for name in json.loads(metadata["class_names"]))
        epoch = int(metadata["epoch"])
        accumulation = int(metadata.get("accumulation", config.train.accumulation))
    except MissingPlugin as error:
        raise MissingPlugin(f"{path}: {error}") from error
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        reason = "; ".join(str(error).splitlines())
        raise ConfigError(f"{path} holds settings that this version cannot read ({reason}); train it again") from error
    return ModelCheckpoint(Path(path), config, class_names, epoch, accumulation, metadata.get("val_hash", ""), state)
