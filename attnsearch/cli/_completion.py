"""What a shell offers behind a command when Tab is pressed; without PyTorch or a database, so that it comes at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from attnsearch.config.yaml_reader import Kind

RESULTS_FOLDER = Path("results")


def shipped_studies(incomplete: str) -> list[str]:
    """Names of studies that can be searched."""
    return _names("studies", incomplete)


def shipped_configs(incomplete: str) -> list[str]:
    """Names of configs that can be trained."""
    return _names("configs", incomplete)


def profiles(incomplete: str) -> list[str]:
    """Names of profiles."""
    return _names("configs/profiles", incomplete)


def stored_studies(incomplete: str) -> list[str]:
    """Studies in `results`, by their names, or as EXPERIMENT/NAME where that is begun."""
    from attnsearch.results.names import stored_names

    names = stored_names(RESULTS_FOLDER)
    return [name for name in (*(name.rpartition("/")[2] for name in names), *names) if name.startswith(incomplete)]


def settings(incomplete: str) -> list[str]:
    """`KEY=` for each setting whose key begins so."""
    from attnsearch.config.study import setting_keys

    return [f"{key}=" for key in sorted(setting_keys()) if key.startswith(incomplete)]


def _names(kind: Kind, incomplete: str) -> list[str]:
    from attnsearch.config.yaml_reader import list_names

    return [name for name in list_names(kind) if name.startswith(incomplete)]
