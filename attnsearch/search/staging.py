"""A publication in two steps: all of its files are made in a folder of their own, then they replace the old ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from attnsearch.store.files import atomic_write, disk_errors, make_folder
from attnsearch.store.layout import PublishedLayout, StudyLayout
from attnsearch.store.manifest import FORMAT


def staged(layout: StudyLayout, target: PublishedLayout) -> PublishedLayout:
    """Where the files of a set are made."""
    return replace(target, directory=layout.staging / target.directory.relative_to(layout.experiment_dir))


def start_staging(layout: StudyLayout) -> None:
    """An empty folder for the files of a publication, without what one that was cut off has left there."""
    discard_staged(layout)
    make_folder(layout.staging)


def finish_staging(layout: StudyLayout, sets: Sequence[dict[str, Any]], files: Sequence[Path]) -> list[str]:
    """Writes the manifest of complete files; from here on a publication that is cut off needs no second evaluation.

    Returns:
        The names of the files in the experiment's folder.
    """
    names = [path.relative_to(layout.staging).as_posix() for path in files]
    about = {"format": FORMAT, "study": layout.study, "sets": list(sets), "files": names}
    atomic_write(layout.staged_json, json.dumps(about, indent=1) + "\n")
    return names


def staged_names(layout: StudyLayout, sets: Sequence[dict[str, Any]]) -> list[str] | None:
    """What `finish_staging` returned for these sets, where they were not put in place yet; else None."""
    try:
        about = json.loads(layout.staged_json.read_text(encoding="utf-8"))
        return list(about["files"]) if about["sets"] == list(sets) else None
    except (OSError, ValueError, LookupError, TypeError):  # none, or damaged: they are made again
        return None


def put_in_place(layout: StudyLayout, names: Sequence[str]) -> Path:
    """Replaces the published files of a study by the staged ones, the manifest last; a second call continues the first.

    Raises:
        StoreError: the disk refuses; nothing is lost, and the next publication continues here.
    """
    kept = {layout.experiment_dir / name for name in names}
    with disk_errors(layout.experiment_dir):
        layout.published_json.unlink(missing_ok=True)
        for path in sorted(layout.staging.rglob("*")):
            if path.is_file() and path != layout.staged_json:
                target = layout.experiment_dir / path.relative_to(layout.staging)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)  # noqa: PTH105 (as in store/files.py)
        for path in layout.published_files():
            if path not in kept:
                path.unlink()
        atomic_write(layout.published_json, layout.staged_json.read_bytes())
    discard_staged(layout)
    return layout.published_json


def discard_staged(layout: StudyLayout) -> None:
    """Removes the folder of a publication, if there is one."""
    with disk_errors(layout.staging):
        if layout.staging.exists():
            shutil.rmtree(layout.staging)
