"""Pictures for the browser: the small copies of the results, and the originals where the data set is there."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from attnsearch.config.data import DataConfig, SyntheticData
from attnsearch.config.load import load_stored_experiment
from attnsearch.data.build import build_tables
from attnsearch.data.cache_dir import list_caches
from attnsearch.data.images import open_upright
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.files import lies_in
from attnsearch.results.cache import FileCache, stamp_of
from attnsearch.store.layout import StudyLayout

SIZES_PX = (256, 512)
"""Longer sides that small pictures are served in."""
_QUALITY = 85
_ORIGINAL_QUALITY = 95
_ANY_PX = 2**15
_LOOK_AGAIN_S = 60
_NOT_THE_FILES = {"image_size_px", "crop_ratio", "resize", "flip", "brightness", "saturation", "cache_px"}
"""Settings of a data set that change what the model sees of its files, but not the files."""

Source = Literal["copy", "original"]


@dataclass(frozen=True)
class EncodedImage:
    """Bytes for the browser, and what tells whether it has them already."""

    body: bytes
    etag: str


class Pictures:
    """Finds and renders pictures by study, trial and image id. Paths from a browser are never used."""

    def __init__(self) -> None:
        self._tables: FileCache[DataTables | None] = FileCache(8)
        self._configs: FileCache[DataConfig | None] = FileCache(512)
        self._rendered: FileCache[EncodedImage] = FileCache(1024)

    def source(self, layout: StudyLayout, number: int, split: str, image_id: str) -> Source | None:
        """Where the small picture would come from; None if there is none."""
        if copy_of(layout, image_id) is not None:
            return "copy"
        return "original" if self.original(layout, number, split, image_id) is not None else None

    def small(self, layout: StudyLayout, number: int, split: str, image_id: str, *, longest_px: int) -> EncodedImage:
        """A JPEG, upright, longer side at most `longest_px`.

        Raises:
            ConfigError: neither the copy nor the original is there.
            DataError: the file is no picture.
        """
        path = copy_of(layout, image_id) or self.original(layout, number, split, image_id)
        if path is None:
            raise ConfigError(f"there is no picture of {image_id!r}: its small copy and the data set are missing")
        return self._render(path, longest_px, _QUALITY)

    def full(self, layout: StudyLayout, number: int, split: str, image_id: str) -> EncodedImage:
        """The original as an upright JPEG of its own size.

        Raises:
            ConfigError: the data set is not on this machine.
            DataError: the file is no picture.
        """
        path = self.original(layout, number, split, image_id)
        if path is None:
            raise ConfigError(f"the original of {image_id!r} is not on this machine")
        return self._render(path, _ANY_PX, _ORIGINAL_QUALITY)

    def original(self, layout: StudyLayout, number: int, split: str, image_id: str) -> Path | None:
        """The file of an image in the data set of the trial, if it is on this machine."""
        table = self.table(layout, number, split)
        path = None if table is None else _paths(table).get(image_id)
        return path if path is not None and path.is_file() else None

    def table(self, layout: StudyLayout, number: int, split: str) -> ImageTable | None:
        """The split of a trial's data set, if it is on this machine; nothing is drawn or downloaded for it."""
        config = layout.trial(number).config
        data = self._configs.get(config, stamp_of(config), lambda: _data_config(config))
        if data is None:
            return None
        key = data.model_dump_json(exclude=_NOT_THE_FILES)
        tables = self._tables.get(key, int(time.monotonic() / _LOOK_AGAIN_S), lambda: _tables(data))
        return None if tables is None else {"train": tables.train, "val": tables.val, "test": tables.test}.get(split)

    def _render(self, path: Path, longest_px: int, quality: int) -> EncodedImage:
        stamp = stamp_of(path)
        if longest_px == _ANY_PX:  # not remembered: originals are large
            return _encode(path, stamp, longest_px, quality)
        return self._rendered.get((path, longest_px), stamp, lambda: _encode(path, stamp, longest_px, quality))


def copy_of(layout: StudyLayout, image_id: str) -> Path | None:
    """The small copy of an image in the results; None where it is missing, or not a file of the study's folder."""
    try:
        path = layout.thumbnail(image_id)
    except ValueError:
        return None
    return path if lies_in(path, layout.study_dir) else None


def _encode(path: Path, stamp: object, longest_px: int, quality: int) -> EncodedImage:
    text = io.BytesIO()
    picture: Image.Image = open_upright(path, longest_px=longest_px)
    picture.save(text, format="JPEG", quality=quality)
    etag = hashlib.sha256(f"{path}\n{stamp}\n{longest_px}".encode(errors="surrogateescape")).hexdigest()[:32]
    return EncodedImage(text.getvalue(), etag)


def _data_config(path: Path) -> DataConfig | None:
    try:
        return load_stored_experiment(path).data
    except AttnSearchError:
        return None


def _tables(data: DataConfig) -> DataTables | None:
    try:
        return build_tables(data) if not isinstance(data, SyntheticData) or _is_drawn(data) else None
    except AttnSearchError:
        return None  # the data set is somewhere else, which is allowed


def _is_drawn(data: SyntheticData) -> bool:
    """Whether the synthetic pictures lie in the cache; looking at results must not draw them."""
    wanted = data.model_dump()
    abouts = [entry.about for entry in list_caches() if entry.kind == "synthetic"]
    return any(all(wanted[key] == value for key, value in about.items() if key in wanted) for about in abouts)


_by_table: FileCache[Mapping[str, Path]] = FileCache(16)


def _paths(table: ImageTable) -> Mapping[str, Path]:
    return _by_table.get(id(table), table, lambda: dict(zip(table.image_ids, table.paths, strict=True)))
