"""The caches of decoded images and masks: all those of a data set in one array, built once for all processes."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.built_folders import CacheKind, build_once, check_free_space, digest_of_files, has_built
from attnsearch.data.images import decode_mask, decode_resized
from attnsearch.data.listing import name_lines
from attnsearch.data.tables import DataTables, ImageTable, places_of
from attnsearch.errors import DataError
from attnsearch.geometry import Resizing, Size
from attnsearch.progress import with_bar

DecodedImage = tuple[NDArray[np.uint8], Size] | DataError

_VERSION = 1
"""Raised when the same files would give other bytes."""
_PIXELS, _SIZES = "pixels.npy", "sizes_hw.npy"
_CHUNK_IMAGES = 64
"""Images decoded ahead of the writer; bounds the memory (200 MB at 1024 pixels)."""


@dataclass(frozen=True, eq=False)
class PixelArray:
    """Decoded images or masks in one array.

    Attributes:
        pixels: (M, height, width, 3) RGB images or (M, height, width) masks, uint8, memory-mapped, read-only.
    """

    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class PixelCache(PixelArray):
    """All images of a data set in one array, `pixels`: (M, *resizing.size_hw, 3).

    Attributes:
        sizes_hw: (M, 2) int64 height and width of the upright originals in pixels.
        image_ids: M names, in the order of the rows.
        resizing: how originals became them.
    """

    sizes_hw: NDArray[np.int64]
    image_ids: tuple[str, ...]
    resizing: Resizing
    fingerprint: str

    def rows(self, table: ImageTable) -> NDArray[np.int64]:
        """(N,) the position in `pixels` of each image of a split."""
        return places_of(table.image_ids, self.image_ids)


def open_cache(tables: DataTables, resizing: Resizing, *, progress: bool = False) -> PixelCache:
    """The cached pixels of all splits; they are built first where files, sizes, times or the resizing are new.

    Args:
        progress: shows a bar on stderr while building; without it there is one only if stderr is a terminal.

    Raises:
        DataError: lists the images that are missing or cannot be read.
        StoreError: the cache does not fit on its disk or cannot be written.
    """
    side, files = _written_size(resizing), _files_of(tables)
    fingerprint, missing = _fingerprint(tables, resizing, files)
    _check_usable(missing, n_files=len(files), kind="images")
    paths = [path for _, path in files]
    shape = (len(paths), *resizing.size_hw, 3)

    def build(folder: Path) -> dict[str, str | int | float]:
        decoded = _decode_all(paths, lambda path: decode_resized(path, resizing))
        _write_pixels(folder, decoded, shape, kind="images", progress=progress)
        return {"root": str(tables.root), "n_images": len(paths), "side_px": side, "resize": resizing.rule}

    arrays = _built("pixels", fingerprint, build)
    return PixelCache(*arrays, tuple(image_id for image_id, _ in files), resizing, fingerprint)


def is_cached(tables: DataTables, resizing: Resizing) -> bool:
    """Whether `open_cache` finds the pixels; it decodes all images where it does not."""
    fingerprint, _ = _fingerprint(tables, resizing, _files_of(tables))
    return has_built("pixels", _folder_name(fingerprint))


def _files_of(tables: DataTables) -> list[tuple[str, Path]]:
    """(id, path) of the images of all splits, sorted."""
    named = (zip(table.image_ids, table.paths, strict=True) for table in tables.present())
    return sorted(file for files in named for file in files)


def _fingerprint(tables: DataTables, resizing: Resizing, files: list[tuple[str, Path]]) -> tuple[str, list[str]]:
    """What names the cache, and a message for each file that does not exist."""
    heading = f"{_VERSION}\n{tables.root}\n{_written_size(resizing)}\n{resizing.rule}\n"
    return digest_of_files(heading, files)


def _folder_name(fingerprint: str) -> str:
    return fingerprint[:32]


def open_masks(table: ImageTable, root: Path, resizing: Resizing) -> PixelArray:
    """The masks of a split as `decode_mask` makes them, (N, *resizing.size_hw) in the order of its rows.

    They are built first where files, sizes, times or the resizing are new.

    Raises:
        DataError: lists the masks that are missing or cannot be read.
        StoreError: the cache does not fit on its disk or cannot be written.
    """
    assert table.mask_paths is not None
    paths = table.mask_paths
    if not all(isinstance(path, Path) for path in paths):  # images in memory, see `open_images`
        return PixelArray(np.stack([decode_mask(image, resizing) for image in paths]))
    heading = f"masks {_VERSION}\n{root}\n{_written_size(resizing)}\n{resizing.rule}\n"
    fingerprint, missing = digest_of_files(heading, zip(table.image_ids, paths, strict=True))
    _check_usable(missing, n_files=len(paths), kind="masks")

    def build(folder: Path) -> dict[str, str | int | float]:
        decoded = _decode_all(paths, lambda path: (decode_mask(path, resizing), resizing.size_hw))
        _write_pixels(folder, decoded, (len(paths), *resizing.size_hw), kind="masks", progress=False)
        return {"root": str(root), "n_images": len(paths), "side_px": _written_size(resizing), "resize": resizing.rule}

    return PixelArray(_built("masks", fingerprint, build)[0])


def _built(
    kind: CacheKind, fingerprint: str, build: Callable[[Path], dict[str, str | int | float]]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels and sizes of a cache, built first if it is missing or broken."""
    folder = build_once(kind, _folder_name(fingerprint), build, is_whole=lambda folder: _read(folder) is not None)
    arrays = _read(folder)
    assert arrays is not None  # build_once has just tried it
    return arrays


def _written_size(resizing: Resizing) -> int | str:
    """The size in the name of a cache: the side of squares, as in version 0.1, else size and aspect."""
    height, width = resizing.size_hw
    return height if height == width and resizing.aspect == 1 else f"{height}x{width} {resizing.aspect}"


def _read(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Pixels and sizes, or None where they are damaged."""
    try:
        return np.load(folder / _PIXELS, mmap_mode="r"), np.load(folder / _SIZES)
    except Exception:  # numpy raises nearly anything on a damaged header; all of it means that it is built again
        return None


def _write_pixels(
    folder: Path,
    decoded: Iterator[DecodedImage],
    shape: tuple[int, ...],
    *,
    kind: Literal["images", "masks"],
    progress: bool,
) -> None:
    """Writes in order through a plain file: a full disk is then an error, where a memory map would kill the process.

    Args:
        shape: (M, height, width, 3) of images, (M, height, width) of masks.
    """
    check_free_space(folder, math.prod(shape))
    sizes: list[tuple[int, int]] = []
    problems: list[str] = []
    with (folder / _PIXELS).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for result in with_bar(decoded, f"Decoding {kind}", n_steps=shape[0], force=progress):
            if isinstance(result, DataError):
                problems.append(str(result))
                continue
            pixels, size_hw = result
            sizes.append(size_hw)
            if not problems:
                file.write(pixels.tobytes())
        _check_usable(problems, n_files=shape[0], kind=kind)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / _SIZES, np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _decode_all(
    paths: Sequence[Path], decode: Callable[[Path], tuple[NDArray[np.uint8], Size]]
) -> Iterator[DecodedImage]:
    """Pixels and size, or the error, of each path in order; Pillow decodes outside the GIL, so threads do."""

    def decoded(path: Path) -> DecodedImage:
        try:
            return decode(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-decode") as pool:
        for start in range(0, len(paths), _CHUNK_IMAGES):
            yield from pool.map(decoded, paths[start : start + _CHUNK_IMAGES])


def _check_usable(problems: Sequence[str], *, n_files: int, kind: Literal["images", "masks"]) -> None:
    if not problems:
        return
    raise DataError(
        f"{len(problems)} of {n_files} {kind} cannot be used; replace or remove them "
        f"(`attnsearch data check` looks for more):{name_lines(problems)}"
    )
