"""The images that a data set finds, without opening them, and what is wrong with its layout; data sets by name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from attnsearch import plugins
from attnsearch.config.base import register_part
from attnsearch.config.data import DataConfig
from attnsearch.config.images import DataSettings
from attnsearch.types import SPLITS, MatchRule, Split

S = TypeVar("S", bound=DataSettings)

ProblemKind = Literal[
    "layout",
    "empty_class",
    "class_in_one_split",
    "few_classes",
    "name",
    "unreadable",
    "small",
    "duplicate",
    "near_duplicate",
    "no_match",
    "count",
    "split",
    "nested",
    "case",
    "unused",
    "few_images",
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
    """An image that was found; `box` and `points` as in `ImageTable`.

    Attributes:
        class_name: the class, or the identity in re-identification.
        camera: name of the camera that took it; None where it is not known.
        group: the encounter, video or day that it belongs to; images of one group are no independent matches. Where
            neither is known, files of the same content are one group.
        is_query: whether it is a query of the test split, in re-identification.
        possible_classes: the classes that it may be of, as far as it shows; None means its class alone.
    """

    split: Split
    class_name: str
    image_id: str
    path: Path
    mask_path: Path | None = None
    box: tuple[float, float, float, float] | None = None
    points: NDArray[np.float64] | None = None
    camera: str | None = None
    group: str | None = None
    is_query: bool = False
    possible_classes: tuple[str, ...] | None = None

    def removal_key(self, rule: MatchRule) -> str:
        """What it must not have in common with a match under a rule: its camera, its group or its content."""
        key = self.camera if rule == "camera" else self.group
        return self.image_id if key is None else key


@dataclass(frozen=True, eq=False)
class Listing:
    """All images of a data set, sorted by class and name, and what is wrong with its layout.

    Attributes:
        class_names: of train, in the order of the labels.
        problems: errors where no tables can be made, and warnings.
        match_rule: which images of the query's identity are no match, in re-identification; None in classification.
        camera_names: of all splits, in the order of `ImageTable.cameras`; empty where cameras are not known.
        folders: what was looked through for images, where other files are of interest.
        is_split: whether the data set says which images are of which split, validation apart.
    """

    root: Path
    class_names: tuple[str, ...]
    images: tuple[ListedImage, ...]
    problems: tuple[DataProblem, ...]
    point_names: tuple[str, ...] = ()
    match_rule: MatchRule | None = None
    camera_names: tuple[str, ...] = ()
    folders: tuple[Path, ...] = ()
    is_split: bool = True

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

    @classmethod
    def of_identities(
        cls,
        root: Path,
        images: Iterable[ListedImage],
        *,
        match_rule: MatchRule,
        camera_names: Sequence[str] = (),
        problems: Sequence[DataProblem] = (),
    ) -> Listing:
        """The listing of a re-identification data set, whose splits hold different identities, of images in any order.

        Args:
            camera_names: in the order of their positions; none means those of the images, sorted, numbers by value.
            problems: those of files too: a set whose images are listed in a file and not found adds `missing_files`.
        """
        in_order = sorted(images, key=lambda image: (image.class_name, image.image_id))
        cameras = {image.camera for image in in_order if image.camera is not None}
        names = tuple(camera_names or sorted(cameras, key=_by_number))
        problems = (*problems, *identity_problems(root, in_order, match_rule))
        identities = sorted({image.class_name for image in in_order if image.split == "train"})
        return cls(root, tuple(identities), tuple(in_order), problems, (), match_rule, names)


def _by_number(name: str) -> tuple[int, int, str]:
    """Sorts names that are whole numbers by value, before all others."""
    return (0, int(name), name) if name.isascii() and name.isdigit() else (1, 0, name)


def identity_problems(root: Path, images: Sequence[ListedImage], rule: MatchRule) -> list[DataProblem]:
    """What prevents training on identities, or a ranking of others, and identities that are in train and in test."""
    of_split = {split: [image for image in images if image.split == split] for split in SPLITS}
    identities = {split: {image.class_name for image in of_split[split]} for split in SPLITS}
    problems = [*_repeated_ids(images), *_without_key(images, rule)]
    if len(identities["train"]) < 2:
        message = f"{root}: train must hold at least 2 identities, found {len(identities['train'])}"
        problems.append(DataProblem("few_classes", str(root), message))
    for split in SPLITS[1:]:
        if both := sorted(identities["train"] & identities[split]):
            identities_are = count_phrase(len(both), "identity is", "identities are")
            message = (
                f"{root}: {identities_are} in train and in {split}, which makes the scores of {split} too "
                f"good:{name_lines(both)}"
            )
            problems.append(DataProblem("class_in_one_split", str(root), message, is_error=False))
    return [*problems, *_ranking_problems(root, of_split, rule)]


def _repeated_ids(images: Sequence[ListedImage]) -> list[DataProblem]:
    """Images that are listed twice."""
    twice = [name for name, count in Counter(image.image_id for image in images).items() if count > 1]
    if not twice:
        return []
    images_are = count_phrase(len(twice), "image is", "images are")
    return [DataProblem("layout", twice[0], f"{images_are} listed twice; keep one of each:{name_lines(twice)}")]


def _without_key(images: Sequence[ListedImage], rule: MatchRule) -> list[DataProblem]:
    """Images whose camera or group is not known, while that of others is."""
    if rule == "open":
        return []
    unknown = [image.image_id for image in images if (image.camera if rule == "camera" else image.group) is None]
    if not unknown:
        return []
    message = (
        f"{len(unknown)} of {len(images)} images have no {rule}; name that of all, or of none:{name_lines(unknown)}"
    )
    return [DataProblem("layout", unknown[0], message)]


MATCH_UNDER: Mapping[MatchRule, str] = {
    "camera": "a match from another camera",
    "group": "a match of another group",
    "open": "a match of other content",
}
"""What a query is measured by."""


def _ranking_problems(
    root: Path, of_split: Mapping[Split, Sequence[ListedImage]], rule: MatchRule
) -> list[DataProblem]:
    """A test split without queries, gallery or match, and a validation split in which no image can have a match."""
    test, val = of_split["test"], of_split["val"]
    n_queries = sum(image.is_query for image in test)
    message = ""
    if test and not 0 < n_queries < len(test):
        message = f"test must hold queries and a gallery, got {n_queries} and {len(test) - n_queries} images"
    elif test and len(unmatched_queries(test, rule)) == n_queries:
        message = f"none of the {n_queries} queries of test has {MATCH_UNDER[rule]} in the gallery"
    elif val and max(map(len, _keys_of_identities(val, rule).values())) < 2:
        message = f"none of the {len(val)} images of val has {MATCH_UNDER[rule]}"
    return [DataProblem("no_match", str(root), f"{root}: {message}; nothing can be ranked")] if message else []


def unmatched_queries(images: Iterable[ListedImage], rule: MatchRule) -> list[ListedImage]:
    """The queries of a split that no gallery image matches; measurements leave them out."""
    images = list(images)
    keys = _keys_of_identities((image for image in images if not image.is_query), rule)
    return [
        image
        for image in images
        if image.is_query and not keys.get(image.class_name, set()) - {image.removal_key(rule)}
    ]


def _keys_of_identities(images: Iterable[ListedImage], rule: MatchRule) -> dict[str, set[str]]:
    """The cameras, groups or contents of each identity's images."""
    keys: dict[str, set[str]] = defaultdict(set)
    for image in images:
        keys[image.class_name].add(image.removal_key(rule))
    return keys


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
    return [*problems, *_case_problems(root, {name for names in classes.values() for name in names})]


def _case_problems(root: Path, names: Iterable[str]) -> list[DataProblem]:
    """A note on classes whose names are the same but for capital letters, which some disks cannot hold apart."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        spellings[name.casefold()].append(name)
    same = [" and ".join(found) for found in spellings.values() if len(found) > 1]
    if not same:
        return []
    message = f"{root}: names of classes differ in case only; rename those that are one class:{name_lines(same)}"
    return [DataProblem("case", str(root), message, is_error=False)]


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
    missing = [str(path) for path in paths if not is_file(path)]
    if not missing:
        return []
    message = (
        f"{len(missing)} of {len(paths)} listed files do not exist; unpack the archive again:{name_lines(missing)}"
    )
    return [DataProblem("unreadable", missing[0], message)]


def is_file(path: Path) -> bool:
    """Whether a file can be found at a path; not where the path is too long, or a folder of it may not be entered."""
    try:
        return path.is_file()
    except OSError:
        return False


def name_problems(images: Sequence[ListedImage]) -> list[DataProblem]:
    """Names of files and classes that are not UTF-8: the results, which are, could not hold them."""
    wrong = [_readable(image.image_id) for image in images if not is_utf8(f"{image.image_id}{image.class_name}")]
    if not wrong:
        return []
    message = f"{len(wrong)} of {len(images)} images have a name that is not UTF-8; rename the file or folder:"
    return [DataProblem("name", wrong[0], f"{message}{name_lines(wrong)}")]


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


def count_phrase(n: int, one: str, many: str) -> str:
    """`1 image is`, `3 images are`."""
    return f"{n} {one if n == 1 else many}"


def name_lines(names: Sequence[str]) -> str:
    """The first names, each in a line below a message; a single one behind it."""
    if len(names) == 1:
        return f" {names[0]}"
    more = [f"and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return "".join(f"\n  {name}" for name in [*names[:_SHOWN], *more])


def list_images(cfg: DataConfig) -> Listing:
    """Finds the images of a data set without opening them; synthetic ones are drawn on first use.

    Raises:
        DataError: the folder is missing or laid out otherwise. Lesser problems are in `Listing.problems`.
        StoreError: synthetic images cannot be written.
    """
    listing: Listing = plugins.resolve(plugins.find("dataset", cfg.name).build)(cfg)
    return replace(listing, problems=(*listing.problems, *name_problems(listing.images)))


def register_dataset(settings: type[S], list_images: Callable[[S], Listing]) -> None:
    """Makes a data set of your own known: `data: {name: …}` then takes its settings everywhere.

    Args:
        settings: a subclass of `DataSettings` with a field such as `name: Literal["mine"] = "mine"`.
        list_images: finds the images without opening them; `attnsearch.data.tables` holds what helps.
    Raises:
        ConfigError: the settings have no name, or another data set has it.
    """
    register_part("dataset", settings, list_images)
