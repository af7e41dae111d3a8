"""Small copies of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.images import write_thumbnails
from attnsearch.data.tables import ImageTable
from attnsearch.errors import DataError, LeaseLost


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    """A wide picture, a small one, and one that the camera turned."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (1024, 600), (10, 200, 30)).save(folder / "wide.jpg")
    Image.new("L", (30, 20), 128).save(folder / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by a quarter to see it upright
    Image.new("RGB", (100, 50)).save(folder / "turned.jpg", exif=exif)
    ids = ("wide.jpg", "small.png", "turned.jpg")
    return ImageTable("val", ("a",), ids, tuple(folder / name for name in ids), np.zeros(3, np.int64))


def test_copies_are_small_upright_jpegs(table: ImageTable, tmp_path: Path) -> None:
    assert write_thumbnails(table, table.image_ids, lambda name: tmp_path / "out" / f"{name}.jpg") == 3
    found = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as copy:
            found[path.name] = (copy.format, copy.mode, copy.size)
    assert found == {
        "wide.jpg.jpg": ("JPEG", "RGB", (512, 300)),
        "small.png.jpg": ("JPEG", "RGB", (30, 20)),
        "turned.jpg.jpg": ("JPEG", "RGB", (50, 100)),
    }


def test_copies_keep_their_colours(table: ImageTable, tmp_path: Path) -> None:
    write_thumbnails(table, ["wide.jpg"], lambda name: tmp_path / f"{name}.jpg")
    with Image.open(tmp_path / "wide.jpg.jpg") as copy:
        colour = np.asarray(copy).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, (10, 200, 30), atol=3)  # JPEG twice


def test_a_copy_that_exists_is_left(table: ImageTable, tmp_path: Path) -> None:
    (tmp_path / "wide.jpg.jpg").write_bytes(b"here")
    assert write_thumbnails(table, ["wide.jpg", "small.png"], lambda name: tmp_path / f"{name}.jpg") == 1
    assert (tmp_path / "wide.jpg.jpg").read_bytes() == b"here"


def test_a_failed_check_leaves_nothing(table: ImageTable, tmp_path: Path) -> None:
    def refuse() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        write_thumbnails(table, table.image_ids, lambda name: tmp_path / "out" / f"{name}.jpg", check=refuse)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreadable_picture_is_named(table: ImageTable, tmp_path: Path) -> None:
    table.paths[0].write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"wide\.jpg: is not an image"):
        write_thumbnails(table, ["wide.jpg"], lambda name: tmp_path / f"{name}.jpg")


def test_an_unknown_image_is_named(table: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val has no image 'other\.jpg'"):
        write_thumbnails(table, ["other.jpg"], lambda name: tmp_path / f"{name}.jpg")
