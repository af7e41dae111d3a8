"""What the readers of one results folder share: open databases, what was read from files, and where images lie."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from attnsearch.config.data import DataConfig
from attnsearch.config.load import load_stored_experiment
from attnsearch.config.study import StudyConfig
from attnsearch.data.built_folders import list_caches
from attnsearch.data.tables import DataTables, ImageTable, build_tables
from attnsearch.errors import AttnSearchError
from attnsearch.files import FileCache, lies_in, stamp_of
from attnsearch.results.databases import StudyDatabases, is_plain_run
from attnsearch.search.trials import StudyRows
from attnsearch.store.evaluation_log import (
    log_test_evaluation,
    new_evaluation,
    read_test_evaluations,
    write_evaluations,
)
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import opened_trial_store
from attnsearch.types import AttentionArchive

if TYPE_CHECKING:
    import pandas as pd

_LOOK_AGAIN_S = 60
_NOT_THE_FILES = {"image_size_px", "crop_ratio", "resize", "flip", "brightness", "saturation", "cache_px"}
"""Settings of a data set that change what the model sees of its files, but not the files."""


class ImageFiles:
    """Originals by the config of a trial and image id. Safe between threads."""

    def __init__(self) -> None:
        self._configs: FileCache[DataConfig | None] = FileCache(512)
        self._tables: FileCache[DataTables | None] = FileCache(8)
        self._paths: FileCache[Mapping[str, Path]] = FileCache(16)

    def table(self, config: Path, split: str) -> ImageTable | None:
        """The split of a trial's data set, if it is on this machine; nothing is drawn or downloaded for it.

        Args:
            config: `config.yaml` of the trial.
        """
        data = self._configs.get(config, stamp_of(config), lambda: _data_config(config))
        if data is None:
            return None
        key = data.model_dump_json(exclude=_NOT_THE_FILES)
        tables = self._tables.get(key, int(time.monotonic() / _LOOK_AGAIN_S), lambda: _tables(data))
        return None if tables is None else {"train": tables.train, "val": tables.val, "test": tables.test}.get(split)

    def original(self, config: Path, split: str, image_id: str) -> Path | None:
        """The file of an image in the data set of a trial, if it is on this machine."""
        table = self.table(config, split)
        if table is None:
            return None
        paths = self._paths.get(id(table), table, lambda: dict(zip(table.image_ids, table.paths, strict=True)))
        path = paths.get(image_id)
        return path if path is not None and path.is_file() else None


@dataclass(frozen=True, eq=False)
class SharedReads:
    """Values are remembered by file stamps, the last ones used of each kind."""

    databases: StudyDatabases = field(default_factory=StudyDatabases)
    settings: FileCache[StudyConfig] = field(default_factory=lambda: FileCache(1000))
    image_files: ImageFiles = field(default_factory=ImageFiles)
    archives: FileCache[AttentionArchive] = field(default_factory=lambda: FileCache(64))
    scores: FileCache[ScoreTable] = field(default_factory=lambda: FileCache(64))
    has_maps: FileCache[bool] = field(default_factory=lambda: FileCache(100_000))
    score_summaries: FileCache[dict[str, float]] = field(default_factory=lambda: FileCache(10_000))

    def log_test_evaluation(self, layout: StudyLayout, number: int, epoch: int) -> None:
        """Counts an evaluation of a trial on the test split: the one time that a reader writes.

        Raises:
            StoreError: the database or the disk refuses.
        """
        if is_plain_run(layout):
            write_evaluations(layout, [*read_test_evaluations(layout), new_evaluation(number, epoch, "test")])
            return
        with opened_trial_store(self.databases.url(layout), self.databases.rows(layout).uuid, layout) as store:
            log_test_evaluation(store, layout, number, epoch, "test")


def copy_of(layout: StudyLayout, image_id: str) -> Path | None:
    """The small copy of an image in the results; None where it is missing, or not a file of the study's folder."""
    try:
        path = layout.thumbnail(image_id)
    except ValueError:
        return None
    return path if lies_in(path, layout.study_dir) else None


def _data_config(path: Path) -> DataConfig | None:
    try:
        return load_stored_experiment(path).data
    except AttnSearchError:
        return None


def _tables(data: DataConfig) -> DataTables | None:
    try:
        return build_tables(data) if not data.drawn_by or _is_drawn(data) else None
    except AttnSearchError:
        return None  # the data set is somewhere else, which is allowed


def _is_drawn(data: DataConfig) -> bool:
    """Whether the synthetic images lie in the cache; reading results must not draw them."""
    settings = data.model_dump()  # without what a default leaves out of files
    drawn = settings.keys() & data.drawn_by
    fields = type(data).model_fields.keys()
    abouts = [entry.about for entry in list_caches() if entry.kind == "synthetic"]
    abouts = [about for about in abouts if about.keys() & data.drawn_by == drawn]  # others are of another data set
    return any(all(settings[key] == about[key] for key in about.keys() & fields) for about in abouts)


class Study(Protocol):
    """What a trial asks of its study."""

    @property
    def name(self) -> str: ...
    @property
    def layout(self) -> StudyLayout: ...
    @property
    def shared(self) -> SharedReads: ...
    @property
    def rows(self) -> StudyRows: ...
    def epochs_of(self, numbers: Collection[int]) -> dict[int, pd.DataFrame]: ...
    def published_sets(self) -> list[Mapping[str, Any]]: ...
