"""The maps of a trial by name: what was archived, and each map weighted by the feature norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.results.cache import FileCache, stamp_of
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import ArchivePaths
from attnsearch.types import AttentionArchive


@dataclass(frozen=True, eq=False)
class OpenArchive:
    """One archive, opened; `error` is a line that says why its arrays cannot be shown, or None."""

    archive: AttentionArchive
    stamp: tuple[tuple[int, int, int], ...]
    error: str | None

    @property
    def map_labels(self) -> dict[str, str]:
        """Key of each map -> how a person calls it; the saliency first."""
        archive = self.archive
        labels = {} if archive.saliency is None else {"saliency": "saliency"}
        if archive.maps is not None:
            labels |= {f"map{index}": name for index, name in enumerate(archive.map_names)}
        if archive.norms is not None:
            labels |= {"norm": "feature norm"}
        if archive.maps is not None and archive.norms is not None and archive.map_names != ("norm",):
            labels |= {f"weighted{index}": f"{name} × norm" for index, name in enumerate(archive.map_names)}
        return labels

    def map_at(self, key: str, row: int) -> NDArray[np.float32]:
        """One map (h, w), as the model made it.

        Raises:
            ConfigError: no such map.
        """
        if key not in self.map_labels:
            known = ", ".join(self.map_labels) or "none"
            raise ConfigError(f"map must be one of {known}, got {key!r}")
        archive = self.archive
        if key == "saliency" and archive.saliency is not None:
            return np.asarray(archive.saliency[row])
        if key == "norm" and archive.norms is not None:
            return np.asarray(archive.norms[row, 0])
        assert archive.maps is not None
        cells = np.asarray(archive.maps[row, int(key.removeprefix("weighted").removeprefix("map"))])  # (h, w)
        return cells * np.asarray(archive.norms[row, 0]) if key[0] == "w" and archive.norms is not None else cells


class Archives:
    """Opens the archives of trials; arrays stay mapped from disk. Safe between threads."""

    def __init__(self) -> None:
        self._open: FileCache[OpenArchive] = FileCache(64)
        self._rows: FileCache[dict[str, int]] = FileCache(64)

    def open(self, trial: TrialReader, split: str) -> OpenArchive:
        """The archive of one split.

        Raises:
            ConfigError: the trial has none.
            StoreError: it is damaged.
        """
        paths = trial.archive_paths(split)
        stamp = stamp_of(paths.images, paths.about, *paths.arrays.values())
        return self._open.get(paths.images, stamp, lambda: _open_archive(paths, stamp))

    def rows_of(self, opened: OpenArchive) -> Mapping[str, int]:
        """Image id -> its row in the archive."""
        ids = opened.archive.image_ids
        return self._rows.get(id(opened), opened, lambda: {image_id: row for row, image_id in enumerate(ids)})


def _open_archive(paths: ArchivePaths, stamp: tuple[tuple[int, int, int], ...]) -> OpenArchive:
    try:
        return OpenArchive(read_archive(paths), stamp, None)
    except AttnSearchError as error:
        return OpenArchive(read_archive(paths, index_only=True), stamp, _without_folder(str(error), paths))


def _without_folder(text: str, paths: ArchivePaths) -> str:
    return text.replace(f"{paths.images.parent}/", "")
