"""Which images are drawn: by id or path, some of each class, the most or least faithful, or a confused pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.folder import SUFFIXES
from attnsearch.data.tables import ImageTable
from attnsearch.errors import ConfigError, suggest
from attnsearch.metrics.confusion import confusion_matrix, most_confused
from attnsearch.metrics.registry import higher_is_better
from attnsearch.store.image_scores import ScoreTable
from attnsearch.types import AttentionArchive

DEFAULT_IMAGES = 12


@dataclass(frozen=True)
class ImageSelection:
    """What is asked for; several ways add up, and nothing means twelve images spread over the split.

    Attributes:
        images: ids of the split, files, or folders of pictures.
        classes: only these; empty means all.
        per_class, most_faithful, least_faithful, confused: how many, 0 for none.
        by: the score that tells how faithful a map is.
    """

    images: Sequence[str] = ()
    classes: Sequence[str] = ()
    per_class: int = 0
    most_faithful: int = 0
    least_faithful: int = 0
    confused: int = 0
    by: str = "relevance_gain"


@dataclass(frozen=True)
class ImageIndex:
    """The images of a split, with their classes and, where a model has seen them, its predictions."""

    image_ids: Sequence[str]
    true: Sequence[str]
    predicted: Sequence[str] | None = None

    @classmethod
    def of_archive(cls, archive: AttentionArchive) -> ImageIndex:
        names = archive.class_names
        return cls(
            archive.image_ids,
            [names[int(label)] for label in archive.labels],
            [names[int(label)] for label in archive.predictions],
        )

    @classmethod
    def of_table(cls, table: ImageTable) -> ImageIndex:
        return cls(table.image_ids, [table.class_names[int(label)] for label in table.labels])


def choose(known: ImageIndex, choice: ImageSelection, scores: ScoreTable | None) -> list[str]:
    """Ids of the wanted images of a split, without those that are given by `choice.images`; no picture is opened.

    Raises:
        ConfigError: an unknown class, or faithfulness of images that were not scored.
    """
    _require_classes(known, choice.classes)
    rows = [row for row, true in enumerate(known.true) if not choice.classes or true in choice.classes]
    chosen: list[int] = []
    if choice.per_class:
        chosen += _spread_per_class(known, rows, choice.per_class)
    if choice.confused:
        chosen += _confused(known, choice.confused)
    if choice.most_faithful or choice.least_faithful:
        ranked = _ranked(known, rows, choice.by, scores)
        n_least = min(choice.least_faithful, max(0, len(ranked) - choice.most_faithful))
        chosen += ranked[: choice.most_faithful] + ranked[len(ranked) - n_least :]
    has_asked = choice.images or choice.per_class or choice.confused or choice.most_faithful or choice.least_faithful
    if not has_asked:
        chosen = _spread(rows, len(rows) if choice.classes else DEFAULT_IMAGES)
    return list(dict.fromkeys(known.image_ids[row] for row in chosen))


def pictures_at(path: Path) -> list[Path]:
    """A picture, or all pictures of a folder and its sub-folders, by name; hidden ones are passed over.

    Raises:
        ConfigError: a folder without pictures.
    """
    if not path.is_dir():
        return [path]
    found = sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and not one.name.startswith("."))
    if not found:
        raise ConfigError(f"--image {path} holds no picture ({' '.join(sorted(SUFFIXES))})")
    return found


def _require_classes(known: ImageIndex, classes: Sequence[str]) -> None:
    names = sorted(set(known.true))
    for name in classes:
        if name not in names:
            raise ConfigError(f"--class {name!r} is not in this split{suggest(name, names)}; known: {', '.join(names)}")


def _spread(rows: Sequence[int], n_wanted: int) -> list[int]:
    """At most so many rows, evenly from first to last."""
    n_wanted = min(n_wanted, len(rows))
    return [rows[(index * len(rows)) // n_wanted] for index in range(n_wanted)]


def _spread_per_class(known: ImageIndex, rows: Sequence[int], n_wanted: int) -> list[int]:
    of_class: dict[str, list[int]] = {}
    for row in rows:
        of_class.setdefault(known.true[row], []).append(row)
    return [row for members in of_class.values() for row in _spread(members, n_wanted)]


def _confused(known: ImageIndex, n_wanted: int) -> list[int]:
    predicted = known.predicted
    names = sorted({*known.true, *(predicted or ())})
    pairs = [] if predicted is None else most_confused(_matrix(names, known.true, predicted), n_pairs=1)
    if predicted is None or not pairs:
        raise ConfigError("--confused needs predictions with at least one error; evaluate the trial, or leave it out")
    pair = {names[pairs[0].first], names[pairs[0].second]}
    wrong = [
        row
        for row, both in enumerate(zip(known.true, predicted, strict=True))
        if both[0] != both[1] and set(both) == pair
    ]
    return _spread(wrong, n_wanted)


def _matrix(names: Sequence[str], true: Sequence[str], predicted: Sequence[str]) -> NDArray[np.int64]:
    label_of = {name: label for label, name in enumerate(names)}
    labels, predictions = (np.array([label_of[name] for name in column]) for column in (true, predicted))
    return confusion_matrix(labels, predictions, len(names))


def _ranked(known: ImageIndex, rows: Sequence[int], metric: str, scores: ScoreTable | None) -> list[int]:
    """Rows with a score, the most faithful first."""
    if scores is None:
        raise ConfigError("the maps of this trial were not scored; run `attnsearch faithfulness`, or choose otherwise")
    if metric not in scores.values:
        raise ConfigError(
            f"--by {metric!r} was not measured{suggest(metric, list(scores.values))}; known: {', '.join(scores.values)}"
        )
    value_of = dict(zip(scores.image_ids, scores.values[metric].tolist(), strict=True))
    sign = -1 if higher_is_better(f"val/{metric}") else 1
    scored = [row for row in rows if math.isfinite(value_of.get(known.image_ids[row], math.nan))]
    return sorted(scored, key=lambda row: (sign * value_of[known.image_ids[row]], row))
