"""Where a trial fails, as arrays over the images of an archive: the images to look at first, and classes one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.explorer.archives import ImageScores, OpenArchive
from attnsearch.metrics.classification import ConfusedPair, pairs_of_counts
from attnsearch.results.quality import ENERGY, GAINS
from attnsearch.store.image_scores import ScoreTable

Rows = NDArray[np.int64]
"""(M,) rows of an archive, those to look at first at the front."""
UNKNOWN = -1


@dataclass(frozen=True, eq=False)
class Answers:
    """What a trial answered to the images of a split, one value per image (N).

    Attributes:
        is_judged: False for gallery images, and for queries without a match.
        hits: 1.0 where the most salient cell lies on the object, 0.0 where not, NaN where nothing tells.
        energy, gain: how much of the map lies on the object, and how faithful it is; NaN where not scored.
        energy_name, gain_name: the scores that they are; None where no image has one.
    """

    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    is_judged: NDArray[np.bool_]
    hits: NDArray[np.float64]
    energy: NDArray[np.float64]
    energy_name: str | None
    gain: NDArray[np.float64]
    gain_name: str | None

    @classmethod
    def of(cls, opened: OpenArchive, scores: ImageScores, hits: Sequence[bool | None]) -> Answers:
        """Those of an archive, with its scores and its pointing game."""
        archive = opened.archive
        energy, gain = (next((name for name in names if name in scores.values), None) for names in (ENERGY, GAINS))
        return cls(
            labels=archive.labels,
            predictions=archive.predictions,
            confidences=archive.confidences,
            is_judged=np.array([verdict is not None for verdict in opened.verdicts], dtype=bool),
            hits=np.array([math.nan if hit is None else hit for hit in hits], dtype=np.float64),
            energy=_column(scores, energy, archive.image_ids),
            energy_name=energy,
            gain=_column(scores, gain, archive.image_ids),
            gain_name=gain,
        )

    @property
    def is_correct(self) -> NDArray[np.bool_]:
        """(N,), False for images that are not judged."""
        is_correct: NDArray[np.bool_] = self.is_judged & (self.labels == self.predictions)
        return is_correct

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        """(N,), False for images that are not judged."""
        is_wrong: NDArray[np.bool_] = self.is_judged & (self.labels != self.predictions)
        return is_wrong

    def confident_errors(self) -> Rows:
        """Images that are predicted wrongly, the most confident first."""
        return _sorted(self.is_wrong, -self.confidences)

    @property
    def is_miss(self) -> NDArray[np.bool_]:
        """(N,) whether an image is predicted correctly by a map whose most salient cell lies beside the object."""
        is_miss: NDArray[np.bool_] = self.is_correct & (self.hits == 0)
        return is_miss

    def misplaced(self) -> Rows:
        """Images that are predicted correctly: first the misses, then those with the least energy on the object."""
        chosen = self.is_miss | (self.is_correct & ~np.isnan(self.energy))
        return _sorted(chosen, ~self.is_miss, self.energy, -self.confidences)

    def least_faithful(self) -> Rows:
        """Images whose map is least faithful first."""
        return _sorted(self.is_judged & ~np.isnan(self.gain), self.gain)

    def disagreed(self, others: NDArray[np.int64]) -> Rows:
        """Images of which other trials predict something else, most of them first, then the most confident.

        Args:
            others: (T, N) what each of them predicts, `UNKNOWN` where it says nothing.
        """
        differing = self.n_differing(others)
        return _sorted(self.is_judged & (differing > 0), -differing, -self.confidences)

    def n_differing(self, others: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N,) how many of other trials (T, N) predict something else."""
        return np.asarray(((others != self.predictions) & (others != UNKNOWN)).sum(axis=0), dtype=np.int64)

    def pairs(self, n_pairs: int) -> list[ConfusedPair]:
        """The pairs of classes with the most errors between them, both directions counted, as `most_confused`."""
        labels, predictions = self.labels[self.is_judged], self.predictions[self.is_judged]
        sizes = np.bincount(labels, minlength=1 + int(predictions.max(initial=0)))
        return pairs_of_counts(labels, predictions, np.ones_like(labels), sizes, n_pairs=n_pairs)

    def between(self, first: int, second: int) -> Rows:
        """The images of either class that are taken for the other, the most confident first."""
        there = (self.labels == first) & (self.predictions == second)
        back = (self.labels == second) & (self.predictions == first)
        return _sorted(self.is_wrong & (there | back), -self.confidences)


def _column(scores: ImageScores, name: str | None, image_ids: Sequence[str]) -> NDArray[np.float64]:
    """(N,) one score of each image; NaN where there is none."""
    column: Mapping[str, float] = {} if name is None else scores.values[name]
    return np.array([column.get(image_id, math.nan) for image_id in image_ids], dtype=np.float64)


def _sorted(chosen: NDArray[np.bool_], *keys: NDArray[Any]) -> Rows:
    """The chosen rows by the first key, then the next; NaN last, equal ones in the order of the archive."""
    rows = np.flatnonzero(chosen)
    return rows[np.lexsort([key[rows] for key in reversed(keys)])]


def predictions_of(other: OpenArchive, own: OpenArchive) -> NDArray[np.int64]:
    """(N,) what another trial predicts of the images of an archive, in its labels.

    `UNKNOWN` where the other one has no such image, or no such class by its name.
    """
    label_of = {name: label for label, name in enumerate(own.archive.class_names)}
    own_label = np.array([label_of.get(name, UNKNOWN) for name in other.archive.class_names], dtype=np.int64)
    rows = np.array([other.row_of.get(image_id, UNKNOWN) for image_id in own.archive.image_ids], dtype=np.int64)
    judged = np.array([verdict is not None for verdict in other.verdicts], dtype=bool)
    return np.where((rows >= 0) & judged[rows], own_label[other.archive.predictions[rows]], UNKNOWN)


@dataclass(frozen=True)
class ClassAnswers:
    """What a trial answered to the images of one class.

    Attributes:
        n_correct, n_predicted: images of it that are right, and images of any class that are taken for it.
        confidence: mean over its images; NaN without any.
        confused: other classes and how many images of this one are taken for each, most first.
        gain, gain_error, n_scored: relevance gain of its scored images with its standard error; NaN without any.
    """

    label: int
    n_images: int
    n_correct: int
    n_predicted: int
    confidence: float
    confused: tuple[tuple[int, int], ...]
    gain: float = math.nan
    gain_error: float = math.nan
    n_scored: int = 0

    @property
    def accuracy(self) -> float:
        """NaN without images."""
        return self.n_correct / self.n_images if self.n_images else math.nan

    @property
    def precision(self) -> float:
        """NaN where the class is never predicted."""
        return self.n_correct / self.n_predicted if self.n_predicted else math.nan


def class_answers(answers: Answers, n_classes: int, gains: Mapping[int, ClassGain]) -> list[ClassAnswers]:
    """A row for each class, in the order of their labels."""
    labels, predictions = answers.labels[answers.is_judged], answers.predictions[answers.is_judged]
    n_images, n_predicted = (np.bincount(one, minlength=n_classes) for one in (labels, predictions))
    n_correct = np.bincount(labels[labels == predictions], minlength=n_classes)
    sums = np.bincount(labels, weights=answers.confidences[answers.is_judged], minlength=n_classes)
    confused = _confused(answers)
    return [
        ClassAnswers(label, int(n), int(n_correct[label]), int(n_predicted[label]),
                     float(sums[label] / n) if n else math.nan, tuple(confused.get(label, ())),
                     *gains.get(label, NO_GAIN))
        for label, n in enumerate(n_images.tolist())
    ]  # fmt: skip


def _confused(answers: Answers) -> dict[int, list[tuple[int, int]]]:
    """Label -> the labels that its images are taken for, each with its count, most first."""
    wrong = np.flatnonzero(answers.is_wrong)
    both = np.stack([answers.labels[wrong], answers.predictions[wrong]], axis=1)  # (M, 2)
    found, counts = np.unique(both, axis=0, return_counts=True)
    confused: dict[int, list[tuple[int, int]]] = {}
    for at in np.argsort(-counts, kind="stable").tolist():
        confused.setdefault(int(found[at, 0]), []).append((int(found[at, 1]), int(counts[at])))
    return confused


ClassGain = tuple[float, float, int]
"""A gain, its standard error, and the number of images."""
NO_GAIN: ClassGain = (math.nan, math.nan, 0)


def gains_by_class(table: ScoreTable, opened: OpenArchive) -> dict[int, ClassGain]:
    """Label -> the relevance gain of the scored images of that class, which is a ratio over them."""
    name = next((one for one in GAINS if one in table.values), None)
    if name is None:
        return {}
    labels = np.array(
        [opened.archive.labels[opened.row_of[one]] if one in opened.row_of else UNKNOWN for one in table.image_ids]
    )
    found = {}
    for label in np.unique(labels[labels >= 0]).tolist():
        few = table.among(labels == label)
        found[label] = (few.means()[name], few.standard_errors()[name], len(few.image_ids))
    return found


def mean_saliency(opened: OpenArchive, label: int) -> NDArray[np.float32] | None:
    """(h, w) the mean of the saliency maps of a class, each divided by its sum; None where none is finite."""
    archive = opened.archive
    if archive.saliency is None:
        return None
    maps = np.asarray(archive.saliency[np.flatnonzero(archive.labels == label)], dtype=np.float64)  # (M, h, w)
    sums = maps.sum(axis=(1, 2))
    usable = np.isfinite(sums) & (sums > 0)
    if not usable.any():
        return None
    return np.asarray((maps[usable] / sums[usable, None, None]).mean(axis=0), dtype=np.float32)
