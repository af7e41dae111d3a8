"""Which images are drawn: by id or path, some of each class, the most or least faithful, a confused pair, by chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attnsearch.data.layouts import SUFFIXES
from attnsearch.data.tables import ImageTable
from attnsearch.errors import ConfigError, suggest
from attnsearch.metrics.classification import confusion_matrix, most_confused
from attnsearch.metrics.registry import higher_is_better
from attnsearch.store.image_scores import ScoreTable
from attnsearch.types import AttentionArchive, Retrieval

DEFAULT_IMAGES, DEFAULT_QUERIES = 12, 4


@dataclass(frozen=True)
class ImageSelection:
    """What is asked for; several ways add up, and nothing means twelve images spread over the split, or four queries.

    Attributes:
        images: ids of the split, files, or folders of images.
        classes: only these; empty means all.
        per_class, most_faithful, least_faithful, confused: how many, 0 for none.
        by: the score that tells how faithful a map is.
        worst: how many queries with the lowest average precision.
        random: how many by chance, under the seed.
        other: id or file of the image that all are compared with; empty means the nearest ones.
    """

    images: Sequence[str] = ()
    classes: Sequence[str] = ()
    per_class: int = 0
    most_faithful: int = 0
    least_faithful: int = 0
    confused: int = 0
    by: str = "relevance_gain"
    worst: int = 0
    random: int = 0
    seed: int = 0
    other: str = ""

    @property
    def names_no_images(self) -> bool:
        """Whether no way of selecting is used but that of classes."""
        counts = (self.per_class, self.confused, self.most_faithful, self.least_faithful, self.worst, self.random)
        return not (self.images or any(counts))


@dataclass(frozen=True)
class ImageIndex:
    """The images of a split, with their classes and, where a model has seen them, its predictions.

    Attributes:
        precision: average precision of each image, NaN where it is no query with a match; None in classification.
    """

    image_ids: Sequence[str]
    true: Sequence[str]
    predicted: Sequence[str] | None = None
    precision: Sequence[float] | None = None

    @classmethod
    def of_archive(cls, archive: AttentionArchive) -> ImageIndex:
        names, retrieval = archive.class_names, archive.retrieval
        measured = {} if retrieval is None else _precision_of(retrieval)
        return cls(
            archive.image_ids,
            [names[int(label)] for label in archive.labels],
            [names[int(label)] for label in archive.predictions],
            None if retrieval is None else [measured.get(image_id, math.nan) for image_id in archive.image_ids],
        )

    @classmethod
    def of_queries(cls, retrieval: Retrieval) -> ImageIndex:
        """All queries of a split, whose predictions are the identities of their nearest gallery images."""
        names, rows = retrieval.identities, np.flatnonzero(retrieval.is_query)
        nearest = np.where(retrieval.ranked_rows[:, 0] < 0, rows, retrieval.ranked_rows[:, 0])
        return cls(
            [retrieval.image_ids[row] for row in rows],
            [names[label] for label in retrieval.labels[rows]],
            [names[label] for label in retrieval.labels[nearest]],
            retrieval.average_precision.tolist(),
        )

    @classmethod
    def of_table(cls, table: ImageTable) -> ImageIndex:
        return cls(table.image_ids, [table.class_names[int(label)] for label in table.labels])


def choose(index: ImageIndex, selection: ImageSelection, scores: ScoreTable | None) -> list[str]:
    """Ids of the selected images of a split, without those that are given by `selection.images`; no image is opened.

    Raises:
        ConfigError: an unknown class, faithfulness of images that were not scored, or precision of images that are no
            queries.
    """
    _require_classes(index, selection.classes)
    rows = [row for row, true in enumerate(index.true) if not selection.classes or true in selection.classes]
    if selection.names_no_images:
        selected = _spread(rows, len(rows) if selection.classes else DEFAULT_IMAGES)
    else:
        selected = _spread_per_class(index, rows, selection.per_class)
        selected += _confused(index, selection.confused)
        selected += _by_faithfulness(index, rows, selection, scores)
        selected += _worst(index, rows, selection.worst)
        selected += np.random.default_rng((selection.seed,)).permutation(rows)[: selection.random].tolist()
    return list(dict.fromkeys(index.image_ids[row] for row in selected))


def _precision_of(retrieval: Retrieval) -> dict[str, float]:
    """Query -> average precision."""
    queries = np.flatnonzero(retrieval.is_query)
    return {retrieval.image_ids[row]: float(retrieval.average_precision[place]) for place, row in enumerate(queries)}


def images_at(path: Path) -> list[Path]:
    """An image, or all images of a folder and its sub-folders, by name; hidden ones are passed over.

    Raises:
        ConfigError: a folder without images.
    """
    if not path.is_dir():
        return [path]
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise ConfigError(f"--image {path} holds no image ({' '.join(sorted(SUFFIXES))})")
    return files


def _require_classes(index: ImageIndex, classes: Sequence[str]) -> None:
    names = sorted(set(index.true))
    for name in classes:
        if name not in names:
            raise ConfigError(f"--class {name!r} is not in this split{suggest(name, names)}; known: {', '.join(names)}")


def _spread(rows: Sequence[int], n_wanted: int) -> list[int]:
    """At most so many rows, evenly from first to last."""
    n_wanted = min(n_wanted, len(rows))
    return [rows[(index * len(rows)) // n_wanted] for index in range(n_wanted)]


def _spread_per_class(index: ImageIndex, rows: Sequence[int], n_wanted: int) -> list[int]:
    of_class: dict[str, list[int]] = {}
    for row in rows:
        of_class.setdefault(index.true[row], []).append(row)
    return [row for members in of_class.values() for row in _spread(members, n_wanted)]


def _confused(index: ImageIndex, n_wanted: int) -> list[int]:
    """Errors between the two classes that are confused most."""
    if not n_wanted:
        return []
    names, labels = np.unique([*index.true, *(index.predicted or index.true)], return_inverse=True)
    true, predicted = np.split(labels, 2)
    pairs = most_confused(confusion_matrix(true, predicted, len(names)), n_pairs=1)
    if not pairs:
        raise ConfigError("--confused needs predictions with at least one error; evaluate the trial, or leave it out")
    pair = (pairs[0].first, pairs[0].second)
    is_error = (true != predicted) & np.isin(true, pair) & np.isin(predicted, pair)
    return _spread(np.flatnonzero(is_error).tolist(), n_wanted)


def _worst(index: ImageIndex, rows: Sequence[int], n_wanted: int) -> list[int]:
    """The queries with the lowest average precision, the worst first."""
    if not n_wanted:
        return []
    if index.precision is None:
        raise ConfigError("--worst needs the average precision of queries, which the task reid alone measures")
    precision = index.precision
    measured = [row for row in rows if math.isfinite(precision[row])]
    return sorted(measured, key=lambda row: (precision[row], row))[:n_wanted]


def _by_faithfulness(
    index: ImageIndex, rows: Sequence[int], selection: ImageSelection, scores: ScoreTable | None
) -> list[int]:
    """The most and then the least faithful rows; no row is both."""
    n_most, n_least = selection.most_faithful, selection.least_faithful
    if not (n_most or n_least):
        return []
    ranked = _ranked(index, rows, selection.by, scores)
    return ranked[:n_most] + ranked[max(n_most, len(ranked) - n_least) :]


def _ranked(index: ImageIndex, rows: Sequence[int], metric: str, scores: ScoreTable | None) -> list[int]:
    """Rows with a score, the most faithful first."""
    if scores is None:
        raise ConfigError("the maps of this trial were not scored; run `attnsearch faithfulness`, or choose otherwise")
    if metric not in scores.values:
        raise ConfigError(
            f"--by {metric!r} was not measured{suggest(metric, list(scores.values))}; known: {', '.join(scores.values)}"
        )
    value_of = dict(zip(scores.image_ids, scores.image_values(metric).tolist(), strict=True))
    sign = -1 if higher_is_better(f"val/{metric}") else 1
    scored = [row for row in rows if math.isfinite(value_of.get(index.image_ids[row], math.nan))]
    return sorted(scored, key=lambda row: (sign * value_of[index.image_ids[row]], row))
