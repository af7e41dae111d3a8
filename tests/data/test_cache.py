"""Pixels that are decoded once."""

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import stat
from collections.abc import Callable
from multiprocessing.queues import Queue
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import FolderData
from attnsearch.data import DataTables, build_tables, built_folders, cache
from attnsearch.data.built_folders import cache_dir, clear_cache, list_caches
from attnsearch.data.cache import PixelCache, is_cached, open_cache, open_masks
from attnsearch.data.images import decode_resized
from attnsearch.errors import DataError, StoreError
from attnsearch.geometry import Resizing


def tables(root: Path) -> DataTables:
    return build_tables(FolderData(root=str(root)))


def opened(root: Path, side_px: int = 8) -> PixelCache:
    return open_cache(tables(root), Resizing((side_px, side_px), "squash"))


def built(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "pixels").iterdir() if path.is_dir())


def test_every_image_is_found_under_its_table_row(small_tree: Path) -> None:
    found = tables(small_tree)
    pixels = opened(small_tree)
    for table in found.present():
        rows = pixels.rows(table)
        for row, path in zip(rows, table.paths, strict=True):
            expected, size_hw = decode_resized(path, Resizing((8, 8), "squash"))
            np.testing.assert_array_equal(pixels.pixels[row], expected)
            assert pixels.sizes_hw[row].tolist() == list(size_hw)


def test_pixels_are_mapped_read_only_bytes(small_tree: Path) -> None:
    pixels = opened(small_tree).pixels
    assert isinstance(pixels, np.memmap)
    assert (pixels.shape, pixels.dtype, pixels.flags.writeable) == ((16, 8, 8, 3), np.uint8, False)


def test_the_second_opening_decodes_nothing(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(small_tree)
    monkeypatch.setattr(cache, "decode_resized", lambda *_, **__: pytest.fail("decoded again"))
    np.testing.assert_array_equal(opened(small_tree).pixels, first.pixels)


def test_the_split_seed_does_not_change_the_cache(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 6, "train/b": 6})
    prints = {
        open_cache(build_tables(FolderData(root=str(root), split_seed=seed)), Resizing((8, 8), "squash")).fingerprint
        for seed in range(3)
    }
    assert len(prints) == 1


def test_a_changed_file_a_new_file_and_another_side_give_another_cache(small_tree: Path) -> None:
    prints = [opened(small_tree).fingerprint, opened(small_tree, side_px=9).fingerprint]
    image = small_tree / "train/crow/0.jpg"
    os.utime(image, ns=(0, 0))
    prints.append(opened(small_tree).fingerprint)
    shutil.copy(image, image.with_name("9.jpg"))
    prints.append(opened(small_tree).fingerprint)
    assert len(set(prints)) == 4


def test_a_damaged_cache_is_rebuilt(small_tree: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = np.array(opened(small_tree).pixels)
    file = next(cache_folder.rglob("pixels.npy"))
    file.write_bytes(file.read_bytes()[:200])
    np.testing.assert_array_equal(opened(small_tree).pixels, expected)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("header", [b"{'descr': '|u1', 'fortran", b"[" * 9000, b"{}"])
def test_a_damaged_header_of_the_cache_is_rebuilt(small_tree: Path, cache_folder: Path, header: bytes) -> None:
    before = np.array(opened(small_tree).pixels)
    (path,) = cache_folder.glob("pixels/*/pixels.npy")
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + path.read_bytes()[128:])
    np.testing.assert_array_equal(opened(small_tree).pixels, before)


@pytest.mark.parametrize("content", [b"", b"[" * 50_000, b"\xff", b"[]"])
def test_a_cache_with_a_damaged_note_is_listed_and_cleared(
    small_tree: Path, cache_folder: Path, content: bytes
) -> None:
    opened(small_tree)
    (note,) = cache_folder.glob("pixels/*/about.json")
    note.write_bytes(content)
    (entry,) = list_caches()
    assert entry.about == {}
    assert clear_cache() == entry.n_bytes
    assert list_caches() == []


def test_all_bad_files_are_listed_and_nothing_is_left(small_tree: Path, cache_folder: Path) -> None:
    (small_tree / "train/crow/1.jpg").write_text("text")
    whole = (small_tree / "val/wren/0.jpg").read_bytes()
    (small_tree / "val/wren/0.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        opened(small_tree)
    text = str(caught.value)
    assert text.startswith("2 of 16 images cannot be used")
    assert "train/crow/1.jpg: is not an image" in text
    assert "val/wren/0.jpg: is cut off" in text
    assert built(cache_folder) == []


def test_of_many_bad_files_twenty_are_shown(make_tree: Callable[..., Path]) -> None:
    root = make_tree({"train/a": 23, "train/b": 2, "val/a": 1, "val/b": 1})
    for path in (root / "train/a").iterdir():
        path.write_text("text")
    with pytest.raises(DataError, match=r"23 of 27(?s:.*)and 3 more$") as caught:
        opened(root)
    assert str(caught.value).count("is not an image") == 20


def test_too_little_space_is_told_before_anything_is_decoded(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    # 16 images of 8 x 8 x 3 bytes
    with pytest.raises(StoreError, match=r"needs 3072 bytes and has 100 free.*ATTNSEARCH_CACHE"):
        opened(small_tree)


def test_a_disk_that_fills_up_leaves_nothing(
    small_tree: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"No space left.*ATTNSEARCH_CACHE"):
        opened(small_tree)
    assert built(cache_folder) == []


def test_what_a_killed_builder_left_is_removed(small_tree: Path, cache_folder: Path) -> None:
    key = built_key(small_tree, cache_folder)
    leftover = cache_folder / "pixels" / f".{key}.4711"
    leftover.mkdir()
    (leftover / "pixels.npy").write_bytes(b"half")
    opened(small_tree)
    assert built(cache_folder) == [key]


def built_key(root: Path, folder: Path) -> str:
    """The name of the cache of a data set, which is removed again."""
    opened(root)
    (key,) = built(folder)
    shutil.rmtree(folder / "pixels" / key)
    return key


def test_the_cache_folder_is_for_its_user_alone(cache_folder: Path) -> None:
    assert cache_dir() == cache_folder
    assert stat.S_IMODE(cache_folder.stat().st_mode) == 0o700


def test_without_the_variable_the_cache_lies_in_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATTNSEARCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache/attnsearch"


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(StoreError, match=r"file cannot be made.*ATTNSEARCH_CACHE"):
        cache_dir()


def test_caches_are_listed_with_their_size(small_tree: Path) -> None:
    opened(small_tree)
    (entry,) = list_caches()
    assert (entry.kind, entry.about["root"], entry.about["n_images"]) == ("pixels", str(small_tree), 16)
    assert entry.n_bytes == sum(path.stat().st_size for path in entry.path.iterdir())


def test_clearing_frees_what_it_lists(small_tree: Path) -> None:
    opened(small_tree)
    opened(small_tree, side_px=9)
    n_bytes = sum(entry.n_bytes for entry in list_caches())
    assert clear_cache() == n_bytes
    assert list_caches() == []


def test_clearing_one_data_set_keeps_the_others(small_tree: Path, make_tree: Callable[..., Path]) -> None:
    other = make_tree({"train/a": 2, "train/b": 2}, root="other")
    opened(small_tree)
    opened(other)
    clear_cache(root=small_tree)
    assert {entry.about["root"] for entry in list_caches()} == {str(other)}


def test_what_another_process_clears_meanwhile_is_cleared(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(small_tree)
    listed = list_caches()
    assert clear_cache() == listed[0].n_bytes
    monkeypatch.setattr(built_folders, "list_caches", lambda: listed)
    assert clear_cache() == 0


def test_an_open_cache_outlives_clearing(small_tree: Path) -> None:
    pixels = opened(small_tree).pixels
    before = np.array(pixels)
    clear_cache()
    np.testing.assert_array_equal(pixels, before)


def test_a_bar_is_drawn_on_stderr_when_asked(small_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_cache(tables(small_tree), Resizing((8, 8), "squash"), progress=True)
    assert capsys.readouterr().out == ""


def _open_in_child(root: str, side_px: int, results: "Queue[tuple[str, int, int]]") -> None:
    logging.basicConfig(level=logging.INFO)
    n_decoded = 0

    def counted(path: Path, resizing: Resizing) -> object:
        nonlocal n_decoded
        n_decoded += 1
        return decode_resized(path, resizing)

    cache.decode_resized = counted  # type: ignore[assignment]
    found = opened(Path(root), side_px)
    results.put((found.fingerprint, int(found.pixels.sum()), n_decoded))


@pytest.mark.slow
def test_of_eight_processes_one_builds(small_tree: Path, cache_folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    children = [context.Process(target=_open_in_child, args=(str(small_tree), 64, results)) for _ in range(8)]
    for child in children:
        child.start()
    found = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join(timeout=60)
    assert len({row[:2] for row in found}) == 1
    assert sorted(row[2] for row in found) == [0] * 7 + [16]
    assert len(built(cache_folder)) == 1


def _killed_while_building(root: str) -> None:
    def fatal(_: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fatal
    opened(Path(root))


@pytest.mark.slow
def test_a_killed_builder_is_survived(small_tree: Path, cache_folder: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_killed_while_building, args=(str(small_tree),))
    child.start()
    child.join(timeout=60)
    assert child.exitcode == -signal.SIGKILL
    assert [name[0] for name in built(cache_folder)] == ["."]  # only the hidden folder
    pixels = opened(small_tree)
    assert len(pixels.pixels) == 16
    assert [name[0] == "." for name in built(cache_folder)] == [False]


def test_images_of_every_size_share_the_array(tmp_path: Path) -> None:
    for index, size_wh in enumerate([(4, 9), (30, 2), (8, 8), (1, 1)]):
        folder = tmp_path / "odd" / "train" / "ab"[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size_wh).save(folder / f"{index}.png")
    assert opened(tmp_path / "odd").sizes_hw.tolist() == [[9, 4], [8, 8], [2, 30], [1, 1]]


def with_masks(root: Path) -> list[Path]:
    """Writes a mask for each image, of a grey of its own for those of training."""
    masks = []
    for index, image in enumerate(sorted(root.rglob("*.jpg"), key=lambda path: ("train" not in path.parts, path))):
        mask = (root / "masks" / image.relative_to(root)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (16, 12), 10 * index).save(mask)
        masks.append(mask)
    return masks


def opened_masks(root: Path) -> np.ndarray:
    return open_masks(tables(root).train, root, Resizing((8, 8), "squash")).pixels


def test_masks_are_decoded_once(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_masks(small_tree)
    masks = opened_masks(small_tree)
    assert (masks.shape, masks.flags.writeable) == ((9, 8, 8), False)
    assert masks[:, 4, 4].tolist() == [10 * index for index in range(9)]
    assert [entry.kind for entry in list_caches()] == ["masks"]
    monkeypatch.setattr(cache, "decode_mask", lambda *_: pytest.fail("decoded again"))
    np.testing.assert_array_equal(opened_masks(small_tree), masks)


def test_a_changed_mask_is_decoded_again_and_a_broken_one_is_named(small_tree: Path) -> None:
    files = with_masks(small_tree)
    opened_masks(small_tree)
    Image.new("L", (16, 12), 255).save(files[2])
    os.utime(files[2], ns=(1, 1))
    assert opened_masks(small_tree)[2, 4, 4] == 255
    files[3].write_bytes(b"no image")
    with pytest.raises(DataError, match=f"1 of 9 masks cannot be used.*{files[3].name}: is not an image"):
        opened_masks(small_tree)


def test_it_is_known_whether_images_are_decoded(small_tree: Path) -> None:
    found, resizing = tables(small_tree), Resizing((8, 8), "squash")
    assert not is_cached(found, resizing)
    open_cache(found, resizing)
    assert is_cached(found, resizing)
    assert not is_cached(found, Resizing((16, 16), "squash"))
