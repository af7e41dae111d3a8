"""Images whose names hold identity and camera, as those of Market-1501 do, in folders for train, query and gallery."""

from __future__ import annotations

import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attnsearch.data.folder import with_masks
from attnsearch.data.identity_numbers import DISTRACTORS, Part
from attnsearch.data.layouts import SUFFIXES
from attnsearch.data.listing import DataProblem, ListedImage, Listing, count_phrase, name_lines
from attnsearch.errors import DataError
from attnsearch.types import Split

SPLIT_OF: Mapping[Part, Split] = {"train": "train", "val": "val", "query": "test", "gallery": "test"}
MARKET_FOLDERS: Mapping[Part, str] = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
JUNK = "-1"
"""Identity of images that nobody is to be found in; they are not listed."""


@dataclass(frozen=True)
class NameForm:
    """How the name of a file tells identity and camera.

    Attributes:
        pattern: of the beginning of a name, with the groups `identity` (-1 or digits) and `camera` (digits).
        example: a name, for messages.
        n_cameras: cameras are numbered from 1 to this; None allows any number.
        suffixes: endings of images in lower case; other files are left out.
    """

    pattern: re.Pattern[str]
    example: str
    n_cameras: int | None = None
    suffixes: frozenset[str] = frozenset({".jpg"})

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The names of all cameras where their number is fixed, else none."""
        return tuple(str(number) for number in range(1, (self.n_cameras or 0) + 1))

    def has_camera(self, match: re.Match[str]) -> bool:
        """Whether there is a camera with the number that a name holds."""
        return self.n_cameras is None or 1 <= int(match["camera"]) <= self.n_cameras

    def listed(self, match: re.Match[str], part: Part, root: Path, image_id: str, identity: str) -> ListedImage:
        """The image with a name, of the camera that the name holds."""
        camera, path, is_query = str(int(match["camera"])), root / image_id, part == "query"
        return ListedImage(SPLIT_OF[part], identity, image_id, path, camera=camera, is_query=is_query)


MARKET_STYLE = NameForm(
    re.compile(r"(?P<identity>-1|[0-9]+)_c(?P<camera>[0-9]+)(?:s[0-9]+)?_"),
    example="0002_c1s1_000451_03.jpg",
    suffixes=SUFFIXES,
)
"""Of any data set that took the names over; the box number at the end may be missing."""


def list_market_folders(root: Path) -> Listing:
    """The images of a data set with the folders and names of Market-1501, and with masks if they are beside.

    Args:
        root: absolute; it holds `bounding_box_train`, `query` and `bounding_box_test`.
    Raises:
        DataError: one of the folders is missing.
    """
    images, problems = list_named(root, MARKET_FOLDERS, MARKET_STYLE)
    return Listing.of_identities(root, with_masks(root, images), match_rule="camera", problems=problems)


def list_named(root: Path, folders: Mapping[Part, str], form: NameForm) -> tuple[list[ListedImage], list[DataProblem]]:
    """The images in the folders of a data set, junk left out, and what is wrong with their names.

    Raises:
        DataError: one of the folders is missing.
    """
    images: list[ListedImage] = []
    wrong: dict[str, list[str]] = defaultdict(list)
    problems: list[DataProblem] = []
    for part, folder in folders.items():
        names = image_names(root / folder, form.suffixes)
        if not names:
            problems.append(DataProblem("layout", folder, f"{root / folder} holds no image"))
        for name in names:
            match, image_id = form.pattern.match(name), f"{folder}/{name}"
            if match is None or (reason := _problem(match, part, form)):
                wrong[reason if match else f"not beginning like {form.example}"].append(image_id)
            elif match["identity"] != JUNK:
                images.append(form.listed(match, part, root, image_id, f"{int(match['identity']):04d}"))
    for reason, names in wrong.items():
        message = (
            f"{root}: {count_phrase(len(names), 'name', 'names')} {reason}; rename or remove each:{name_lines(names)}"
        )
        problems.append(DataProblem("name", names[0], message))
    return images, problems


def _problem(match: re.Match[str], part: Part, form: NameForm) -> str:
    """What is wrong with a name that has the right form; nothing where it is right."""
    if not form.has_camera(match):
        return f"with a camera that is not from 1 to {form.n_cameras}"
    if part != "gallery" and not int(match["identity"]):
        return f"beginning with {DISTRACTORS}, which is for gallery images that match no query"
    return ""


def inner_path(text: str) -> str | None:
    """A path of a list in its shortest form; None where it does not stay below the folder that it is relative to."""
    path = posixpath.normpath(text) if text else ""
    return None if path in ("", ".", "..") or path.startswith(("/", "../")) else path


def image_names(folder: Path, suffixes: frozenset[str]) -> list[str]:
    """The names of the images in a folder, sorted; hidden files are left out.

    Raises:
        DataError: there is no such folder.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name[0] != "." and os.path.splitext(entry.name)[1].lower() in suffixes and not entry.is_dir()  # noqa: PTH122
            )
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}); it must hold the images") from error
