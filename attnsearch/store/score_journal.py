"""What was measured of single images, and the journal that keeps it while an archive is scored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.files import disk_errors, make_folder

RENAMED = {"sparsity": "saliency_sparsity"}
"""Columns of version 0.1; the sparsity of all maps, which each epoch measures, keeps its name."""


@dataclass(frozen=True)
class ImageScore:
    """What was measured of one image; NaN where it is undefined.

    Attributes:
        curves: curve -> its n_steps + 1 points, in float32.
    """

    image_id: str
    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]]

    def names(self) -> tuple[list[str], list[str]]:
        """Its metrics and its curves, in their order."""
        return list(self.values), list(self.curves)


class ScoreJournal:
    """Images that were scored so far, a line each, so that a kill loses at most the chunk that was not written yet.

    Two processes that score the same archive repeat each other's work and may both write here: their lines are equal.

    Args:
        digest: of the scoring; lines of another one are passed over.
    """

    def __init__(self, path: Path, digest: str) -> None:
        self._path, self._digest = path, digest

    def read(self) -> dict[str, ImageScore]:
        """Image id -> score; a line that was cut off counts as not written.

        Raises:
            StoreError: the disk refuses.
        """
        if not self._path.exists():
            return {}
        with disk_errors(self._path):
            lines = self._path.read_text(encoding="utf-8").splitlines()
        scores = [score for line in lines if (score := self._parse(line)) is not None]
        return {score.image_id: score for score in scores}

    def _parse(self, line: str) -> ImageScore | None:
        try:
            row = json.loads(line)
            if row["digest"] != self._digest:
                return None
            values = {RENAMED.get(name, name): value for name, value in row["values"].items()}
            return ImageScore(row["image_id"], values, row["curves"])
        except (ValueError, KeyError, TypeError):
            return None

    def append(self, scores: Iterable[ImageScore]) -> None:
        """Adds a chunk; it lies on the disk when this returns.

        Raises:
            StoreError: the disk refuses.
        """
        rows = [{"digest": self._digest, **vars(score)} for score in scores]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        make_folder(self._path.parent)
        with disk_errors(self._path), self._path.open("ab") as file:
            file.write((("\n" if _is_cut_off(self._path) else "") + text).encode())
            file.flush()
            os.fsync(file.fileno())


def _is_cut_off(path: Path) -> bool:
    size = path.stat().st_size
    if not size:
        return False
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) != b"\n"
