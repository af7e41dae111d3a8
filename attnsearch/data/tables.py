"""The images of each split as a table, how files become one, and data sets by name."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from attnsearch import plugins
from attnsearch.config.base import register_part
from attnsearch.config.data import DataConfig, DataSettings
from attnsearch.errors import DataError, UsageError
from attnsearch.types import SPLITS, Split

S = TypeVar("S", bound=DataSettings)
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class ImageTable:
    """One split, sorted by class and then by name.

    Attributes:
        image_ids: N stable strings, the POSIX path relative to the data root.
        labels: (N,) int64 positions in `class_names`.
        mask_paths: one mask per image that is bright on its discriminative parts, or None.
        boxes: (N, 4) float64 left, top, right, bottom of the object in original pixels, or None.
        points: (N, P, 2) float64 x, y of named parts in original pixels, NaN where a part is hidden, or None.
        point_names: P names.
    """

    split: Split
    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    mask_paths: tuple[Path, ...] | None = None
    boxes: NDArray[np.float64] | None = None
    points: NDArray[np.float64] | None = None
    point_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def regions(self) -> tuple[str, ...]:
        """What is known of where an image should be looked at: of `masks`, `boxes` and `points`."""
        columns = {"masks": self.mask_paths, "boxes": self.boxes, "points": self.points}
        return tuple(name for name, values in columns.items() if values is not None)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> ImageTable:
        """Some images of the split, in the order of the rows."""
        rows = np.asarray(rows, dtype=np.int64)
        return replace(
            self,
            image_ids=tuple(self.image_ids[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            mask_paths=None if self.mask_paths is None else tuple(self.mask_paths[row] for row in rows),
            boxes=None if self.boxes is None else self.boxes[rows],
            points=None if self.points is None else self.points[rows],
        )


@dataclass(frozen=True, eq=False)
class DataTables:
    """The splits of a data set; `val_hash` tells whether two runs validate on the same images."""

    root: Path
    class_names: tuple[str, ...]
    train: ImageTable
    val: ImageTable
    test: ImageTable | None
    val_hash: str

    def of(self, split: Split) -> ImageTable:
        """The table of a split.

        Raises:
            UsageError: no such split.
            DataError: the data set has no test split.
        """
        tables = {"train": self.train, "val": self.val, "test": self.test}
        if split not in tables:
            raise UsageError(f"a split is one of {', '.join(tables)}, got {split!r}")
        table = tables[split]
        if table is None:
            raise DataError(f"{self.root} has no test split; add a test folder of class folders, or use val")
        return table

    def present(self) -> tuple[ImageTable, ...]:
        """The tables that exist, in the order train, val, test."""
        return tuple(table for table in (self.train, self.val, self.test) if table is not None)


def places_of(image_ids: Sequence[str], listed: Sequence[str]) -> NDArray[np.int64]:
    """(n,) where each of some images stands in a list of ids.

    Raises:
        KeyError: the list lacks one.
    """
    place_of = {image_id: place for place, image_id in enumerate(listed)}
    return np.array([place_of[image_id] for image_id in image_ids], dtype=np.int64)


def fixed_subset(table: ImageTable, n_images: int | None) -> NDArray[np.int64]:
    """The rows of a split whose maps are kept, ascending: the same for every trial, and stratified by class.

    Within a class, images are ordered by a hash of their ids; each class gives its fraction. More images always
    include the fewer.

    Args:
        n_images: how many; None or more than there are means all.
    """
    if n_images is None or n_images >= len(table):
        return np.arange(len(table), dtype=np.int64)
    of_class: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row, image_id in enumerate(table.image_ids):
        of_class[int(table.labels[row])].append((_hash(image_id), row))
    order = [
        ((rank + 0.5) / len(members), digest, row)
        for members in of_class.values()
        for rank, (digest, row) in enumerate(sorted(members))
    ]
    return np.sort(np.array([row for _, _, row in sorted(order)[:n_images]], dtype=np.int64))


def hash_ids(image_ids: Iterable[str]) -> str:
    """SHA-256 of the sorted ids, in hexadecimal: the same for the same set of images in any order."""
    return _hash("\n".join(sorted(image_ids)))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


ProblemKind = Literal[
    "layout", "empty_class", "class_in_one_split", "few_classes", "name", "unreadable", "small", "duplicate"
]
_SHOWN = 20


@dataclass(frozen=True)
class DataProblem:
    """One problem of a data set; without `is_error` it is a warning, which does not prevent training."""

    kind: ProblemKind
    where: str
    message: str
    is_error: bool = True


@dataclass(frozen=True, eq=False)
class ListedImage:
    """An image that was found; `box` and `points` as in `ImageTable`."""

    split: Split
    class_name: str
    image_id: str
    path: Path
    mask_path: Path | None = None
    box: tuple[float, float, float, float] | None = None
    points: NDArray[np.float64] | None = None


@dataclass(frozen=True, eq=False)
class Listing:
    """All images of a data set, sorted by class and name, and what is wrong with its layout.

    Attributes:
        class_names: in the order of the labels.
        problems: never empty where no tables can be made.
    """

    root: Path
    class_names: tuple[str, ...]
    images: tuple[ListedImage, ...]
    problems: tuple[DataProblem, ...]
    point_names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        root: Path,
        images: Iterable[ListedImage],
        *,
        class_names: Sequence[str] = (),
        problems: Sequence[DataProblem] = (),
        point_names: tuple[str, ...] = (),
    ) -> Listing:
        """The listing of images in any order; problems of their classes and files follow those that are given.

        Args:
            class_names: in the order of the labels; none means those of train, sorted.
        """
        images = list(images)
        classes_of: dict[Split, set[str]] = {"train": set()}
        for image in images:
            classes_of.setdefault(image.split, set()).add(image.class_name)
        classes = {split: sorted(names) for split, names in classes_of.items()}
        class_names = tuple(class_names or classes["train"])
        order = {name: label for label, name in enumerate(class_names)}
        in_order = sorted(images, key=lambda image: (order.get(image.class_name, len(order)), image.image_id))
        problems = (*problems, *class_problems(root, classes), *missing_files(in_order))
        return cls(root, class_names, tuple(in_order), problems, point_names)


def class_problems(root: Path, classes: Mapping[Split, Sequence[str]]) -> list[DataProblem]:
    """Splits whose classes differ from those of train, and data sets of fewer than two classes."""
    problems = []
    train = set(classes["train"])
    if len(train) < 2:
        message = f"{root}: train must hold at least 2 class folders, found {', '.join(sorted(train)) or 'none'}"
        problems.append(DataProblem("few_classes", str(root), message))
    for split in SPLITS[1:]:
        others = set(classes.get(split, train))
        sides = {"train": train - others, split: others - train}
        if only := "; ".join(f"only in {name}: {', '.join(sorted(side))}" for name, side in sides.items() if side):
            message = f"{root}: train and {split} must hold the same classes, but {only}; add or remove those"
            problems.append(DataProblem("class_in_one_split", str(root), message))
    return problems


def size_problems(
    root: Path, images: Sequence[ListedImage], *, n_classes: int, sizes: Mapping[Split, int]
) -> list[DataProblem]:
    """Where numbers of classes and images differ from those of the published data set."""

    def described(classes: int, counts: Mapping[Split, int]) -> str:
        return f"{classes} classes and {', '.join(f'{count} {split}' for split, count in counts.items())} images"

    counts = {split: sum(image.split == split for image in images) for split in sizes}
    listed, published = described(len({image.class_name for image in images}), counts), described(n_classes, sizes)
    if listed == published:
        return []
    message = (
        f"{root} has {listed}, the published data set has {published}; unpack it again, "
        "or write data.check_sizes=false to use a part of it"
    )
    return [DataProblem("layout", str(root), message)]


def missing_files(images: Sequence[ListedImage]) -> list[DataProblem]:
    """Files that the lists of a data set name and that do not exist."""
    paths = [path for image in images for path in (image.path, image.mask_path) if path is not None]
    missing = [str(path) for path in paths if not path.is_file()]
    if not missing:
        return []
    message = f"{len(missing)} of {len(paths)} listed files do not exist; unpack the archive again:{_shown(missing)}"
    return [DataProblem("unreadable", missing[0], message)]


def name_problems(images: Sequence[ListedImage]) -> list[DataProblem]:
    """Names of files and classes that are not UTF-8: the results, which are, could not hold them."""
    wrong = [_readable(image.image_id) for image in images if not is_utf8(f"{image.image_id}{image.class_name}")]
    if not wrong:
        return []
    message = f"{len(wrong)} of {len(images)} images have a name that is not UTF-8; rename the file or folder:"
    return [DataProblem("name", wrong[0], f"{message}{_shown(wrong)}")]


def is_utf8(text: str) -> bool:
    """Python reads each byte of a name that is not UTF-8 as half of a surrogate pair, which cannot be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _readable(name: str) -> str:
    """The name with each wrong byte as `\\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _shown(names: Sequence[str]) -> str:
    """The first names, each in a line below a message."""
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "".join(f"\n  {name}" for name in [*names[:_SHOWN], *more])


def build_from_listing(listing: Listing, cfg: DataSettings) -> DataTables:
    """The tables of a listing; without a val split a part of train is held out.

    Raises:
        DataError: the listing has problems (all are named), or a class is too small to be split.
    """
    if listing.problems:
        raise DataError("\n".join(problem.message for problem in listing.problems))
    images = listing.images
    if not any(image.split == "val" for image in images):
        images = _hold_out(images, fraction=cfg.val_share, seed=cfg.split_seed)
    train, val, test = (_table(listing, [i for i in images if i.split == split], split) for split in SPLITS)
    val_hash = hash_ids(val.image_ids)
    return DataTables(listing.root, listing.class_names, train, val, test if len(test) else None, val_hash)


def _hold_out(images: Sequence[ListedImage], *, fraction: float, seed: int) -> tuple[ListedImage, ...]:
    """Moves a fraction of each class from train to val, at least one image and never all.

    A hash of seed and id decides which ones: the same on every machine, and independent of other images.
    """
    train: dict[str, list[ListedImage]] = defaultdict(list)
    for image in images:
        if image.split == "train":
            train[image.class_name].append(image)
    held: set[str] = set()
    for class_name, members in train.items():
        if len(members) < 2:
            raise DataError(
                f"class {class_name} has 1 training image ({members[0].image_id}), too few to hold out "
                "validation images; add images or a val folder"
            )
        n_held = min(max(1, round(len(members) * fraction)), len(members) - 1)
        ranked = sorted(members, key=lambda image: _hash(f"{seed}\n{image.image_id}"))
        held.update(image.image_id for image in ranked[:n_held])
    return tuple(replace(image, split="val") if image.image_id in held else image for image in images)


def _table(listing: Listing, images: Sequence[ListedImage], split: Split) -> ImageTable:
    label_of = {name: label for label, name in enumerate(listing.class_names)}
    return ImageTable(
        split=split,
        class_names=listing.class_names,
        image_ids=tuple(image.image_id for image in images),
        paths=tuple(image.path for image in images),
        labels=np.array([label_of[image.class_name] for image in images], dtype=np.int64),
        mask_paths=_if_of_all(image.mask_path for image in images),
        boxes=_array_if_of_all(image.box for image in images),
        points=_array_if_of_all(image.points for image in images),
        point_names=listing.point_names,
    )


def _if_of_all(values: Iterable[V | None]) -> tuple[V, ...] | None:
    """The values of all images; None where an image has none, or where there is no image."""
    values = tuple(values)
    present = tuple(value for value in values if value is not None)
    return present if 0 < len(present) == len(values) else None


def _array_if_of_all(values: Iterable[Any]) -> NDArray[np.float64] | None:
    """(N, ...) the values of all images, or None as for `_if_of_all`."""
    rows = _if_of_all(values)
    return None if rows is None else np.array(rows, dtype=np.float64)


def list_images(cfg: DataConfig) -> Listing:
    """Finds the images of a data set without opening them; synthetic ones are drawn on first use.

    Raises:
        DataError: the folder is missing or laid out otherwise. Lesser problems are in `Listing.problems`.
        StoreError: synthetic images cannot be written.
    """
    listing: Listing = plugins.resolve(plugins.find("dataset", cfg.name).build)(cfg)
    return replace(listing, problems=(*listing.problems, *name_problems(listing.images)))


def build_tables(cfg: DataConfig) -> DataTables:
    """The splits of a data set; a missing val split is held out of train, a missing test split stays None.

    Raises:
        DataError: names every problem of the layout and how to solve it.
        StoreError: synthetic images cannot be written.
    """
    return build_from_listing(list_images(cfg), cfg)


def register_dataset(settings: type[S], list_images: Callable[[S], Listing]) -> None:
    """Makes a data set of your own known: `data: {name: …}` then takes its settings everywhere.

    Args:
        settings: a subclass of `DataSettings` with a field such as `name: Literal["mine"] = "mine"`.
        list_images: finds the images without opening them; `attnsearch.data.tables` holds what helps.
    Raises:
        ConfigError: the settings have no name, or another data set has it.
    """
    register_part("dataset", settings, list_images)
