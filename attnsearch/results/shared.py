"""What the readers of one results folder share: open databases, and what was read from files."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnsearch.results.cache import FileCache
from attnsearch.results.databases import StudyDatabases
from attnsearch.results.image_files import ImageFiles
from attnsearch.store.image_scores import ScoreTable
from attnsearch.types import AttentionArchive


@dataclass(frozen=True, eq=False)
class SharedReads:
    """Values are remembered by file stamps, the last ones used of each kind."""

    databases: StudyDatabases = field(default_factory=StudyDatabases)
    image_files: ImageFiles = field(default_factory=ImageFiles)
    archives: FileCache[AttentionArchive] = field(default_factory=lambda: FileCache(64))
    scores: FileCache[ScoreTable] = field(default_factory=lambda: FileCache(64))
    has_maps: FileCache[bool] = field(default_factory=lambda: FileCache(100_000))
    intervals: FileCache[dict[str, float]] = field(default_factory=lambda: FileCache(10_000))
