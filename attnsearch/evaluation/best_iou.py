"""The intersection over union at one threshold for all images, which is known only when all images are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from attnsearch.metrics.localisation import best_row, iou
from attnsearch.store.scores import ImageScore
from attnsearch.types import Split

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
"""Shares of the map's maximum that are tried; 0.5 is the fixed one."""
FIXED = 0.5
_AT = "@"


def iou_columns(name: str, maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Threshold by threshold, (B,) each: `name` at the fixed one, and columns for `with_best_iou` to choose from."""
    found = {threshold: iou(maps, regions, threshold=threshold) for threshold in THRESHOLDS}
    return {name: found[FIXED], **{f"{name}{_AT}{threshold}": column for threshold, column in found.items()}}


def with_best_iou(
    scores: Sequence[ImageScore], split: Split, known: Mapping[str, float]
) -> tuple[list[ImageScore], dict[str, float]]:
    """Scores with `best_<name>` in the place of the columns of single thresholds, and the threshold of each name.

    Args:
        known: name -> threshold that was chosen on validation. Without one it is chosen here, but on test images, where
            it would flatter: those go without a best one.
    """
    names = dict.fromkeys(column.partition(_AT)[0] for column in scores[0].values if _AT in column)
    chosen = {name: known[name] if name in known else _choose(scores, name) for name in names}
    if split == "test":
        chosen = {name: threshold for name, threshold in chosen.items() if name in known}
    return [_collapsed(score, chosen) for score in scores], chosen


def _choose(scores: Sequence[ImageScore], name: str) -> float:
    found = [[score.values[f"{name}{_AT}{threshold}"] for score in scores] for threshold in THRESHOLDS]
    return THRESHOLDS[best_row(torch.tensor(found, dtype=torch.float64))]


def _collapsed(score: ImageScore, chosen: Mapping[str, float]) -> ImageScore:
    values = {}
    for column, value in score.values.items():
        name, at, _ = column.partition(_AT)
        if not at:
            values[column] = value
        elif name in chosen:
            values[f"best_{name}"] = score.values[f"{name}{_AT}{chosen[name]}"]
    return replace(score, values=values)
