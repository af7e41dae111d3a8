"""Finds configs, studies and profiles by name."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from attnsearch.config.validation import short
from attnsearch.config.yaml_nodes import dotted
from attnsearch.errors import ConfigError, suggest

Kind = Literal["configs", "studies", "configs/profiles"]


def folders(kind: Kind) -> list[Path]:
    """Where files of a kind lie: the current folder first, then the checkout or the installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [Path(kind), package.parent / kind, package / kind]
    return [folder for folder in candidates if folder.is_dir()]


def list_names(kind: Kind) -> list[str]:
    """Bare names of all files of a kind, sorted."""
    return sorted({path.stem for folder in folders(kind) for path in folder.glob("*.yaml")})


def find_file(name: str, kinds: tuple[Kind, ...]) -> Path:
    """The file behind a path or a bare name; the first kind wins.

    Raises:
        ConfigError: nothing has this name; the message lists what is known.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if _is_file(Path(name)):
            return Path(name)
        raise ConfigError(f"{dotted((name,))}: no such file; pass a YAML file or one of: {_known(kinds)}")
    for kind in kinds:
        for folder in folders(kind):
            if _is_file(folder / f"{name}.yaml"):
                return folder / f"{name}.yaml"
    hint = suggest(name, [known for kind in kinds for known in list_names(kind)])
    raise ConfigError(f"unknown name {short(name)}{hint}; known: {_known(kinds)}")


def _is_file(path: Path) -> bool:
    """Whether a file has this path; a name that no file can have is one that none has."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _known(kinds: tuple[Kind, ...]) -> str:
    return ", ".join(sorted({name for kind in kinds for name in list_names(kind)})) or "none"
