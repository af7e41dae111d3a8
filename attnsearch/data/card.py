"""A data card: what a data set of classes holds, in numbers, and which of its images show the same."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.images import DataSettings, as_setting
from attnsearch.data.layouts import MASKS, visible_files
from attnsearch.data.listing import DataProblem, ListedImage, Listing, count_phrase, name_lines
from attnsearch.data.near_duplicates import MIN_CORRELATION, groups_of
from attnsearch.geometry import Size
from attnsearch.types import SPLITS, Split

USUAL_PX = (128, 224)
"""Sizes of model inputs for which a card tells how many images are enlarged: those of `photos` and of most models."""
MIN_VALIDATION = 100
WORDS: Mapping[Split, str] = {"train": "train", "val": "validation", "test": "test"}
WIDTH = 80
_INDENT = 13 * " "
_SHOWN_UNUSED = 6


@dataclass(frozen=True)
class SplitCounts:
    """One split: class -> images, the most first, and the smallest and largest shorter side in pixels."""

    split: Split
    classes: Mapping[str, int]
    shorter_px: tuple[int, int]

    @property
    def n_images(self) -> int:
        """All of them."""
        return sum(self.classes.values())

    @property
    def largest(self) -> tuple[str, int]:
        """The class of the most images, and how many."""
        return next(iter(self.classes.items()))

    @property
    def smallest(self) -> tuple[str, int]:
        """The class of the fewest images, and how many."""
        return list(self.classes.items())[-1]


@dataclass(frozen=True)
class SamePhoto:
    """Images that show nearly the same; `correlation` is the least between any two that were compared."""

    images: tuple[ListedImage, ...]
    correlation: float

    @property
    def is_in_classes(self) -> bool:
        """Whether they are of several classes."""
        return len({image.class_name for image in self.images}) > 1

    @property
    def is_in_splits(self) -> bool:
        """Whether they are of several splits."""
        return len({image.split for image in self.images}) > 1

    @property
    def place(self) -> str:
        """Where they are: what is worse comes first."""
        return "in two classes" if self.is_in_classes else "across splits" if self.is_in_splits else "in one class"

    @property
    def text(self) -> str:
        """Their names."""
        return " =\n    ".join(image.image_id for image in self.images)


@dataclass(frozen=True)
class DataCard:
    """What a data set of classes holds.

    Attributes:
        unused: ending of a file, or a folder with a slash -> files that are no image of the data set.
        enlarged: size of a model's input -> images that are smaller.
        alike: as `same_photos` finds them.
        images: all that can be read.
    """

    name: str
    root: str
    splits: tuple[SplitCounts, ...]
    unused: Mapping[str, int]
    enlarged: Mapping[str, int]
    alike: tuple[SamePhoto, ...]
    images: tuple[ListedImage, ...]

    @property
    def n_images(self) -> int:
        """Of all splits."""
        return len(self.images)

    @property
    def same(self) -> list[SamePhoto]:
        """Groups of one photograph, those in two classes first."""
        return [group for group in self.alike if group.correlation > MIN_CORRELATION]

    @property
    def look(self) -> list[SamePhoto]:
        """Pairs that are less alike, and may show one scene."""
        return [group for group in self.alike if group.correlation <= MIN_CORRELATION]

    def lines(self) -> list[str]:
        """The card for a terminal, in 80 columns."""
        below = [f"balance      {self.balance}", *self._file_lines(), *self._photo_lines()]
        return [
            *self._split_lines(),
            *(part for line in below for part in wrap(line, WIDTH, subsequent_indent=_INDENT)),
        ]

    @property
    def balance(self) -> str:
        """How uneven the classes of train are, and what is right by always answering the most frequent one."""
        train = self.splits[0]
        (name, most), (_, fewest) = train.largest, train.smallest
        return f"{most / fewest:.1f} : 1 in {WORDS[train.split]}; always {name} = {most / train.n_images:.2f}"

    def _split_lines(self) -> Iterator[str]:
        heads = ("images", "classes", "smallest", "largest", "shorter side")
        rows = [heads, *(_cells(counts) for counts in self.splits)]
        labels = ["", *(WORDS[counts.split] for counts in self.splits)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        if 13 + sum(widths) + 2 * len(widths) > WIDTH:  # names of classes are too long for a table
            yield from self._long_split_lines()
            return
        for label, row in zip(labels, rows, strict=True):
            cells = [
                text.rjust(width) if index < 2 else text.ljust(width)
                for index, (text, width) in enumerate(zip(row, widths, strict=True))
            ]
            yield f"{label:<13}{'  '.join(cells)}".rstrip()

    def _long_split_lines(self) -> Iterator[str]:
        for counts in self.splits:
            n_images, n_classes, smallest, largest, side = _cells(counts)
            yield f"{WORDS[counts.split]:<13}{n_images} images, {n_classes} classes, shorter side {side}"
            yield from (f"{_INDENT}smallest {smallest}", f"{_INDENT}largest {largest}")

    def _file_lines(self) -> Iterator[str]:
        n_unused = sum(self.unused.values())
        most = sorted(self.unused.items(), key=lambda item: -item[1])
        named = [f"{n} {name}" for name, n in most[:_SHOWN_UNUSED]]
        more = [f"{len(most) - _SHOWN_UNUSED} more kinds"] if len(most) > _SHOWN_UNUSED else []
        files = f"{_grouped(n_unused)} {'file' if n_unused == 1 else 'files'}"
        yield f"not used     {files}{': ' if named else ''}{', '.join([*named, *more])}"
        counts = [f"{_all_or(n, self.n_images)} at {size} px" for size, n in self.enlarged.items()]
        yield f"enlarged     {', '.join(counts)}"

    def _photo_lines(self) -> Iterator[str]:
        places = Counter(group.place for group in self.same)
        found = [f"{n} {place}{'' if place == 'in one class' else ' (error)'}" for place, n in places.items()]
        look = f"; {count_phrase(len(self.look), 'pair', 'pairs')} to look at" if self.look else ""
        yield f"same photo   {', '.join(found) or 'none'}{look}"

    def values(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            **{"kind": "card", "name": self.name, "root": self.root, "n_images": self.n_images},
            "splits": {
                counts.split: {
                    **{"n_images": counts.n_images, "n_classes": len(counts.classes), "classes": dict(counts.classes)},
                    "shorter_side_px": list(counts.shorter_px),
                }
                for counts in self.splits
            },
            **{"not_used": dict(self.unused), "enlarged": dict(self.enlarged)},
            "same_photo": [
                {"images": [image.image_id for image in group.images], "place": group.place} for group in self.same
            ],
            "look": [
                {"images": [image.image_id for image in pair.images], "correlation": round(pair.correlation, 4)}
                for pair in self.look
            ],
        }

    def problems(self) -> list[DataProblem]:
        """What is wrong with what is counted: errors first."""
        return [*self._photo_problems(), *self._small_validation()]

    def _photo_problems(self) -> Iterator[DataProblem]:
        """A problem for each place of images that show the same."""
        of_place: dict[str, list[SamePhoto]] = defaultdict(list)
        for group in self.same:
            of_place[group.place].append(group)
        for place, groups in of_place.items():
            n, advice = count_phrase(len(groups), "photograph is", "photographs are"), _ADVICE[place]
            names = name_lines([group.text for group in groups]).lstrip()
            message = f"{n} there more than once, {place}{advice}:\n  {names}"
            where = groups[0].images[-1].image_id
            yield DataProblem("duplicate", where, message, is_error=place != "in one class")

    def _small_validation(self) -> Iterator[DataProblem]:
        for counts in self.splits:
            if counts.split == "val" and counts.n_images < MIN_VALIDATION:
                message = (
                    f"validation has {count_phrase(counts.n_images, 'image', 'images')}: one image is "
                    f"{100 / counts.n_images:.0f} points of accuracy; hold out more with data.val_share, or add some"
                )
                yield DataProblem("few_images", "val", message, is_error=False)


_ADVICE = {
    "in two classes": ", so that a label is wrong; keep one of each",
    "across splits": ", which makes scores too good; keep one of each, or move all into one split",
    "in one class": ", which counts it twice; keep one of each",
}


def _cells(counts: SplitCounts) -> tuple[str, ...]:
    low, high = counts.shorter_px
    ends = [f"{name} {_grouped(n)}" for name, n in (counts.smallest, counts.largest)]
    side = f"{low} px" if low == high else f"{low} to {high} px"
    return _grouped(counts.n_images), _grouped(len(counts.classes)), *ends, side


def _grouped(n: int) -> str:
    return f"{n:,}"


def _all_or(n: int, n_all: int) -> str:
    return "none" if n == 0 else "all" if n == n_all else _grouped(n)


def count_splits(images: Sequence[ListedImage], sizes_hw: Sequence[Size]) -> tuple[SplitCounts, ...]:
    """The numbers of each split that has images.

    Args:
        sizes_hw: height and width in pixels of each image.
    """
    found = []
    for split in SPLITS:
        rows = [row for row, image in enumerate(images) if image.split == split]
        if rows:
            sides = [min(sizes_hw[row]) for row in rows]
            classes = Counter(images[row].class_name for row in rows)
            found.append(SplitCounts(split, dict(classes.most_common()), (min(sides), max(sides))))
    return tuple(found)


def count_enlarged(sizes_hw: Sequence[Size], cfg: DataSettings) -> dict[str, int]:
    """Size of a model's input -> images that are smaller, largest size first; `cfg` adds its own."""
    inputs = {*((side, side) for side in USUAL_PX), cfg.image_hw}
    return {
        " x ".join(map(str, hw)) if isinstance(as_setting(hw), tuple) else str(as_setting(hw)): sum(
            size[0] < hw[0] or size[1] < hw[1] for size in sizes_hw
        )
        for hw in sorted(inputs, reverse=True)
    }


def count_unused(listing: Listing) -> dict[str, int]:
    """Ending of a file, or a folder beside those that are read, with a slash -> visible files that are not used."""
    used = {path for image in listing.images for path in (image.path, image.mask_path) if path is not None}
    unused: Counter[str] = Counter()
    for folder in listing.folders:
        places = [path.relative_to(folder).parts for path in visible_files(folder) if path not in used]
        known = {MASKS, *(path.relative_to(folder).parts[0] for path in used if path.is_relative_to(folder))}
        unused.update(_kind_of(parts, known) for parts in places if parts[0] != MASKS)
    return dict(unused)


def _kind_of(parts: Sequence[str], known: Container[str]) -> str:
    """The folder that a file lies in, if it is none of the known ones, or else its ending."""
    if len(parts) > 1 and parts[0] not in known:
        return f"{parts[0]}/"
    return PurePath(parts[-1]).suffix.lower() or parts[-1]


def same_photos(images: Sequence[ListedImage], pairs: Iterable[tuple[int, int, float]]) -> tuple[SamePhoto, ...]:
    """Groups of images that show the same, those in two classes first, and then pairs that are worth a look.

    Args:
        pairs: rows of two images, and their correlation above `LOOK_CORRELATION`.
    """
    found = list(pairs)
    same = [pair for pair in found if pair[2] > MIN_CORRELATION]
    links: NDArray[np.int64] = np.array([pair[:2] for pair in same], dtype=np.int64).reshape(-1, 2)
    numbers = groups_of(len(images), links).tolist()
    rows: dict[int, set[int]] = defaultdict(set)
    least: dict[int, float] = {}
    for row, other, value in same:
        rows[numbers[row]] |= {row, other}
        least[numbers[row]] = min(value, least.get(numbers[row], value))
    groups = [_photo(images, members, least[number]) for number, members in rows.items()]
    pairs_left = [(row, other, value) for row, other, value in found if numbers[row] != numbers[other]]
    look = [_photo(images, {row, other}, value) for row, other, value in pairs_left]
    order = list(_ADVICE)
    return (
        *sorted(groups, key=lambda group: order.index(group.place)),
        *sorted(look, key=lambda pair: -pair.correlation),
    )


def _photo(images: Sequence[ListedImage], rows: Collection[int], correlation: float) -> SamePhoto:
    return SamePhoto(tuple(images[row] for row in sorted(rows)), correlation)
