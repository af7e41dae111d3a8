"""Whether a results folder can hold a study of some name, found out without opening a database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnsearch.errors import ConfigError, suggest
from attnsearch.store.layout import ExperimentLayout, StudyLayout


def is_file_name(source: str) -> bool:
    """Whether a source names a checkpoint file rather than a study."""
    return source.endswith(".safetensors")


def require_folder_of(name: str, root: Path) -> None:
    """Refuses the name of a study that no folder has, before what reads studies is imported.

    Args:
        name: as `find_study` takes it.
        root: the results folder.
    Raises:
        ConfigError: nothing can have this name; the message lists the studies.
    """
    places = [Path(name).expanduser(), root / name, *(experiment / name for experiment in _experiments_in(root))]
    if not any(place.exists() for place in places):
        raise unknown_study(name, stored_names(root), root)


def stored_names(root: Path) -> list[str]:
    """`EXPERIMENT/NAME` of each folder of a study."""
    return [f"{path.name}/{study.study}" for path in _experiments_in(root) for study in _studies_in(path)]


def _experiments_in(root: Path) -> list[Path]:
    return [path for path in sorted(root.iterdir()) if path.is_dir()] if root.is_dir() else []


def _studies_in(path: Path) -> Sequence[StudyLayout]:
    try:
        return ExperimentLayout.at(path).studies()
    except ConfigError:  # a name that no experiment has
        return []


def unknown_study(name: str, known: Sequence[str], root: Path) -> ConfigError:
    """The error of a name that none of the studies `EXPERIMENT/NAME` has."""
    hint = suggest(name, [text for study in known for text in (study, study.rpartition("/")[2])])
    return ConfigError(f"no study {name!r} in {root}{hint}; known: {', '.join(known) or none_in(root)}")


def none_in(root: Path) -> str:
    """Why nothing is known in a results folder."""
    if root.is_dir():
        return "none"
    return f"none, as there is no folder {root.absolute()}; go to where you searched, or write --results DIR"
