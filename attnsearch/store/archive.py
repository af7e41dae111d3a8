"""Attention archives on disk: `.npy` files that numpy can map into memory, an index CSV and a small JSON beside it."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from attnsearch.errors import StoreError
from attnsearch.files import (
    Check,
    atomic_write,
    csv_text,
    discard,
    disk_errors,
    explain_os_error,
    make_folder,
    rename,
    require_free_bytes,
    sync,
    temporary_path,
)
from attnsearch.store.inspection import Content, content_errors, open_array, read_json
from attnsearch.store.retrieval import (
    RetrievalAbout,
    about_retrieval,
    answered,
    has_ranks,
    read_retrieval,
    write_retrieval,
)
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import AttentionArchive, Retrieval, Split

COLUMNS = (
    *("row", "image_id", "label", "class_name", "prediction", "predicted_class", "confidence"),
    *("height_px", "width_px", "crop_left", "crop_top", "crop_right", "crop_bottom"),
)

_FIX = "evaluate the trial again"


def _index_rows(part: AttentionArchive, first_row: int) -> Iterator[list[object]]:
    """The cells of one part of an archive, whose first image has the row `first_row`, from 0."""
    for index, image_id in enumerate(part.image_ids):
        label, prediction = int(part.labels[index]), int(part.predictions[index])
        names = _class_name(part, label), _class_name(part, prediction)
        # str of a numpy float is the shortest text that reads back as the same float32 or float64
        numbers = [str(value) for value in (*part.sizes_hw[index], *part.crop_boxes[index])]
        confidence = str(part.confidences[index])
        yield [first_row + index, image_id, label, names[0], prediction, names[1], confidence, *numbers]


def _index_text(parts: Sequence[AttentionArchive]) -> str:
    """The index of an archive that consists of these parts."""
    first_rows = np.cumsum([0, *(len(part.image_ids) for part in parts)]).tolist()
    rows = (row for part, first in zip(parts, first_rows, strict=False) for row in _index_rows(part, first))
    return ",".join(COLUMNS) + "\n" + csv_text(rows)


def _read_index(path: Path) -> dict[str, Any]:
    """The fields of `AttentionArchive` that the index holds, a row per image.

    Raises:
        StoreError: the file is missing, cut off or of another kind.
    """
    with content_errors(path, _FIX), path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    if not rows or tuple(rows[0]) != COLUMNS:
        raise StoreError(f"{path} is not the index of an archive: its columns must be {','.join(COLUMNS)}")
    broken = [number for number, row in enumerate(rows[1:], start=2) if len(row) != len(COLUMNS)]
    if broken:
        raise StoreError(f"{path}:{broken[0]}: a row must have {len(COLUMNS)} cells, {_FIX}")
    columns = dict(zip(COLUMNS, zip(*rows[1:], strict=True), strict=True)) if rows[1:] else {}
    with content_errors(path, _FIX, what="holds a value that cannot be read"):
        return _typed(columns)


def _typed(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The columns as arrays; labels are compared with the classes where these are known.

    Raises:
        ValueError: a cell that is no number, or sizes and boxes that no image has.
    """
    sizes_hw = _stack(columns, COLUMNS[7:9], np.int64)
    crop_boxes = _stack(columns, COLUMNS[9:13], np.float64)
    if (sizes_hw < 1).any():
        raise ValueError(f"height_px and width_px must be at least 1, got {sizes_hw.min()}")
    if not np.isfinite(crop_boxes).all():
        raise ValueError("the edges of a crop must be finite")
    return {
        "image_ids": tuple(columns["image_id"]),
        "labels": np.array(columns["label"], dtype=np.int64),
        "predictions": np.array(columns["prediction"], dtype=np.int64),
        "confidences": np.array(columns["confidence"], dtype=np.float32),
        "sizes_hw": sizes_hw,
        "crop_boxes": crop_boxes,
    }


def _stack(columns: Mapping[str, Sequence[str]], names: Sequence[str], dtype: Any) -> NDArray[Any]:
    return np.stack([np.array(columns[name], dtype=dtype) for name in names], axis=1)


def _class_name(part: AttentionArchive, index: int) -> str:
    return part.class_names[index] if 0 <= index < len(part.class_names) else ""


FORMAT = 1
_Array = Literal["maps", "norms", "saliency"]
_ARRAYS: tuple[_Array, ...] = ("maps", "norms", "saliency")
_SHARED = ("class_names", "map_names", "config_digest", "epoch", "split", "temperature")
_N_DIMENSIONS = {"labels": 1, "predictions": 1, "confidences": 1, "sizes_hw": 2, "crop_boxes": 2}
_N_DIMENSIONS |= {"maps": 4, "norms": 4, "saliency": 3}
_SPARE_BYTES = 16 * 2**20
"""Room left for the index and for other writers when the space is checked."""


class _About(Content):
    """What `archive_<split>.json` holds."""

    n_images: int = Field(ge=1)
    class_names: tuple[str, ...]
    map_names: tuple[str, ...]
    config_digest: str
    epoch: int = Field(ge=0)
    split: Split
    arrays: dict[_Array, list[int]]
    retrieval: RetrievalAbout | None = None
    temperature: float | None = Field(None, gt=0, allow_inf_nan=False)


class ArchiveWriter:
    """Writes an archive part by part, in row order; memory use does not grow with the maps of more images.

    The parts go straight to the files and not through a memory map: on a full disk a map dies of SIGBUS, a write
    raises. Nothing is visible under its final name before `finish`; the index comes last. As a context manager it
    aborts on any exception, and if `finish` was not called.

    Args:
        n_images: N, rows that will be written.
        check: called before each file gets its name (see `files.Check`).
    """

    def __init__(self, paths: ArchivePaths, n_images: int, *, check: Check | None = None) -> None:
        if n_images < 1:
            raise ValueError(f"n_images must be >= 1, got {n_images}")
        self._paths = paths
        self._n_images = n_images
        self._check = check
        self._files: dict[str, _ArrayFile] = {}
        self._shared: dict[str, Any] | None = None  # what all parts have in common, from the first one
        self._parts: list[AttentionArchive] = []  # without their arrays
        self._n_written = 0

    def append(self, part: AttentionArchive) -> None:
        """Adds the next b images of the split.

        Args:
            part: arrays as in `AttentionArchive` with N = b; the same arrays, names, digest and epoch in each part.
        Raises:
            StoreError: the disk is full or refuses; all temporary files are gone.
            ValueError: a part that does not fit the first one, or more images than announced.
        """
        try:
            _require_consistent(part)
            if self._shared is None:
                self._open(part)
            self._require_fit(part)
            for name, file in self._files.items():
                file.append(getattr(part, name))
        except BaseException:
            self.abort()
            raise
        self._parts.append(replace(part, maps=None, norms=None, saliency=None))
        self._n_written += len(part.image_ids)

    def finish(self, retrieval: Retrieval | None = None, temperature: float | None = None) -> None:
        """Gives all files their names, the index last; an older archive there is replaced.

        Args:
            retrieval: of the whole split, from which predictions and confidences are then taken.
            temperature: see `AttentionArchive`.
        Raises:
            StoreError: the disk refuses.
            ValueError: fewer images than announced; all temporary files are gone.
        """
        try:
            if self._shared is None or self._n_written != self._n_images:
                raise ValueError(f"the archive must get {self._n_images} images, got {self._n_written}")
            for file in self._files.values():
                file.close()
            self._replace({**self._shared, "temperature": temperature}, retrieval)
        finally:
            self.abort()

    def abort(self) -> None:
        """Removes what has no final name yet."""
        for file in self._files.values():
            file.discard()
        self._files = {}

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _open(self, part: AttentionArchive) -> None:
        make_folder(self._paths.images.parent)
        shapes = {name: (self._n_images, *shape) for name, shape in _image_shapes(part).items()}
        n_bytes = sum(4 * math.prod(shape) for shape in shapes.values())
        require_free_bytes(self._paths.images, n_bytes + _SPARE_BYTES)
        for name, shape in shapes.items():
            self._files[name] = _ArrayFile(self._paths.arrays[name], shape)
        self._shared = {name: getattr(part, name) for name in _SHARED}

    def _require_fit(self, part: AttentionArchive) -> None:
        after = self._n_written + len(part.image_ids)
        if after > self._n_images:
            raise ValueError(f"the archive must get {self._n_images} images, got {after}")
        first_shapes = {name: file.shape[1:] for name, file in self._files.items()}
        if _image_shapes(part) != first_shapes:
            raise ValueError(f"arrays per image must be {first_shapes} as in the first part, got {_image_shapes(part)}")
        for name, value in (self._shared or {}).items():
            if getattr(part, name) != value:
                raise ValueError(f"{name} must be {value!r} as in the first part, got {getattr(part, name)!r}")

    def _replace(self, shared: dict[str, Any], retrieval: Retrieval | None) -> None:
        if self._check is not None:
            self._check()
        _remove(self._paths.images)  # without an index nobody reads a mixture of two archives
        for name, path in self._paths.arrays.items():
            if name in self._files:
                rename(self._files[name].temporary, path, check=self._check)
            else:
                _remove(path)
        shapes = {name: list(file.shape) for name, file in self._files.items()}
        about = {"format": FORMAT, "n_images": self._n_images, **shared, "arrays": shapes}
        parts = self._parts
        if retrieval is not None:
            write_retrieval(self._paths, retrieval, check=self._check)
            about["retrieval"] = about_retrieval(retrieval)
            parts = [answered(part, retrieval) for part in parts]
        atomic_write(self._paths.about, json.dumps(about, indent=1, ensure_ascii=False) + "\n", check=self._check)
        atomic_write(self._paths.images, _index_text(parts), check=self._check)


class _ArrayFile:
    """One `.npy` file of float32, written from front to back under a temporary name."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self.shape = shape
        self.temporary = temporary_path(path)
        with disk_errors(path):
            self._file: IO[bytes] = self.temporary.open("xb")
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, part: NDArray[np.float32]) -> None:
        try:
            self._file.write(np.ascontiguousarray(part, dtype="<f4").tobytes())
        except OSError as error:
            raise explain_os_error(error, self.path) from error

    def close(self) -> None:
        with disk_errors(self.path):
            sync(self._file)
            self._file.close()

    def discard(self) -> None:
        discard(self.temporary)
        try:
            self._file.close()
        except OSError:
            return  # the last buffered bytes found the disk full; their file is gone already


def _image_shapes(part: AttentionArchive) -> dict[str, tuple[int, ...]]:
    """Array name -> shape per image, of those that the part has."""
    arrays = {name: getattr(part, name) for name in _ARRAYS}
    return {name: tuple(array.shape[1:]) for name, array in arrays.items() if array is not None}


def _require_consistent(part: AttentionArchive) -> None:
    """Refuses arrays that are not all of the same images, or not as `AttentionArchive` describes them."""
    arrays = {name: getattr(part, name) for name in _N_DIMENSIONS if getattr(part, name) is not None}
    for name, array in arrays.items():
        if len(array) != len(part.image_ids):
            raise ValueError(f"{name} must have one row per image id, {len(part.image_ids)}, got {len(array)}")
        if array.ndim != _N_DIMENSIONS[name]:
            raise ValueError(f"{name} must have {_N_DIMENSIONS[name]} dimensions, got the shape {array.shape}")
    if part.maps is not None:
        _require_fitting_maps(part, part.maps)


def _require_fitting_maps(part: AttentionArchive, maps: NDArray[np.float32]) -> None:
    """Refuses maps (N, K, h, w) without a name each, or norms of another size."""
    if maps.shape[1] != len(part.map_names):
        raise ValueError(f"map_names must name {maps.shape[1]} maps, got {part.map_names!r}")
    if part.norms is not None and part.norms.shape[1:] != (1, *maps.shape[2:]):
        raise ValueError(f"norms must be one map of the size of {maps.shape[2:]}, got {part.norms.shape[1:]}")


def _remove(path: Path) -> None:
    with disk_errors(path):
        path.unlink(missing_ok=True)


def has_archive(paths: ArchivePaths) -> bool:
    """Whether a whole archive was written there; retention may have removed its arrays since."""
    return paths.images.exists()


def read_archive(paths: ArchivePaths, *, index_only: bool = False) -> AttentionArchive:
    """Opens an archive; its arrays are mapped read-only and cost no memory until they are used.

    Args:
        index_only: leaves maps, norms, saliency and retrieval out (None), so that it works after retention removed
            them.
    Raises:
        StoreError: files are missing, cut off or of different archives.
    """
    if not has_archive(paths):
        raise StoreError(f"{paths.images} does not exist, evaluate the trial first")
    about = read_json(paths.about, _About, version=FORMAT, fix=_FIX)
    index = _read_index(paths.images)
    n_images = len(index["image_ids"])
    if n_images != about.n_images:
        raise StoreError(f"{paths.images} must have {about.n_images} rows, got {n_images}, {_FIX}")
    shapes = {} if index_only else about.arrays
    arrays = {name: _open_array(paths.arrays[name], shapes[name]) if name in shapes else None for name in _ARRAYS}
    shared = {name: getattr(about, name) for name in _SHARED}
    retrieval = None if index_only or about.retrieval is None else read_retrieval(paths, about.retrieval)
    archive = AttentionArchive(**index, **cast("dict[str, Any]", arrays), **shared, retrieval=retrieval)
    with content_errors(paths.about, _FIX, what="does not fit the files beside it"):
        _require_consistent(archive)
        _require_known_classes(archive)
        _require_ranked_images(archive)
    return archive


def read_archive_without_maps(paths: ArchivePaths) -> AttentionArchive:
    """An archive without maps, norms and saliency, with its retrieval as in `read_rankings`.

    Raises:
        StoreError: files are missing, cut off or of different archives.
    """
    archive = replace(read_archive(paths, index_only=True), retrieval=read_rankings(paths))
    with content_errors(paths.about, _FIX, what="does not fit the files beside it"):
        _require_ranked_images(archive)
    return archive


def read_rankings(paths: ArchivePaths, *, queries_only: bool = False) -> Retrieval | None:
    """The retrieval of an archive, without features and ranks where one of their files was removed; None of classes.

    Args:
        queries_only: without features and ranks in any case.
    Raises:
        StoreError: files are missing, cut off or of different archives.
    """
    about = read_json(paths.about, _About, version=FORMAT, fix=_FIX).retrieval
    return None if about is None else read_retrieval(paths, about, index_only=queries_only or not has_ranks(paths))


def _require_known_classes(archive: AttentionArchive) -> None:
    n_classes = len(archive.class_names)
    for name, column in (("label", archive.labels), ("prediction", archive.predictions)):
        wrong = column[(column < 0) | (column >= n_classes)]
        if len(wrong):
            raise ValueError(f"a {name} must be one of {n_classes} classes, got {wrong[0]}")


def _require_ranked_images(archive: AttentionArchive) -> None:
    """Refuses images that the retrieval of their split does not have."""
    if archive.retrieval is not None and (others := set(archive.image_ids).difference(archive.retrieval.image_ids)):
        raise ValueError(f"{len(others)} archived images are in no ranking, such as {min(others)!r}")


def _open_array(path: Path, shape: list[int]) -> NDArray[np.float32]:
    if not path.exists():
        raise StoreError(f"{path} does not exist: retention removed it, {_FIX}")
    array = open_array(path, _FIX)
    if list(array.shape) != shape or array.dtype != np.float32:
        raise StoreError(f"{path} must hold float32 of shape {shape}, got {array.dtype} {list(array.shape)}")
    return cast("NDArray[np.float32]", array)
