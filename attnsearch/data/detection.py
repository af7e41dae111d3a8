"""Which data set a folder holds, where no settings say so."""

from __future__ import annotations

from pathlib import Path

from attnsearch.config.data import DukeData, Market1501Data, ReidData
from attnsearch.data.layouts import CUB_LIST, sub_folders
from attnsearch.data.reid_folder import IMAGES_CSV, NEEDED_FOLDERS
from attnsearch.data.reid_names import MARKET_FOLDERS, image_names
from attnsearch.data.reid_sets import PUBLISHED, Published
from attnsearch.errors import DataError


def detected_name(folder: Path) -> str:
    """The name of the data set that a folder looks like; `folder`, class folders, where nothing else does.

    Raises:
        DataError: the folder holds several published data sets.
    """
    if (folder / CUB_LIST).is_file():
        return "cub"
    found = [
        str(settings.model_fields["name"].default)
        for settings, published in PUBLISHED.items()
        if _holds(folder, settings, published)
    ]
    if len(found) > 1:
        raise DataError(f"{folder} holds {' and '.join(found)}; write data.name={found[0]} data.root={folder}, or such")
    if found:
        return found[0]
    names = set(sub_folders(folder)) if folder.is_dir() else set()
    is_own = MARKET_FOLDERS["train"] in names or names >= {*NEEDED_FOLDERS} or (folder / IMAGES_CSV).is_file()
    return "reid_folder" if is_own else "folder"


def _holds(folder: Path, settings: type[ReidData], published: Published) -> bool:
    """Whether a folder or one of the usual names in it is a published data set."""
    marker = published.sources["train"]
    if not (folder / marker).exists():
        return any((folder / place / marker).exists() for place in published.places)
    if settings not in (Market1501Data, DukeData):
        return True
    names = image_names(folder / marker, published.form.suffixes)
    is_published = len(names) == published.numbers["train"][1] or _is_called(folder, published)
    return is_published and published.form.pattern.match(next(iter(names), "")) is not None


def _is_called(folder: Path, published: Published) -> bool:
    """Whether a folder or its parent has a usual name of a data set: others have its folders and names of files too."""
    usual = {_letters(name) for place in published.places for name in place.split("/")}
    return not usual.isdisjoint(_letters(path.name) for path in (folder.absolute(), folder.absolute().parent))


def _letters(name: str) -> str:
    """The letters and digits of a name, in lower case."""
    return "".join(character for character in name.lower() if character.isalnum())
