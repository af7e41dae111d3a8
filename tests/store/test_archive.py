"""Archives are written part by part and whole or not at all; damaged ones are refused with the place."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.store import archive as module
from attnsearch.store.archive import (
    ArchiveWriter,
    has_archive,
    read_archive,
    read_archive_without_maps,
    read_rankings,
)
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import AttentionArchive
from tests.explorer.built_reid import build_reid

PER_IMAGE = ("labels", "predictions", "confidences", "sizes_hw", "crop_boxes", "maps", "norms", "saliency")


@pytest.fixture
def paths(layout: StudyLayout) -> ArchivePaths:
    return layout.trial(7).archive("val")


def cut(whole: AttentionArchive, start: int, stop: int) -> AttentionArchive:
    """Images `start` to `stop` as a part of the same archive."""
    arrays: dict[str, Any] = {name: getattr(whole, name) for name in PER_IMAGE}
    parts = {name: None if array is None else array[start:stop] for name, array in arrays.items()}
    return replace(whole, image_ids=whole.image_ids[start:stop], **parts)


def write(paths: ArchivePaths, whole: AttentionArchive, *, batch: int = 2) -> None:
    n_images = len(whole.image_ids)
    with ArchiveWriter(paths, n_images) as writer:
        for start in range(0, n_images, batch):
            writer.append(cut(whole, start, min(start + batch, n_images)))
        writer.finish()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_archive_comes_back_whole_whatever_the_batches(
    paths: ArchivePaths, archive: AttentionArchive, batch: int
) -> None:
    write(paths, archive, batch=batch)
    found = read_archive(paths)

    for name in PER_IMAGE:
        expected, value = getattr(archive, name), getattr(found, name)
        assert (value is None) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(value, expected)
            assert value.dtype == expected.dtype
    shared = ("image_ids", "class_names", "map_names", "config_digest", "epoch", "split")
    assert [getattr(found, name) for name in shared] == [getattr(archive, name) for name in shared]
    assert names_in(paths.maps.parent) == [
        *("archive_val.json", "attMaps_val.npy", "images_val.csv", "saliency_val.npy")
    ]


def test_arrays_are_mapped_read_only(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    maps = read_archive(paths).maps

    assert isinstance(maps, np.memmap)
    assert not maps.flags.writeable


def test_other_dtypes_and_strides_are_stored_as_float32(paths: ArchivePaths, archive: AttentionArchive) -> None:
    assert archive.maps is not None
    turned = archive.maps.astype(np.float64)[:, :, ::-1]
    write(paths, replace(archive, maps=turned))
    maps = np.load(paths.maps, allow_pickle=False)

    assert maps.dtype == np.float32
    np.testing.assert_array_equal(maps, turned)


def test_index_reads_with_no_options(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    index = pd.read_csv(paths.images)

    assert index.columns.tolist() == [
        *("row", "image_id", "label", "class_name", "prediction", "predicted_class", "confidence"),
        *("height_px", "width_px", "crop_left", "crop_top", "crop_right", "crop_bottom"),
    ]
    assert index.iloc[1].tolist() == [
        *(1, "class_a/1, 'x'.jpg", 1, "tern", 0, "Müller's gull"),
        *(pytest.approx(0.325), 20, 30, 0.1, 0.2, 28.3, 19.7),
    ]


def test_family_without_maps_leaves_an_index_only(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, replace(archive, maps=None, saliency=None, map_names=()))
    found = read_archive(paths)

    assert (found.maps, found.norms, found.saliency) == (None, None, None)
    assert found.image_ids == archive.image_ids


def test_second_archive_replaces_the_first_one_whole(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    write(paths, replace(archive, saliency=None, epoch=9, norms=np.ones((5, 1, 2, 3), dtype=np.float32)))
    found = read_archive(paths)

    assert (found.epoch, found.saliency) == (9, None)
    assert not paths.saliency.exists()


def test_nothing_is_visible_before_the_end(paths: ArchivePaths, archive: AttentionArchive) -> None:
    writer = ArchiveWriter(paths, 5)
    writer.append(archive)

    assert not any(path.exists() for path in (paths.maps, paths.saliency, paths.images, paths.about))
    writer.finish()
    assert has_archive(paths)


def test_broken_off_archive_leaves_nothing(paths: ArchivePaths, archive: AttentionArchive) -> None:
    def break_off() -> None:
        with ArchiveWriter(paths, 5) as writer:
            writer.append(cut(archive, 0, 2))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert names_in(paths.maps.parent) == []
    with pytest.raises(StoreError, match=r"images_val\.csv does not exist"):
        read_archive(paths)


def test_full_disk_while_writing_leaves_nothing(
    paths: ArchivePaths, archive: AttentionArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk(BufferedWriter):
        def write(self, data: Any, /) -> int:
            if self.tell() > 0 and len(data) < 100:  # the header passes, the first maps do not
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(Path, "open", lambda path, mode: FullDisk(open(path, mode, buffering=0)))  # noqa: SIM115, PTH123
    writer = ArchiveWriter(paths, 5)

    with pytest.raises(StoreError, match=r"attMaps_val\.npy: No space left on device; .*prune-files"):
        writer.append(cut(archive, 0, 2))
    assert names_in(paths.maps.parent) == []


def test_full_disk_at_the_end_leaves_no_readable_archive(
    paths: ArchivePaths, archive: AttentionArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file = os.replace

    def fail_on_the_index(source: Path, target: Path) -> None:
        if target == paths.images:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    write(paths, archive)
    monkeypatch.setattr(os, "replace", fail_on_the_index)

    with pytest.raises(StoreError, match=r"images_val\.csv: No space left"):
        write(paths, replace(archive, epoch=9))
    assert not has_archive(paths)
    assert not any(name.endswith(".tmp") for name in names_in(paths.maps.parent))


def test_archive_too_large_for_the_disk_is_refused_at_its_first_part(
    paths: ArchivePaths, archive: AttentionArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=17 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    # 72 bytes of maps and saliency per image: 100 000 images need 6.9 MiB, and 16 MiB stay spare
    writer = ArchiveWriter(paths, 100_000)

    with pytest.raises(StoreError, match=r"images_val\.csv: needs 22 MiB but 17 MiB are free"):
        writer.append(archive)
    assert names_in(paths.maps.parent) == []


def test_stale_attempt_cannot_replace_an_archive(paths: ArchivePaths, archive: AttentionArchive) -> None:
    def lost() -> None:
        raise LeaseLost("attempt 1")

    write(paths, archive)
    writer = ArchiveWriter(paths, 5, check=lost)
    writer.append(replace(archive, epoch=9))
    with pytest.raises(LeaseLost):
        writer.finish()

    assert read_archive(paths).epoch == 3
    assert len(names_in(paths.maps.parent)) == 4


def test_too_few_or_too_many_images_are_refused(paths: ArchivePaths, archive: AttentionArchive) -> None:
    few = ArchiveWriter(paths, 6)
    few.append(archive)
    with pytest.raises(ValueError, match="must get 6 images, got 5"):
        few.finish()
    many = ArchiveWriter(paths, 9)
    many.append(archive)
    with pytest.raises(ValueError, match="must get 9 images, got 10"):
        many.append(archive)
    with pytest.raises(ValueError, match="n_images must be >= 1, got 0"):
        ArchiveWriter(paths, 0)
    assert names_in(paths.maps.parent) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.zeros((5, 2, 3, 3), np.float32)}, r"first part, got \{'maps': \(2, 3, 3\)"),
        ({"saliency": None}, r"first part, got \{'maps': \(2, 2, 3\)\}"),
        ({"epoch": 4}, "epoch must be 3 as in the first part, got 4"),
        ({"class_names": ("tern",)}, "class_names must be .* got .'tern',."),
        ({"labels": np.zeros(4, np.int64)}, "labels must have one row per image id, 5, got 4"),
        ({"saliency": np.zeros((5, 1, 2, 3), np.float32)}, "saliency must have 3 dimensions"),
        ({"map_names": ("first",)}, r"map_names must name 2 maps, got \('first',\)"),
    ],
)
def test_part_that_does_not_fit_is_refused(
    paths: ArchivePaths, archive: AttentionArchive, change: dict[str, Any], message: str
) -> None:
    writer = ArchiveWriter(paths, 10)
    writer.append(archive)

    with pytest.raises(ValueError, match=message):
        writer.append(replace(archive, **change))


def test_archive_without_its_arrays_still_has_its_index(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    paths.maps.unlink()

    assert read_archive(paths, index_only=True).image_ids == archive.image_ids
    with pytest.raises(StoreError, match=r"attMaps_val\.npy does not exist: retention removed it"):
        read_archive(paths)


@pytest.mark.parametrize(
    ("removed", "has_ranks"), [(("maps",), True), (("features",), False), (("maps", "ranks"), False), ((), True)]
)
def test_galleries_are_read_as_far_as_retention_left_them(
    tmp_path: Path, removed: tuple[str, ...], has_ranks: bool
) -> None:
    paths = build_reid(tmp_path, n_trials=1).layout.trial(0).archive("val")
    whole = read_archive(paths).retrieval
    assert whole is not None
    for name in removed:
        getattr(paths, name).unlink()

    left = read_rankings(paths)
    assert left is not None
    assert left.has_ranks is has_ranks
    np.testing.assert_array_equal(left.average_precision, whole.average_precision)
    np.testing.assert_array_equal(left.ranked_rows, whole.ranked_rows if has_ranks else whole.ranked_rows[:, :0])
    archive = read_archive_without_maps(paths)
    assert (archive.maps, archive.saliency) == (None, None)
    assert archive.retrieval is not None
    assert archive.retrieval.has_ranks is has_ranks
    queries = read_rankings(paths, queries_only=True)
    assert queries is not None
    assert not queries.has_ranks


def test_pickled_array_is_refused(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    np.save(paths.maps, np.array([{}]), allow_pickle=True)

    with pytest.raises(StoreError, match=r"attMaps_val\.npy is not a whole \.npy file"):
        read_archive(paths)


@pytest.mark.parametrize(("name", "n_bytes"), [("maps", 200), ("images", 150), ("about", 40), ("saliency", 0)])
def test_cut_off_file_is_named(paths: ArchivePaths, archive: AttentionArchive, name: str, n_bytes: int) -> None:
    write(paths, archive)
    path: Path = getattr(paths, name)
    path.write_bytes(path.read_bytes()[:n_bytes])

    with pytest.raises(StoreError, match=path.name):
        read_archive(paths)


def test_array_of_another_archive_is_refused(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    np.save(paths.maps, np.zeros((4, 2, 2, 3), dtype=np.float32))

    with pytest.raises(StoreError, match=r"attMaps_val\.npy must hold float32 of shape \[5, 2, 2, 3\].*\[4, 2, 2, 3\]"):
        read_archive(paths)


def test_index_of_another_archive_is_refused(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    lines = paths.images.read_text().splitlines(keepends=True)
    paths.images.write_text("".join(lines[:-1]))

    with pytest.raises(StoreError, match=r"images_val\.csv must have 5 rows, got 4"):
        read_archive(paths)


def test_newer_format_is_refused(paths: ArchivePaths, archive: AttentionArchive) -> None:
    write(paths, archive)
    about = json.loads(paths.about.read_text()) | {"format": 99}
    paths.about.write_text(json.dumps(about))

    with pytest.raises(StoreError, match=r"archive_val\.json has the format 99"):
        read_archive(paths)


def test_each_part_leaves_memory_for_the_disk(
    paths: ArchivePaths, archive: AttentionArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    append = module._ArrayFile.append

    def note(self: Any, part: Any) -> None:
        append(self, part)
        self._file.flush()
        written.append(self.temporary.stat().st_size)

    monkeypatch.setattr(module._ArrayFile, "append", note)
    write(paths, replace(archive, saliency=None), batch=1)

    # 128 bytes of header, then 2x2x3 cells of 4 bytes lie on the disk after each image
    assert written == [128 + 48 * n for n in range(1, 6)]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        (
            "label",
            "7",
            r"archive_val\.json does not fit .* \(a label must be one of \d classes, got 7",
        ),
        ("prediction", "-1", r"a prediction must be one of \d classes, got -1"),
        (
            "height_px",
            "0",
            r"images_val\.csv holds a value .* \(height_px and width_px must be .*got 0",
        ),
        ("crop_left", "nan", "the edges of a crop must be finite"),
        ("width_px", "9" * 5000, r"images_val\.csv holds a value that cannot be read"),
    ],
)
def test_index_with_an_impossible_value_is_refused(
    paths: ArchivePaths, archive: AttentionArchive, column: str, value: str, said: str
) -> None:
    write(paths, archive)
    header, first, *rest = paths.images.read_text().splitlines()
    names, cells = header.split(","), first.split(",")
    cells[names.index(column) - len(names)] = value  # from the end: an id may hold a comma
    paths.images.write_text("\n".join([header, ",".join(cells), *rest]) + "\n")
    with pytest.raises(StoreError, match=said):
        read_archive(paths)


@pytest.mark.parametrize("content", [b"\xff", b'"' + b"x" * 200_000 + b'"\n', b"\0"])
def test_index_that_is_no_table_is_named(paths: ArchivePaths, archive: AttentionArchive, content: bytes) -> None:
    write(paths, archive)
    paths.images.write_bytes(content)
    with pytest.raises(StoreError, match=r"images_val\.csv (cannot be read|is not the index)"):
        read_archive(paths)
