"""The published layout of CUB-200-2011, as a small fake."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import CubData, FolderData
from attnsearch.data import build_tables
from attnsearch.data.cub import list_images, organize_cub
from attnsearch.data.tables import DataTables, build_from_listing
from attnsearch.errors import DataError, StoreError

NAMES = [f"{folder}/{index}.jpg" for folder in ("001.Albatross", "002.Auklet") for index in range(4)]


def write_cub(folder: Path) -> Path:
    """Two classes of four images, of which the last of each is for testing."""
    root = folder / "CUB_200_2011"
    lists = {
        "images.txt": [f"{n} {name}" for n, name in enumerate(NAMES, start=1)],
        "classes.txt": ["1 001.Albatross", "2 002.Auklet"],
        "image_class_labels.txt": [f"{n} {1 + (n > 4)}" for n in range(1, 9)],
        "train_test_split.txt": [f"{n} {int(n % 4 != 0)}" for n in range(1, 9)],
        "bounding_boxes.txt": [f"{n} 2.0 3.0 {n}.0 4.0" for n in range(1, 9)],
        "parts/parts.txt": ["1 beak", "2 left eye"],
        "parts/part_locs.txt": [f"{n} {part} {part}.5 {n}.0 {part % 2}" for n in range(1, 9) for part in (1, 2)],
    }
    for name, lines in lists.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("".join(f"{line}\n" for line in lines))
    for name in NAMES:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 10)).save(root / "images" / name)
    return root


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    return write_cub(tmp_path)


def tables(root: Path) -> DataTables:
    cfg = CubData(root=str(root), check_sizes=False)
    return build_from_listing(list_images(cfg), cfg)


def test_lists_become_tables(cub: Path) -> None:
    found = tables(cub)
    assert found.class_names == ("001.Albatross", "002.Auklet")
    assert found.test is not None
    assert found.test.image_ids == ("images/001.Albatross/3.jpg", "images/002.Auklet/3.jpg")
    assert (len(found.train), len(found.val)) == (4, 2)
    assert found.test.paths[1].is_file()


def test_boxes_are_corners_and_hidden_parts_are_nan(cub: Path) -> None:
    test = tables(cub).test
    assert test is not None
    assert test.boxes is not None
    assert test.points is not None
    assert test.boxes.tolist() == [[2.0, 3.0, 6.0, 7.0], [2.0, 3.0, 10.0, 7.0]]  # images 4 and 8: width 4 and 8
    assert test.point_names == ("beak", "left eye")
    np.testing.assert_array_equal(test.points[0], [[1.5, 4.0], [np.nan, np.nan]])


def test_classes_keep_the_order_of_their_numbers(cub: Path) -> None:
    (cub / "classes.txt").write_text("1 zebra\n2 ant\n")
    found = tables(cub)
    assert found.class_names == ("zebra", "ant")
    assert found.train.labels.tolist() == sorted(found.train.labels)


def test_the_folder_around_the_unpacked_one_will_do(cub: Path) -> None:
    assert tables(cub.parent).root == cub


def test_segmentations_become_masks(cub: Path) -> None:
    for name in NAMES:
        mask = (cub / "segmentations" / name).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        mask.touch()
    masks = tables(cub).val.mask_paths
    assert masks is not None
    assert masks[0].parent == cub / "segmentations/001.Albatross"


def test_missing_images_are_all_named(cub: Path) -> None:
    (cub / "images" / NAMES[1]).unlink()
    (cub / "images" / NAMES[6]).unlink()
    with pytest.raises(DataError, match=r"2 of 8 listed files do not exist(?s:.*)Albatross/1.jpg(?s:.*)Auklet/2.jpg"):
        tables(cub)


@pytest.mark.parametrize("name", ["classes.txt", "train_test_split.txt"])
def test_a_missing_list_is_named(cub: Path, name: str) -> None:
    (cub / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name}"):
        tables(cub)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.txt", "1 a.jpg\nx\n", r"images.txt:2: expected a number and 1 more fields, got 'x'"),
        ("image_class_labels.txt", "1 1\n", r"image_class_labels.txt has no line for image 2"),
        ("image_class_labels.txt", "1 one\n", r"no number: .*'one'"),
        ("classes.txt", "1 001.Albatross\n", r"no line for class 2"),
    ],
)
def test_a_list_that_does_not_fit_is_named(cub: Path, name: str, text: str, message: str) -> None:
    (cub / name).write_text(text)
    with pytest.raises(DataError, match=message):
        tables(cub)


def test_a_class_without_test_images_is_named(cub: Path) -> None:
    (cub / "train_test_split.txt").write_text("".join(f"{n} {int(n != 8)}\n" for n in range(1, 9)))
    with pytest.raises(DataError, match=r"only in train: 001\.Albatross"):
        tables(cub)


def test_class_folders_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "birds/train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"data\.name=folder"):
        tables(tmp_path / "birds")


def test_a_missing_root_suggests_a_near_name(cub: Path) -> None:
    with pytest.raises(DataError, match=r"CUB-200-2011 does not exist; did you mean .*CUB_200_2011\?"):
        tables(cub.with_name("CUB-200-2011"))


def test_a_root_without_lists_is_refused(make_tree: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match=r"no images\.txt"):
        tables(make_tree({"a": 1}))


def test_a_part_of_cub_is_told_from_the_whole(cub: Path) -> None:
    cfg = CubData(root=str(cub))
    with pytest.raises(DataError, match=r"2 classes and 6 train, 2 test .* 200 classes and 5994 train, 5794 test"):
        build_from_listing(list_images(cfg), cfg)


@pytest.fixture
def small_cub(tmp_path: Path) -> Path:
    """Two classes of three images, the last of each for testing."""
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
def test_the_folders_hold_the_official_splits(small_cub: Path, tmp_path: Path, link: bool) -> None:
    target = tmp_path / "birds"
    assert organize_cub(small_cub, target, link=link) == 6
    tables = build_tables(FolderData(root=str(target)))
    assert tables.class_names == ("001.Auk", "002.Owl")
    assert tables.test is not None
    assert tables.test.image_ids == ("test/001.Auk/2.jpg", "test/002.Owl/2.jpg")
    image = target / "train/001.Auk/0.jpg"
    assert image.read_text() == "001.Auk/0.jpg"
    assert image.samefile(small_cub / "images/001.Auk/0.jpg") == link


def test_a_filled_target_is_refused(small_cub: Path, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds/mine.txt").touch()
    with pytest.raises(DataError, match="birds is not empty"):
        organize_cub(small_cub, tmp_path / "birds")
    assert [path.name for path in (tmp_path / "birds").iterdir()] == ["mine.txt"]


def test_an_empty_target_is_taken(small_cub: Path, tmp_path: Path) -> None:
    (tmp_path / "birds").mkdir()
    assert organize_cub(small_cub, tmp_path / "birds") == 6


def test_a_full_disk_leaves_nothing_half_written(
    small_cub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = shutil.copy2, []

    def copy(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(shutil, "copy2", copy)
    with pytest.raises(StoreError, match="No space left"):
        organize_cub(small_cub, tmp_path / "birds")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CUB_200_2011"]


def test_missing_images_are_told_before_anything_is_written(small_cub: Path, tmp_path: Path) -> None:
    (small_cub / "images/002.Owl/1.jpg").unlink()
    with pytest.raises(DataError, match=r"002\.Owl/1\.jpg"):
        organize_cub(small_cub, tmp_path / "birds")
    assert not (tmp_path / "birds").exists()
