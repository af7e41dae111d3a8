"""The manifest of a study's published files."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from attnsearch.store.damage import Content, read_json
from attnsearch.store.layout import StudyLayout

FORMAT = 1
_FIX = "delete it; the next `attnsearch search` publishes the study again"


def _below(path: str) -> str:
    """A path that stays in the experiment's folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"must lie in the experiment's folder, got {path!r}")
    return path


Relative = Annotated[str, AfterValidator(_below)]


class _PublishedSet(Content):
    trial: int = Field(ge=0)
    epoch: int = Field(ge=0)
    folder: Relative


class _Manifest(Content):
    sets: list[_PublishedSet] = Field(min_length=1)
    files: list[Relative]


def read_manifest(layout: StudyLayout) -> dict[str, Any] | None:
    """What is published of a study: `study`, `sets` and `files`; None if nothing is, or if a publication was cut off.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    if not layout.published_json.exists():
        return None
    return read_json(layout.published_json, _Manifest, version=FORMAT, fix=_FIX).model_dump()
