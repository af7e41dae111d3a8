"""What a kept checkpoint says of each image of a split: the logits of the model and of its branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.data.progress import with_bar
from attnsearch.device import set_threads
from attnsearch.evaluation.collect import load_model, open_loader
from attnsearch.models.kept import read_kept
from attnsearch.models.weights import check_class_names
from attnsearch.types import Split

COMBINED = "combined"
"""The model's own prediction, beside those of its branches."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of one split under one checkpoint, on the CPU.

    Attributes:
        labels: (N,) int64.
        logits: head -> (N, n_classes) float32; `combined` is the model's own answer, the others are its branches.
    """

    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Tensor
    logits: Mapping[str, Tensor]
    epoch: int
    split: Split


@torch.no_grad()
def predict_split(
    config: ExperimentConfig,
    checkpoint: Path,
    data: DataSource,
    split: Split,
    *,
    check: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> Predictions:
    """Classifies a split in file order, in the arithmetic of the run's validation.

    Args:
        config: of the run; its data and runtime settings may differ from those of the checkpoint.
        check: called between batches.
    Raises:
        ConfigError: the checkpoint is missing or does not fit the model.
        DataError: it has other classes, or there is no such split.
    """
    kept, table = read_kept(checkpoint), data.tables.of(split)
    check_class_names(table.class_names, kept.class_names, str(checkpoint))
    set_threads(config.runtime.n_threads)
    model, arithmetic = load_model(config, kept)
    loader = open_loader(config, kept, data, split, model=model, device=arithmetic.device)
    parts: dict[str, list[Tensor]] = {}
    for batch in with_bar(loader.epoch(kept.epoch), f"Classifying {split}", n_steps=len(loader), force=progress):
        check()
        with arithmetic.autocast():
            output = model(arithmetic.place_images(batch))
        for name, logits in {COMBINED: output.logits, **output.extra_logits}.items():
            parts.setdefault(name, []).append(logits.float().cpu())
    joined = {name: torch.cat(logits) for name, logits in parts.items()}
    return Predictions(
        table.image_ids, table.class_names, torch.from_numpy(table.labels), joined, kept.epoch, table.split
    )
