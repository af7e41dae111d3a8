"""The maps of a trial by name: what was archived, and each map weighted by the feature norm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import AttnSearchError, ConfigError, StoreError
from attnsearch.results.cache import FileCache, settled_stamp, stamp_of
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.layout import ArchivePaths, StudyLayout
from attnsearch.store.manifest import read_manifest
from attnsearch.types import SPLITS, AttentionArchive, Split


@dataclass(frozen=True, eq=False)
class OpenArchive:
    """One archive, opened; `fault` is a line that says why its arrays cannot be shown, or None."""

    archive: AttentionArchive
    stamp: tuple[tuple[int, int, int], ...]
    fault: str | None

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
        one = np.asarray(archive.maps[row, int(key.removeprefix("weighted").removeprefix("map"))])
        return one * np.asarray(archive.norms[row, 0]) if key[0] == "w" and archive.norms is not None else one


class Archives:
    """Opens the archives of trials; arrays stay mapped from disk."""

    def __init__(self) -> None:
        self._open: FileCache[OpenArchive] = FileCache(64)
        self._has_maps: FileCache[bool] = FileCache(100_000)

    def of_trial(self, layout: StudyLayout, number: int) -> dict[Split, ArchivePaths]:
        """Split -> archive, of those that exist: validation in the trial's folder, the published one of test."""
        found: dict[Split, ArchivePaths] = {}
        published = published_archives(layout, number)
        for split in SPLITS:
            paths = layout.trial(number).archive(split)
            for candidate in (paths, *(one for known, one in published if known == split)):
                if split not in found and has_archive(candidate):
                    found[split] = candidate
        return found

    def numbers(self, layout: StudyLayout) -> list[int]:
        """The trials that have an archive, ascending."""
        folder = layout.trial(0).directory.parent
        paths = [
            path
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.name.isascii() and path.name.isdecimal()
        ]
        index_names = {layout.trial(0).archive(split).images.name for split in SPLITS}
        own = {int(path.name) for path in paths if self._holds(path, index_names)}
        trials = {entry["trial"] for entry in _published_sets(layout)} - own
        return sorted(own | {number for number in trials if self.of_trial(layout, number)})

    def _holds(self, folder: Path, names: set[str]) -> bool:
        """Whether a file of one of these names lies there; looked up again when the folder changes."""
        stamp = settled_stamp(folder)
        return self._has_maps.get(folder, stamp, lambda: any((folder / name).is_file() for name in names))

    def open(self, layout: StudyLayout, number: int, split: str) -> OpenArchive:
        """The archive of one split.

        Raises:
            ConfigError: the trial has none.
            StoreError: it is broken.
        """
        known = self.of_trial(layout, number)
        paths = next((paths for name, paths in known.items() if name == split), None)
        if paths is None:
            there = ", ".join(known) or "none"
            raise ConfigError(f"trial {number} has no maps of the split {split!r}; there are: {there}")
        stamp = stamp_of(paths.images, paths.about, *paths.arrays.values())
        return self._open.get(paths.images, stamp, lambda: _open_archive(paths, stamp))


def _open_archive(paths: ArchivePaths, stamp: tuple[tuple[int, int, int], ...]) -> OpenArchive:
    try:
        return OpenArchive(read_archive(paths), stamp, None)
    except AttnSearchError as error:
        return OpenArchive(read_archive(paths, index_only=True), stamp, _without_folder(str(error), paths))


def _without_folder(text: str, paths: ArchivePaths) -> str:
    return text.replace(f"{paths.images.parent}/", "")


def published_archives(layout: StudyLayout, number: int) -> list[tuple[Split, ArchivePaths]]:
    """The published archives of one trial that may exist, by the manifest of the study."""
    found: list[tuple[Split, ArchivePaths]] = []
    for entry in _published_sets(layout):
        if entry["trial"] == number:
            for target in (layout.published(entry["epoch"]), layout.pareto(number, entry["epoch"])):
                found += [("test", target.archive("test")), ("val", target.archive("val"))]
    return found


def _published_sets(layout: StudyLayout) -> list[Mapping[str, Any]]:
    try:
        manifest = read_manifest(layout)
    except StoreError:
        return []  # the maps of validation can be shown without it
    return [] if manifest is None else list(manifest["sets"])
