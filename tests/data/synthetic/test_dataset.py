"""The embedded birds: codes, files, masks, and how far they move about."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import MAX_SYNTHETIC_CLASSES, FolderData, SyntheticData
from attnsearch.data import build_tables
from attnsearch.data.loader import BatchLoader, open_data
from attnsearch.data.synthetic.birds import PARTS, class_codes, draw_bird
from attnsearch.data.synthetic.dataset import bird_jobs, make_synthetic
from attnsearch.data.synthetic.redraw import BirdRedraw
from attnsearch.errors import ConfigError, DataError


def few(**changes: object) -> SyntheticData:
    values = {
        "n_classes": 2,
        "n_train_per_class": 3,
        "n_val_per_class": 2,
        "n_test_per_class": 1,
        "picture_px": 48,
        "image_size_px": 32,
        **changes,
    }
    return SyntheticData(**values)  # type: ignore[arg-type]


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("n_classes", "n_differing_parts"),
    [(n, d) for d, limit in MAX_SYNTHETIC_CLASSES.items() for n in (2, 5, 8, 9, 16, 25) if n <= limit],
)
def test_any_two_classes_differ_in_enough_parts(n_classes: int, n_differing_parts: int) -> None:
    codes = class_codes(n_classes, n_differing_parts)
    assert len(codes) == n_classes
    for one, other in itertools.combinations(codes, 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= n_differing_parts


@pytest.mark.parametrize(("n_differing_parts", "limit"), MAX_SYNTHETIC_CLASSES.items())
def test_the_stated_limits_are_reached(n_differing_parts: int, limit: int) -> None:
    assert len(set(class_codes(limit, n_differing_parts))) == limit


def test_images_are_jpeg_files_in_class_folders_with_a_mask_each() -> None:
    tables = build_tables(few())
    assert tables.class_names == ("species_1", "species_2")
    assert [len(table) for table in tables.present()] == [6, 4, 2]
    for table in tables.present():
        assert table.mask_paths is not None
        for path, mask_path in zip(table.paths, table.mask_paths, strict=True):
            with Image.open(path) as image, Image.open(mask_path) as mask:
                assert (image.format, image.size, mask.size) == ("JPEG", (48, 48), (48, 48))
                assert set(np.unique(np.asarray(mask))) == {0, 255}


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(tmp_path: Path) -> None:
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        make_synthetic(few(data_seed=seed), tmp_path / name)
    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert len(one) == 2 * 12 + 1
    assert one == two
    assert not any(one[name] == three[name] for name in one if name.endswith(".jpg"))


def test_images_are_drawn_once(cache_folder: Path) -> None:
    first = build_tables(few()).train.paths[0]
    written = first.stat().st_mtime_ns
    again = build_tables(few(image_size_px=40, flip=0.0)).train.paths[0]  # says nothing about the drawing
    assert (again, again.stat().st_mtime_ns) == (first, written)
    assert build_tables(few(part_scale=1.0)).root != first.parents[2]


def test_a_made_folder_can_be_read_as_a_folder(tmp_path: Path) -> None:
    make_synthetic(few(), tmp_path / "birds")
    tables = build_tables(FolderData(root=str(tmp_path / "birds")))
    assert tables.val.image_ids == build_tables(few()).val.image_ids
    assert tables.val.mask_paths is not None


def test_a_filled_folder_is_not_drawn_into(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(DataError, match="is not empty"):
        make_synthetic(few(), tmp_path)


def test_the_codes_of_the_classes_are_written_down(tmp_path: Path) -> None:
    make_synthetic(few(), tmp_path / "birds")
    with (tmp_path / "birds/classes.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["class", *PARTS]
    assert rows[1:] == [["species_1", "0", "0", "0", "0"], ["species_2", "0", "1", "1", "2"]]


def test_only_the_parts_depend_on_the_class() -> None:
    images = {}
    for code in ((0, 0, 0, 0), (1, 2, 1, 1)):
        image, mask = draw_bird(
            code,
            (True,) * 4,
            np.random.default_rng(1),
            SyntheticData(picture_px=96),
        )
        images[code] = np.asarray(image).astype(int), np.asarray(mask) > 0
    (one, mask_one), (other, mask_other) = images.values()
    differs = np.abs(one - other).max(axis=-1) > 3
    assert differs.any()
    # A part's tip may cover less than a quarter of a pixel: two pixels of tolerance around the masks.
    grown = mask_one | mask_other
    for axis in (0, 1, 0, 1):
        grown = grown | np.roll(grown, 1, axis) | np.roll(grown, -1, axis)
    assert not (differs & ~grown).any()


def test_parts_that_all_classes_share_are_not_masked() -> None:
    masks = []
    for marked in ((True, True, True, True), (False, True, True, True)):
        _, mask = draw_bird(
            (0, 0, 0, 0),
            marked,
            np.random.default_rng(1),
            SyntheticData(picture_px=96),
        )
        masks.append(np.asarray(mask) > 0)
    assert masks[1].sum() < masks[0].sum()
    assert not (masks[1] & ~masks[0]).any()


def test_no_fixed_place_finds_the_parts() -> None:
    """A map that always points to one cell of 12 x 12 may touch a planted part in at most half of the images."""
    cfg = SyntheticData(n_classes=4, n_train_per_class=1, n_val_per_class=20, n_test_per_class=1)
    made = BatchLoader(open_data(cfg), "val", batch_size=80, device="cpu", with_masks=True)
    (batch,) = made.epoch(1)
    assert batch.part_masks is not None
    cells = batch.part_masks.view(80, 12, 8, 12, 8).any(dim=4).any(dim=2)  # (B, 12, 12)
    assert cells.any(dim=2).any(dim=1).all()  # every bird shows some part
    assert cells.float().mean(dim=0).max() <= 0.5


def test_training_images_without_parts_say_which_classes_they_may_be_of() -> None:
    cfg = few(n_classes=9, n_train_per_class=10, n_differing_parts=2, missing_parts=0.5)
    tables, codes = build_tables(cfg), BirdRedraw(cfg).codes
    assert tables.train.possible is not None
    assert tables.val.possible is None
    jobs = {job.image_id: job for job in bird_jobs(cfg)}
    n_incomplete = 0
    for row, image_id in enumerate(tables.train.image_ids):
        job = jobs[image_id]
        left = [PARTS.index(name) for name in job.present]
        expected = [all(code[place] == job.code[place] for place in left) for code in codes]
        assert tables.train.possible[row].tolist() == expected
        assert expected[int(tables.train.labels[row])]
        assert left
        n_incomplete += len(left) < 4
    assert 30 <= n_incomplete <= 60  # of 90, binomial: 45 with a deviation of 4.7
    assert tables.train.take([3, 1]).possible.tolist() == tables.train.possible[[3, 1]].tolist()


def test_missing_parts_change_no_other_image() -> None:
    complete, lacking = build_tables(few(n_classes=5)), build_tables(few(n_classes=5, missing_parts=1.0))
    for one, other in zip((complete.val, complete.test), (lacking.val, lacking.test), strict=True):
        assert one is not None
        assert other is not None
        assert [path.read_bytes() for path in one.paths] == [path.read_bytes() for path in other.paths]
    pairs = zip(complete.train.paths, lacking.train.paths, strict=True)
    assert not any(one.read_bytes() == other.read_bytes() for one, other in pairs)
    assert complete.train.possible is None


def test_a_batch_says_which_classes_are_possible() -> None:
    source = open_data(few(n_classes=5, missing_parts=1.0))
    batch = BatchLoader(source, "train", batch_size=4, device="cpu").batch(np.array([2, 0]))
    assert batch.possible is not None
    assert source.tables.train.possible is not None
    assert batch.possible.tolist() == source.tables.train.possible[[2, 0]].tolist()
    assert batch.take(slice(1, 2)).possible.tolist() == [source.tables.train.possible[0].tolist()]
    assert BatchLoader(source, "val", batch_size=4, device="cpu").batch(np.array([0])).possible is None


def test_a_folder_cannot_lack_parts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing_parts must be 0.* got 0\.5"):
        make_synthetic(few(missing_parts=0.5), tmp_path / "birds")


def test_settings_without_missing_parts_are_written_as_before_there_were_any() -> None:
    assert "missing_parts" not in few().model_dump()
    assert few(missing_parts=0.5).model_dump()["missing_parts"] == 0.5
