"""CUB lists -> class folders."""

import errno
import shutil
from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.data import build_tables
from attnsearch.data.cub import organize_cub
from attnsearch.errors import DataError, StoreError


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    """Two classes of three pictures, the last of each for testing."""
    root = tmp_path / "CUB_200_2011"
    names = [f"{folder}/{index}.jpg" for folder in ("001.Auk", "002.Owl") for index in range(3)]
    lists = {
        "images.txt": [f"{n} {name}" for n, name in enumerate(names, start=1)],
        "classes.txt": ["1 001.Auk", "2 002.Owl"],
        "image_class_labels.txt": [f"{n} {1 + (n > 3)}" for n in range(1, 7)],
        "train_test_split.txt": [f"{n} {int(n % 3 != 0)}" for n in range(1, 7)],
    }
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "images" / name).write_text(name)
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines))
    return root


@pytest.mark.parametrize("link", [False, True])
def test_the_folders_hold_the_official_splits(cub: Path, tmp_path: Path, link: bool) -> None:
    target = tmp_path / "birds"
    assert organize_cub(cub, target, link=link) == 6
    tables = build_tables(FolderData(root=str(target)))
    assert tables.class_names == ("001.Auk", "002.Owl")
    assert tables.test is not None
    assert tables.test.image_ids == ("test/001.Auk/2.jpg", "test/002.Owl/2.jpg")
    picture = target / "train/001.Auk/0.jpg"
    assert picture.read_text() == "001.Auk/0.jpg"
    assert picture.samefile(cub / "images/001.Auk/0.jpg") == link


def test_a_filled_target_is_refused(cub: Path, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/mine.txt").touch()
    with pytest.raises(DataError, match="birds is not empty"):
        organize_cub(cub, tmp_path / "birds")
    assert [path.name for path in (tmp_path / "birds").iterdir()] == ["mine.txt"]


def test_an_empty_target_is_taken(cub: Path, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    assert organize_cub(cub, tmp_path / "birds") == 6


def test_a_full_disk_leaves_nothing_half_written(cub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = shutil.copy2, []

    def copy(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(shutil, "copy2", copy)
    with pytest.raises(StoreError, match="No space left"):
        organize_cub(cub, tmp_path / "birds")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CUB_200_2011"]


def test_missing_pictures_are_told_before_anything_is_written(cub: Path, tmp_path: Path) -> None:
    (cub / "images/002.Owl/1.jpg").unlink()
    with pytest.raises(DataError, match=r"002\.Owl/1\.jpg"):
        organize_cub(cub, tmp_path / "birds")
    assert not (tmp_path / "birds").exists()
