"""Predictions of a split and their analysis: confused classes, accuracies of branches, calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from attnsearch.evaluation.base import ModelOnData
from attnsearch.files import atomic_write, csv_text
from attnsearch.metrics.classification import (
    ConfusedPair,
    calibration_error,
    class_accuracies,
    class_precisions,
    confusion_matrix,
    most_confused,
    top_k_accuracy,
)
from attnsearch.metrics.complexity import entropy, gini, sparsity
from attnsearch.progress import with_bar
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.types import AttentionArchive, Split

COMBINED = "combined"
"""The model's own prediction, beside those of its branches."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of one split under one checkpoint, on the CPU.

    Attributes:
        labels: (N,) int64.
        logits: head -> (N, n_classes) float32; `combined` is the model's prediction, the others are its branches.
    """

    image_ids: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Tensor
    logits: Mapping[str, Tensor]
    epoch: int
    split: Split


def predict_split(opened: ModelOnData, split: Split) -> Predictions:
    """Classifies a split in file order, in the arithmetic of the run's validation.

    Raises:
        DataError: there is no such split.
    """
    table, loader = opened.table(split), opened.loader(split)
    parts: dict[str, list[Tensor]] = {}
    for batch in with_bar(opened.batches(split), f"Classifying {split}", n_steps=len(loader), force=False):
        output = opened.output(batch, maps=None)
        for name, head in {COMBINED: output.head, **output.branches}.items():
            parts.setdefault(name, []).append(head.logits.float().cpu())
    joined = {name: torch.cat(logits) for name, logits in parts.items()}
    labels = torch.from_numpy(table.labels)
    return Predictions(table.image_ids, table.class_names, labels, joined, opened.checkpoint.epoch, split)


TOP_K = 5
_CHUNK_IMAGES = 256


@dataclass(frozen=True)
class BranchRow:
    """One head or branch; `combined` is the model's prediction.

    Attributes:
        top_5: NaN with fewer than six classes, where it is always 1.
        mean_class_accuracy: over the classes that have images.
        calibration_error: expected, see `metrics.classification.calibration_error`.
        confidence: mean probability of the predicted class.
    """

    name: str
    top_1: float
    top_5: float
    mean_class_accuracy: float
    calibration_error: float
    confidence: float


@dataclass(frozen=True)
class ClassRow:
    """One class; accuracy is NaN without images, precision where it is never predicted.

    Attributes:
        closest: the other class with the highest mean probability on this class's images; empty without images.
        closest_probability: that mean.
    """

    name: str
    n_images: int
    n_predicted: int
    accuracy: float
    precision: float
    closest: str
    closest_probability: float


@dataclass(frozen=True)
class QueryRow:
    """One class query of an INTR, and the query that is most like it, by cosine."""

    name: str
    most_similar: str
    similarity: float


@dataclass(frozen=True)
class MapRow:
    """One of the maps that a model makes of each image, such as a head; means over images.

    Attributes:
        overlap: mean cosine with the other maps of the same image; NaN where there is no other.
    """

    name: str
    sparsity: float
    gini: float
    entropy: float
    overlap: float


@dataclass(frozen=True, eq=False)
class ConfusionReport:
    """Of the combined prediction, but for `heads`, which has a row for each branch too.

    Attributes:
        matrix: (n_classes, n_classes) counts, true classes in rows.
    """

    class_names: tuple[str, ...]
    heads: tuple[BranchRow, ...]
    classes: tuple[ClassRow, ...]
    matrix: NDArray[np.int64]

    def pairs(self, n_pairs: int) -> list[ConfusedPair]:
        """The most confused pairs of classes, worst first."""
        return most_confused(self.matrix, n_pairs=n_pairs)


def analyse_predictions(predictions: Predictions) -> ConfusionReport:
    """The analysis of one split under one checkpoint."""
    labels = predictions.labels.numpy()
    heads = tuple(_head(name, logits.numpy(), labels) for name, logits in predictions.logits.items())
    names, logits = predictions.class_names, predictions.logits[COMBINED].numpy()
    matrix = confusion_matrix(labels, logits.argmax(axis=1), len(names))
    return ConfusionReport(
        names, heads, _class_rows(names, matrix, _closest(softmax(logits.astype(np.float64), axis=1), labels)), matrix
    )


def _class_rows(
    names: tuple[str, ...], matrix: NDArray[np.int64], closest: list[tuple[int, float]]
) -> tuple[ClassRow, ...]:
    """A row per class of a confusion matrix (n_classes, n_classes), with the class that each is closest to."""
    counts = matrix.sum(axis=1), matrix.sum(axis=0), class_accuracies(matrix), class_precisions(matrix)
    return tuple(
        ClassRow(name, int(n), int(m), float(right), float(precision), names[other] if other >= 0 else "", probability)
        for name, n, m, right, precision, (other, probability) in zip(names, *counts, closest, strict=True)
    )


def _closest(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[int, float]]:
    """For each class the one with the next highest mean of probabilities (N, n_classes); (-1, NaN) without images."""
    closest = []
    for label in range(probabilities.shape[1]):
        of_class = probabilities[labels == label]
        if not len(of_class):
            closest.append((-1, math.nan))
            continue
        mean = of_class.mean(axis=0)
        mean[label] = -1.0
        closest.append((int(mean.argmax()), float(mean.max())))
    return closest


def similar_queries(queries: Tensor, class_names: tuple[str, ...]) -> tuple[QueryRow, ...]:
    """For each class query (n_classes, d) of an INTR, the one that is most like it."""
    unit = torch.nn.functional.normalize(queries.double(), dim=1)
    cosines = (unit @ unit.T).fill_diagonal_(-2.0)
    best, others = cosines.max(dim=1)
    pairs = zip(class_names, others.tolist(), best.tolist(), strict=True)
    return tuple(QueryRow(name, class_names[other], cosine) for name, other, cosine in pairs)


def describe_maps(archive: AttentionArchive) -> tuple[MapRow, ...]:
    """What each of the model's maps is like, on the images of an archive; none where it makes only one."""
    if archive.maps is None or archive.maps.shape[1] < 2:
        return ()
    parts = [_map_scores(torch.from_numpy(np.array(archive.maps[start : start + _CHUNK_IMAGES])))
             for start in range(0, len(archive.maps), _CHUNK_IMAGES)]  # fmt: skip
    means = torch.cat(parts, dim=2).nanmean(dim=2).tolist()  # (4, K)
    return tuple(MapRow(name, *row) for name, *row in zip(archive.map_names, *means, strict=True))


def _map_scores(maps: Tensor) -> Tensor:
    """Sparsity, Gini, entropy and overlap of each map (B, K, h, w), as (4, K, B)."""
    n_images, n_maps = maps.shape[:2]
    flat = maps.clamp_min(0).flatten(0, 1)
    scores = [score.view(n_images, n_maps) for score in (sparsity(flat[:, None], None), gini(flat), entropy(flat))]
    unit = torch.nn.functional.normalize(maps.flatten(2).double(), dim=2)
    overlap = ((unit @ unit.transpose(1, 2)).sum(dim=2) - unit.square().sum(dim=2)) / (n_maps - 1)
    return torch.stack([score.double().T for score in (*scores, overlap)])


def _head(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> BranchRow:
    """The numbers of one branch, from logits (N, n_classes) and labels (N,)."""
    n_classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    confidences = softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), predicted].astype(np.float32)
    accuracies = class_accuracies(confusion_matrix(labels, predicted, n_classes))
    return BranchRow(
        name=name,
        top_1=top_k_accuracy(logits, labels, 1),
        top_5=top_k_accuracy(logits, labels, TOP_K) if n_classes > TOP_K else math.nan,
        mean_class_accuracy=float(np.nanmean(accuracies)),
        calibration_error=calibration_error(confidences, predicted == labels),
        confidence=float(confidences.mean()),
    )


def write_report(
    files: TrialLayout,
    split: Split,
    report: ConfusionReport,
    *,
    maps: Sequence[MapRow] = (),
    queries: Sequence[QueryRow] = (),
) -> tuple[Path, ...]:
    """Writes the tables of a report into the folder of a trial; those of maps and queries where there are any.

    Raises:
        StoreError: the disk refuses.
    """
    matrix = [["true class", *report.class_names]]
    matrix += [[name, *map(str, row)] for name, row in zip(report.class_names, report.matrix.tolist(), strict=True)]
    columns = ("name", "n_images", "n_predicted", "accuracy", "precision")
    classes = [["class_name", *columns[1:]]]
    classes += [[_cell(getattr(row, column)) for column in columns] for row in report.classes]
    tables = {files.table_csv("confusion", split): matrix, files.table_csv("classes", split): classes}
    for path, rows in ((files.table_csv("maps", split), maps), (files.queries_csv(), queries)):
        if rows:
            tables[path] = [list(vars(rows[0])), *([_cell(cell) for cell in vars(row).values()] for row in rows)]
    for path, table in tables.items():
        atomic_write(path, csv_text(table))
    return tuple(tables)


def _cell(value: str | int | float) -> str:
    """Floats keep all their digits; an undefined one is an empty cell."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)
