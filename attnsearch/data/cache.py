"""The cache of what can be rebuilt: folders that are built once for all processes, decoded images among them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from attnsearch.data.images import decode_resized
from attnsearch.data.listing import name_lines
from attnsearch.data.tables import DataTables, ImageTable, places_of
from attnsearch.errors import DataError, StoreError
from attnsearch.geometry import Resizing, Size
from attnsearch.progress import with_bar

logger = logging.getLogger(__name__)

CacheKind = Literal["pixels", "synthetic"]
KINDS: tuple[CacheKind, ...] = ("pixels", "synthetic")
_VARIABLE = "ATTNSEARCH_CACHE"
_ABOUT = "about.json"


@dataclass(frozen=True)
class CacheEntry:
    """One built folder: what it was made from, and the bytes that it takes on disk."""

    kind: CacheKind
    path: Path
    about: Mapping[str, str | int | float]
    n_bytes: int


def cache_dir() -> Path:
    """`$ATTNSEARCH_CACHE`, or `~/.cache/attnsearch`; made on first use for this user alone (mode 0700).

    Raises:
        StoreError: it cannot be made.
    """
    folder = Path(os.environ.get(_VARIABLE) or "~/.cache/attnsearch").expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the cache folder {folder} cannot be made ({error}); {_elsewhere()}") from error
    return folder


def check_free_space(folder: Path, n_bytes: int) -> None:
    """Refuses a folder that has no room for so many bytes.

    Raises:
        StoreError: names the bytes that are needed and those that are free.
    """
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise StoreError(f"{folder} needs {n_bytes} bytes and has {free} free; {_elsewhere()}")


def build_once(
    kind: CacheKind,
    key: str,
    build: Callable[[Path], Mapping[str, str | int | float]],
    *,
    is_whole: Callable[[Path], bool],
) -> Path:
    """The folder `<cache>/<kind>/<key>`, built first if it is missing or broken.

    The builder works in a hidden folder that is renamed at the end, under a lock: of many processes one builds, the
    others wait, and a killed builder leaves nothing but the hidden folder, which the next one removes.

    Args:
        build: fills the folder it is given, and returns what its `about.json` records.
        is_whole: whether a finished folder can still be used.

    Raises:
        StoreError: the disk is full or cannot be written. Errors of `build` pass through.
    """
    home = cache_dir() / kind
    folder = home / key
    if folder.is_dir() and is_whole(folder):
        return folder
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        with _locked(folder):
            if folder.is_dir() and is_whole(folder):  # another process was faster
                return folder
            _build(folder, build)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written ({error}); {_elsewhere()}") from error
    return folder


def list_caches() -> list[CacheEntry]:
    """Everything that was built, by kind and key."""
    return [
        CacheEntry(kind, about.parent, _read_about(about), _size_of(about.parent))
        for kind in KINDS
        for about in sorted((cache_dir() / kind).glob(f"*/{_ABOUT}"))
        if not about.parent.name.startswith(".")
    ]


def _read_about(path: Path) -> dict[str, str | int | float]:
    """What `about.json` records; nothing where it is damaged, so that the folder can still be listed and cleared."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def clear_cache(*, root: Path | None = None) -> int:
    """Removes built folders and what killed builders left; a run that has one open keeps its pixels.

    Args:
        root: only what was made from this data root; None means everything.

    Returns:
        The bytes that were freed. A folder that is being built is left alone.
    """
    entries = [e.path for e in list_caches() if root is None or e.about.get("root") == str(root.absolute())]
    return sum(_remove(folder) for folder in [*entries, *(_leftovers("*") if root is None else ())])


def _build(folder: Path, build: Callable[[Path], Mapping[str, str | int | float]]) -> None:
    for leftover in _leftovers(folder.name):
        logger.warning("removing %s, left by a builder that was killed", leftover)
        shutil.rmtree(leftover)
    if folder.exists():
        logger.warning("rebuilding %s, which is damaged", folder)
        shutil.rmtree(folder)
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        hidden.mkdir(mode=0o700)
        about = build(hidden)
        (hidden / _ABOUT).write_text(json.dumps(dict(about), indent=1), encoding="utf-8")
        hidden.rename(folder)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def _locked(folder: Path) -> AbstractContextManager[object]:
    """Waits for the lock of a folder, which is released at the end of the block."""
    lock = FileLock(_lock_path(folder))
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        logger.info("waiting for another process that builds %s", folder)
        return lock.acquire()


def _lock_path(folder: Path) -> Path:
    """Beside the folder; the hidden folder of a builder (`.<key>.<pid>`) has the lock of what it builds."""
    return folder.with_name(folder.name.strip(".").split(".")[0] + ".lock")


def _leftovers(key: str) -> list[Path]:
    return [path for kind in KINDS for path in (cache_dir() / kind).glob(f".{key}.*") if path.is_dir()]


def _remove(folder: Path) -> int:
    """The bytes that were freed: 0 of a folder that another process has removed since it was listed."""
    try:
        with FileLock(_lock_path(folder), timeout=0):
            if not folder.exists():
                return 0
            n_bytes = _size_of(folder)
            shutil.rmtree(folder)
            return n_bytes
    except Timeout:
        logger.warning("%s is being built or removed by another process", folder)
        return 0
    except OSError as error:
        raise StoreError(f"{folder} cannot be removed ({error}); remove it by hand") from error


def _size_of(folder: Path) -> int:
    """The bytes of all files of a folder, without those that another process removes at the same time."""
    n_bytes = 0
    for parent, _, names in os.walk(folder):  # passes over folders that are gone
        for name in names:
            with suppress(FileNotFoundError):
                n_bytes += Path(parent, name).stat().st_size
    return n_bytes


def _elsewhere() -> str:
    return f"free some space, or point {_VARIABLE} to a folder on another disk"


DecodedImage = tuple[NDArray[np.uint8], Size] | DataError

_VERSION = 1
"""Raised when the same files would give other bytes."""
_PIXELS, _SIZES = "pixels.npy", "sizes_hw.npy"
_CHUNK_IMAGES = 64
"""Images decoded ahead of the writer; bounds the memory (200 MB at 1024 pixels)."""


@dataclass(frozen=True, eq=False)
class PixelCache:
    """All images of a data set in one array.

    Attributes:
        pixels: (M, *resizing.size_hw, 3) uint8 RGB, memory-mapped, read-only.
        sizes_hw: (M, 2) int64 height and width of the upright originals in pixels.
        image_ids: M names, in the order of the rows.
        resizing: how originals became them.
    """

    pixels: NDArray[np.uint8]
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
    files = sorted(
        (image_id, path)
        for table in tables.present()
        for image_id, path in zip(table.image_ids, table.paths, strict=True)
    )
    side = _written_size(resizing)
    fingerprint = _fingerprint(tables.root, files, side, resizing.rule)
    paths = [path for _, path in files]
    shape = (len(paths), *resizing.size_hw, 3)

    def build(folder: Path) -> dict[str, str | int | float]:
        check_free_space(folder, math.prod(shape))
        _write_pixels(folder, _decode_all(paths, resizing), shape, progress=progress)
        return {"root": str(tables.root), "n_images": len(paths), "side_px": side, "resize": resizing.rule}

    folder = build_once("pixels", fingerprint[:32], build, is_whole=lambda folder: _read(folder) is not None)
    arrays = _read(folder)
    assert arrays is not None  # build_once has just tried it
    return PixelCache(*arrays, tuple(image_id for image_id, _ in files), resizing, fingerprint)


def _written_size(resizing: Resizing) -> int | str:
    """The size in the name of a cache: the side of squares, as in version 0.1, else size and aspect."""
    height, width = resizing.size_hw
    return height if height == width and resizing.aspect == 1 else f"{height}x{width} {resizing.aspect}"


def _fingerprint(root: Path, files: Sequence[tuple[str, Path]], side: int | str, rule: str) -> str:
    digest = hashlib.sha256(f"{_VERSION}\n{root}\n{side}\n{rule}\n".encode(errors="surrogateescape"))
    missing = []
    for image_id, path in files:
        try:
            status = path.stat()
        except OSError:
            missing.append(f"{path}: does not exist")
            continue
        line = f"{image_id}\n{status.st_size}\n{status.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    _check_usable(missing, n_images=len(files))
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
    problems: list[str] = []
    with (folder / _PIXELS).open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for result in with_bar(decoded, "Decoding images", n_steps=shape[0], force=progress):
            if isinstance(result, DataError):
                problems.append(str(result))
                continue
            pixels, size_hw = result
            sizes.append(size_hw)
            if not problems:
                file.write(pixels.tobytes())
        _check_usable(problems, n_images=shape[0])
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / _SIZES, np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _decode_all(paths: Sequence[Path], resizing: Resizing) -> Iterator[DecodedImage]:
    """Pixels and size, or the error, of each path in order; Pillow decodes outside the GIL, so threads do."""

    def decode(path: Path) -> DecodedImage:
        try:
            return decode_resized(path, resizing)
        except DataError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="attnsearch-decode") as pool:
        for start in range(0, len(paths), _CHUNK_IMAGES):
            yield from pool.map(decode, paths[start : start + _CHUNK_IMAGES])


def _check_usable(problems: Sequence[str], *, n_images: int) -> None:
    if not problems:
        return
    raise DataError(
        f"{len(problems)} of {n_images} images cannot be used; replace or remove them "
        f"(`attnsearch data check` looks for more):{name_lines(problems)}"
    )
