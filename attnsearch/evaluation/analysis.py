"""What the logits of a split say of classes, branches and confidence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.evaluation.predictions import COMBINED, Predictions
from attnsearch.metrics.confusion import (
    ConfusedPair,
    calibration_error,
    class_accuracies,
    class_precisions,
    confusion_matrix,
    most_confused,
    top_k_accuracy,
)

TOP_K = 5


@dataclass(frozen=True)
class HeadRow:
    """One head or branch; `combined` is the model's own answer.

    Attributes:
        top_5: NaN with fewer than six classes, where it says nothing.
        mean_class_accuracy: over the classes that have images.
        calibration_error: expected, see `metrics.confusion.calibration_error`.
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
    """One class; accuracy is NaN without images, precision where it is never predicted."""

    name: str
    n_images: int
    n_predicted: int
    accuracy: float
    precision: float


@dataclass(frozen=True, eq=False)
class Analysis:
    """Of the combined prediction, but for `heads`, which has a row for each branch too.

    Attributes:
        matrix: (n_classes, n_classes) counts, true classes in rows.
    """

    class_names: tuple[str, ...]
    heads: tuple[HeadRow, ...]
    classes: tuple[ClassRow, ...]
    matrix: NDArray[np.int64]

    def pairs(self, n_pairs: int) -> list[ConfusedPair]:
        """The most confused pairs of classes, worst first."""
        return most_confused(self.matrix, n_pairs=n_pairs)


def analyse_predictions(predictions: Predictions) -> Analysis:
    """The analysis of one split under one checkpoint."""
    labels = predictions.labels.numpy()
    heads = tuple(_head(name, logits.numpy(), labels) for name, logits in predictions.logits.items())
    names = predictions.class_names
    matrix = confusion_matrix(labels, predictions.logits[COMBINED].numpy().argmax(axis=1), len(names))
    accuracies, precisions = class_accuracies(matrix), class_precisions(matrix)
    counts = zip(names, matrix.sum(axis=1), matrix.sum(axis=0), accuracies, precisions, strict=True)
    classes = tuple(ClassRow(name, int(n), int(m), float(right), float(share)) for name, n, m, right, share in counts)
    return Analysis(names, heads, classes, matrix)


def _head(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> HeadRow:
    n_classes = logits.shape[1]
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    predicted = logits.argmax(axis=1)
    confidences = probabilities[np.arange(len(labels)), predicted].astype(np.float32)
    accuracies = class_accuracies(confusion_matrix(labels, predicted, n_classes))
    return HeadRow(
        name=name,
        top_1=top_k_accuracy(logits, labels, 1),
        top_5=top_k_accuracy(logits, labels, TOP_K) if n_classes > TOP_K else math.nan,
        mean_class_accuracy=float(np.nanmean(accuracies)),
        calibration_error=calibration_error(confidences, predicted == labels),
        confidence=float(confidences.mean()),
    )
