"""Published data sets of re-identification: Market-1501, DukeMTMC-reID, MSMT17 and VeRi-776.

Source: the documents of the data sets; numbers of identities, images and cameras are those of their papers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.config.data import DukeData, Market1501Data, Msmt17Data, ReidData, Veri776Data
from attnsearch.data.identity_numbers import Part, part_numbers
from attnsearch.data.layouts import near_name
from attnsearch.data.listing import DataProblem, ListedImage, Listing, missing_files
from attnsearch.data.reid_names import MARKET_FOLDERS, SPLIT_OF, NameForm, inner_path, list_named
from attnsearch.errors import DataError
from attnsearch.types import Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it.

    Attributes:
        places: where it may lie below the folder that is given, if it is not that folder.
        sources: folder or list of each part.
        numbers: identities, images without junk, and cameras of each part.
    """

    places: tuple[str, ...]
    sources: Mapping[Part, str]
    form: NameForm
    numbers: Mapping[Part, tuple[int, int, int]]


PUBLISHED: Mapping[type[ReidData], Published] = {
    Market1501Data: Published(
        ("Market-1501-v15.09.15", "Market-1501", "market1501", "market1501/Market-1501-v15.09.15"),
        MARKET_FOLDERS,
        NameForm(
            re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9])s[0-9]+_[0-9]+_[0-9]+"),
            example="0002_c1s1_000451_03.jpg",
            n_cameras=6,
        ),
        {"train": (751, 12936, 6), "query": (750, 3368, 6), "gallery": (751, 15913, 6)},
    ),
    DukeData: Published(
        ("DukeMTMC-reID", "dukemtmc-reid", "dukemtmcreid", "duke", "dukemtmc-reid/DukeMTMC-reID"),
        MARKET_FOLDERS,
        NameForm(
            re.compile(r"(?P<identity>[0-9]+)_c(?P<camera>[0-9])_f[0-9]+"),
            example="0005_c2_f0046985.jpg",
            n_cameras=8,
        ),
        {"train": (702, 16522, 8), "query": (702, 2228, 8), "gallery": (1110, 17661, 8)},
    ),
    Msmt17Data: Published(
        ("MSMT17_V1", "MSMT17_V2", "MSMT17", "msmt17", "msmt17/MSMT17_V1", "msmt17/MSMT17_V2"),
        {"train": "list_train.txt", "query": "list_query.txt", "gallery": "list_gallery.txt"},
        NameForm(
            re.compile(r"(?P<identity>[0-9]+)_[0-9]+_(?P<camera>[0-9]{2})_"),
            example="0000_000_01_0303morning_0008_0.jpg",
            n_cameras=15,
        ),
        {"train": (1041, 32621, 15), "query": (3060, 11659, 15), "gallery": (3060, 82161, 15)},
    ),
    Veri776Data: Published(
        ("VeRi", "VeRi-776", "veri", "veri776", "VeRi_with_plate"),
        {"train": "image_train", "query": "image_query", "gallery": "image_test"},
        NameForm(
            re.compile(r"(?P<identity>[0-9]+)_c(?P<camera>[0-9]{3})_[0-9]+_[0-9]+"),
            example="0002_c002_00030600_0.jpg",
            n_cameras=20,
        ),
        {"train": (576, 37778, 20), "query": (200, 1678, 19), "gallery": (200, 11579, 19)},
    ),
}
_VAL_LIST = "list_val.txt"
_WITHOUT_VAL = (1041, 30248, 15)
_IDENTITY = re.compile(r"[0-9]{1,9}")
_MSMT17_FOLDERS: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "mask_train_v2"),
    "test": ("test", "mask_test_v2"),
}


def list_images(cfg: ReidData) -> Listing:
    """Finds the images of a published data set; where their numbers differ from the published ones is a warning.

    Raises:
        DataError: no such folder, or a list that is missing or broken.
    """
    published = PUBLISHED[type(cfg)]
    root = find_root(cfg.root_path.absolute(), published)
    if isinstance(cfg, Msmt17Data):
        images, problems = _list_msmt17(root, with_val=cfg.with_val)
    else:
        images, problems = list_named(root, published.sources, published.form)
    numbers = dict(published.numbers)
    if isinstance(cfg, Msmt17Data) and not cfg.with_val:
        numbers["train"] = _WITHOUT_VAL
    if not problems:
        problems = _differences(root, images, numbers)
    names = published.form.camera_names
    return Listing.of_identities(root, images, match_rule="camera", camera_names=names, problems=problems)


def find_root(root: Path, published: Published) -> Path:
    """The folder of a data set: the one that is given, or one of the usual names in it.

    Raises:
        DataError: names the folders that were tried, or those of which one must be chosen.
    """
    marker = published.sources["train"]
    tried = [root, *(root / place for place in published.places)]
    if (root / marker).exists():
        return root
    if not root.exists():
        raise DataError(f"data.root {root} does not exist{near_name(root)}")
    found = {folder.resolve(): folder for folder in tried if (folder / marker).exists()}
    match list(found.values()):
        case [folder]:
            return folder
        case []:
            raise DataError(f"none of these holds {marker}: {', '.join(map(str, tried))}; name the one that does")
        case folders:
            raise DataError(f"{' and '.join(map(str, folders))} both hold {marker}; name one of them as data.root")


def _differences(
    root: Path, images: Sequence[ListedImage], published: Mapping[Part, tuple[int, int, int]]
) -> list[DataProblem]:
    """Where numbers of identities, images or cameras differ from those of the published data set: a warning."""
    found = part_numbers(images, "camera")
    differences = []
    for part, expected in published.items():
        numbers = found.get(part)
        counts = (numbers.n_identities, numbers.n_images, numbers.n_sources) if numbers else (0, 0, 0)
        logger.info("%s: %s has %d identities, %d images and %d cameras", root, part, *counts)
        differences += [
            f"{count} {name} of {part} (published: {number})"
            for name, count, number in zip(("identities", "images", "cameras"), counts, expected, strict=True)
            if count != number
        ]
    if not differences:
        return []
    message = f"{root} differs from the published data set: {', '.join(differences)}"
    return [DataProblem("count", str(root), message, is_error=False)]


def _list_msmt17(root: Path, *, with_val: bool) -> tuple[list[ListedImage], list[DataProblem]]:
    """The images of MSMT17; identities count from 0 in train and again in test, where they are other persons."""
    published = PUBLISHED[Msmt17Data]
    lists: list[tuple[Part, str]] = [*published.sources.items(), *([("train", _VAL_LIST)] if with_val else ())]
    folders = {split: _image_folder(root, names) for split, names in _MSMT17_FOLDERS.items()}
    images = [
        published.form.listed(match, part, root, f"{folders[split]}/{path}", f"{split}_{identity:04d}")
        for part, name in lists
        for split in [SPLIT_OF[part]]
        for match, path, identity in _read_list(root / name, published.form)
    ]
    return images, missing_files(images)


def _image_folder(root: Path, names: Sequence[str]) -> str:
    """The first of some names that is a folder in the root."""
    present = [name for name in names if (root / name).is_dir()]
    if not present:
        raise DataError(f"{root} has no folder {' or '.join(names)}; unpack MSMT17_V1 or MSMT17_V2 again")
    return present[0]


def _read_list(file: Path, form: NameForm) -> Iterator[tuple[re.Match[str], str, int]]:
    """The name, path and identity in each line of a list."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error}); unpack the data set again") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        text, _, identity = line.strip().rpartition(" ")
        path = inner_path(text)
        if path is None or not _IDENTITY.fullmatch(identity):
            raise DataError(f"{file}:{number}: must be a path below the images and an identity, got {line!r}")
        match = form.pattern.match(path.rpartition("/")[2])
        if match is None or not form.has_camera(match):
            cameras = f"a camera from 1 to {form.n_cameras}"
            raise DataError(f"{file}:{number}: a name must begin like {form.example}, of {cameras}, got {path!r}")
        yield match, path, int(identity)
