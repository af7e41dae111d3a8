"""Images decoded, rotated and resized once, as one memory-mapped array of bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.cache_dir import CacheEntry, build_once, cache_dir, check_free_space, clear_cache, list_caches
from attnsearch.data.images import decode_resized
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.errors import DataError
from attnsearch.geometry import ResizeRule, Size
from attnsearch.progress import with_bar

__all__ = ["CacheEntry", "PixelCache", "cache_dir", "clear_cache", "list_caches", "open_cache"]

DecodedImage = tuple[NDArray[np.uint8], Size] | DataError

#: Raised when the same files would give other bytes.
_VERSION = 1
_PIXELS, _SIZES = "pixels.npy", "sizes_hw.npy"
#: Images decoded ahead of the writer; bounds the memory (200 MB at 1024 pixels).
_CHUNK_IMAGES = 64
_SHOWN_FAULTS = 20


@dataclass(frozen=True, eq=False)
class PixelCache:
    """All images of a data set in one array.

    Attributes:
        pixels: (M, *cached_hw, 3) uint8 RGB, memory-mapped, read-only.
        sizes_hw: (M, 2) int64 height and width of the upright originals in pixels.
        aspect: height / width of the part of an original that is in it, as `DataSettings.aspect`.
    """

    pixels: NDArray[np.uint8]
    sizes_hw: NDArray[np.int64]
    cached_hw: Size
    resize: ResizeRule
    aspect: float
    fingerprint: str
    _row_of: Mapping[str, int] = field(repr=False)

    def rows(self, table: ImageTable) -> NDArray[np.int64]:
        """(N,) the position in `pixels` of each image of a split."""
        return np.array([self._row_of[image_id] for image_id in table.image_ids], dtype=np.int64)


def open_cache(
    tables: DataTables, *, cached_hw: Size, resize: ResizeRule, aspect: float = 1.0, progress: bool = False
) -> PixelCache:
    """The cached pixels of all splits; they are built first where files, sizes, times, side or rule are new.

    Args:
        cached_hw: height and width of the cached images in pixels.
        aspect: as `DataSettings.aspect`.
        progress: shows a bar on stderr while building; without it there is one only if stderr is a terminal.

    Raises:
        DataError: lists the images that are missing or cannot be read.
        StoreError: the cache does not fit on its disk or cannot be written.
    """
    files = sorted(
        (image_id, path)
        for table in tables.present()
        for image_id, path in zip(table.image_ids, table.paths, strict=True)
    )
    side = _written_size(cached_hw, aspect)
    fingerprint = _fingerprint(tables.root, files, side, resize)
    paths = [path for _, path in files]

    def build(folder: Path) -> dict[str, str | int | float]:
        check_free_space(folder, len(paths) * cached_hw[0] * cached_hw[1] * 3)
        decoded = _decode_all(paths, cached_hw, resize, aspect)
        _write_pixels(folder, decoded, (len(paths), *cached_hw, 3), progress=progress)
        return {"root": str(tables.root), "n_images": len(paths), "side_px": side, "resize": resize}

    def is_whole(folder: Path) -> bool:
        return _read(folder) is not None

    arrays = _read(build_once("pixels", fingerprint[:32], build, is_whole=is_whole))
    assert arrays is not None  # build_once has just tried it
    row_of = {image_id: row for row, (image_id, _) in enumerate(files)}
    return PixelCache(*arrays, cached_hw, resize, aspect, fingerprint, row_of)


def _written_size(cached_hw: Size, aspect: float) -> int | str:
    """What a cache is named by: the side of squares, as ever, else size and aspect."""
    height, width = cached_hw
    return height if height == width and aspect == 1 else f"{height}x{width} {aspect}"


def _fingerprint(root: Path, files: Sequence[tuple[str, Path]], side: int | str, resize: ResizeRule) -> str:
    digest = hashlib.sha256(f"{_VERSION}\n{root}\n{side}\n{resize}\n".encode(errors="surrogateescape"))
    missing = []
    for image_id, path in files:
        try:
            status = path.stat()
        except OSError:
            missing.append(f"{path}: does not exist")
            continue
        line = f"{image_id}\n{status.st_size}\n{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    _refuse(missing, n_images=len(files))
    return digest.hexdigest()


def _read(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Pixels and sizes, or None where they are damaged."""
    try:
        return np.load(folder / _PIXELS, mmap_mode="r"), np.load(folder / _SIZES)
    except Exception:  # numpy raises nearly anything on a damaged header; all of it means that it is built again
        return None


def _write_pixels(folder: Path, decoded: Iterator[DecodedImage], shape: tuple[int, ...], *, progress: bool) -> None:
    """Writes in order through a plain file: a full disk is then an error, where a memory map would kill the process."""
    sizes: list[tuple[int, int]] = []
    faults: list[str] = []
    with (folder / _PIXELS).open("wb") as file:
        _write_header(file, shape)
        for result in with_bar(decoded, "Decoding images", n_steps=shape[0], force=progress):
            if isinstance(result, DataError):
                faults.append(str(result))
                continue
            pixels, size_hw = result
            sizes.append(size_hw)
            if not faults:
                file.write(pixels.tobytes())
        _refuse(faults, n_images=shape[0])
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / _SIZES, np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _decode_all(paths: Sequence[Path], cached_hw: Size, resize: ResizeRule, aspect: float) -> Iterator[DecodedImage]:
    """Pixels and size, or the error, of each path in order; Pillow decodes outside the GIL, so threads do."""

    def decode(path: Path) -> DecodedImage:
        try:
            return decode_resized(path, size_hw=cached_hw, resize=resize, aspect=aspect)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-decode") as pool:
        for start in range(0, len(paths), _CHUNK_IMAGES):
            yield from pool.map(decode, paths[start : start + _CHUNK_IMAGES])


def _refuse(faults: Sequence[str], *, n_images: int) -> None:
    if not faults:
        return
    shown = "\n  ".join(faults[:_SHOWN_FAULTS])
    more = f"\n  and {len(faults) - _SHOWN_FAULTS} more" if len(faults) > _SHOWN_FAULTS else ""
    raise DataError(
        f"{len(faults)} of {n_images} images cannot be used; replace or remove them "
        f"(`attnsearch data check` looks for more):\n  {shown}{more}"
    )
