"""What is drawn for each image of an epoch."""

import random

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import kstest
from timm.data import random_erasing

from attnsearch.config.data import FolderData
from attnsearch.config.images import MultiScale
from attnsearch.data.views import random_views


def square(n_images: int) -> NDArray[np.int64]:
    """Sizes of square images."""
    return np.full((n_images, 2), 20, dtype=np.int64)


def test_random_views_fill_their_ranges() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=0.8, flip=0.25, brightness=0.1, saturation=0.5)
    views = random_views(square(4000), cfg, seed=0, epoch=1)
    assert set(views.x.tolist()) == set(views.y.tolist()) == {0, 1, 2, 3, 4}
    assert views.is_mirrored.mean() == pytest.approx(0.25, abs=0.03)
    for factors, spread in ((views.brightness, 0.1), (views.saturation, 0.5)):
        assert factors.min() == pytest.approx(1 - spread, abs=0.01 * spread + 1e-3)
        assert factors.max() == pytest.approx(1 + spread, abs=0.01 * spread + 1e-3)
        assert factors.mean() == pytest.approx(1, abs=0.05 * spread)


def test_a_view_depends_on_its_row_and_not_on_the_number_of_images() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=0.8)
    few, many = (random_views(square(n), cfg, seed=1, epoch=2) for n in (5, 50))
    np.testing.assert_array_equal(few.brightness, many.brightness[:5])
    np.testing.assert_array_equal(few.x, many.x[:5])


def test_views_are_drawn_as_before_there_were_repeated_rows() -> None:
    """Runs of version 0.1 are repeated exactly: stream 1 of (seed, epoch) holds place, flip and colours."""
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=0.8)
    views = random_views(square(6), cfg, seed=3, epoch=2)
    drawn = np.random.default_rng((3, 2, 1)).random((6, 5))
    np.testing.assert_array_equal(views.x, (drawn[:, 0] * 5).astype(int))
    np.testing.assert_array_equal(views.y, (drawn[:, 1] * 5).astype(int))
    np.testing.assert_array_equal(views.is_mirrored, drawn[:, 2] < 0.5)
    np.testing.assert_array_equal(views.brightness, (1 + 0.126 * (2 * drawn[:, 3] - 1)).astype(np.float32))
    np.testing.assert_array_equal(views.seeds, np.random.default_rng((3, 2, 3)).integers(2**62, size=6))
    assert views.erased is None


EVERYTHING = {"crop_scale": (0.1, 0.9), "erase": 1.0, "cell_deletion": 1.0}


def test_each_occurrence_of_a_row_has_a_view_of_its_own() -> None:
    cfg = FolderData.model_validate({"root": "x", "image_size_px": 16, "crop_ratio": 0.8, **EVERYTHING})
    once = random_views(square(5), cfg, seed=1, epoch=2)
    rows = np.array([3, 1, 3, 0, 3, 1])
    views = random_views(square(5), cfg, seed=1, epoch=2, rows=rows)
    first = np.array([0, 1, 3])  # places where a row comes for the first time
    for name in ("x", "y", "is_mirrored", "brightness", "saturation", "seeds", "erased", "deleted"):
        np.testing.assert_array_equal(getattr(views, name)[first], getattr(once, name)[rows[first]])
    assert views.windows is not None
    assert once.windows is not None
    np.testing.assert_array_equal(views.windows.boxes[first], once.windows.boxes[rows[first]])
    for drawn in (views.brightness, views.seeds, views.windows.boxes[:, 0]):
        assert len(set(drawn.tolist())) == 6
    later = random_views(square(5), cfg, seed=1, epoch=2, rows=rows[::-1])
    np.testing.assert_array_equal(later.brightness[[1, 3, 5]], views.brightness[[0, 2, 4]])  # of row 3, in its order


def test_padded_crops_reach_beyond_every_side() -> None:
    cfg = FolderData(root="x", image_size_px=(24, 16), crop_ratio=1.0, pad_px=3)
    views = random_views(square(2000), cfg, seed=0, epoch=1)
    assert set(views.x.tolist()) == set(views.y.tolist()) == set(range(-3, 4))


def test_erased_rectangles_are_those_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their distribution is that of timm's own code, on images higher than wide, where not every shape fits."""
    cfg = FolderData(root="x", image_size_px=(64, 32), crop_ratio=1.0, erase=1.0)
    erased = random_views(square(4000), cfg, seed=0, epoch=1).erased
    assert erased is not None
    left, top, right, bottom = erased.T
    ours = np.stack([top, left, bottom - top, right - left], axis=1)
    random.seed(0)
    theirs = []
    monkeypatch.setattr(random_erasing, "_get_pixels", lambda _pixel, _rand, size, **_: torch.full(size, 7.0))
    operate = random_erasing.RandomErasing(probability=1.0, mode="pixel", device="cpu")
    for _ in range(4000):
        rows, columns = np.nonzero(operate(torch.zeros(1, 64, 32))[0].numpy())
        theirs.append((rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1))
    for found, expected in zip(ours.T, np.array(theirs).T, strict=True):
        assert kstest(found, expected).pvalue > 0.01
    np.testing.assert_allclose(np.corrcoef(ours.T), np.corrcoef(np.array(theirs).T), atol=0.06)


def test_some_images_are_erased_as_often_as_asked() -> None:
    cfg = FolderData(root="x", image_size_px=32, crop_ratio=1.0, erase=0.3)
    erased = random_views(square(4000), cfg, seed=0, epoch=1).erased
    assert erased is not None
    assert (erased[:, 2] > erased[:, 0]).mean() == pytest.approx(0.3, abs=0.02)


def test_random_crops_keep_to_their_share_and_aspect() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0, crop_scale=(0.08, 0.5))
    windows = random_views(square(2000), cfg, seed=0, epoch=1).windows
    assert windows is not None
    width, height = (windows.boxes[:, 2:] - windows.boxes[:, :2]).T
    assert (windows.boxes >= 0).all()
    assert (windows.boxes <= 1 + 1e-9).all()
    assert (width * height).min() == pytest.approx(0.08, abs=0.003)
    assert (width * height).max() == pytest.approx(0.5, abs=0.003)
    assert (width / height).min() == pytest.approx(3 / 4, abs=0.01)
    assert (width / height).max() == pytest.approx(4 / 3, abs=0.01)
    assert (windows.sizes_hw == 16).all()


def test_many_scales_keep_the_aspect_and_the_bounds() -> None:
    scales = MultiScale(shorter_px=(48, 64), longest_px=80, crop_from_px=(40, 50), crop_px=(30, 40))
    cfg = FolderData(root="x", image_size_px=64, crop_ratio=1.0, resize="pad", multi_scale=scales)
    sizes_hw = np.tile(np.array([[300, 400]]), (2000, 1))
    windows = random_views(sizes_hw, cfg, seed=0, epoch=1).windows
    assert windows is not None
    shown = windows.boxes[:, 2:] - windows.boxes[:, :2]  # (N, 2) width, height in fractions of 400 px
    is_whole = (shown[:, 0] > 0.999) & (np.abs(shown[:, 1] - 0.75) < 1e-6)
    assert is_whole.mean() == pytest.approx(0.5, abs=0.04)
    assert {tuple(size) for size in windows.sizes_hw[is_whole]} == {(48, 64), (60, 80)}
    assert windows.sizes_hw.max() <= 80
    stretch = windows.sizes_hw[:, ::-1] / shown
    np.testing.assert_allclose(stretch[:, 0], stretch[:, 1], rtol=0.04)
    assert (windows.boxes[:, 2] <= 1 + 1e-9).all()
    assert (windows.boxes[:, 3] <= 0.75 + 1e-9).all()


def test_a_deleted_cell_is_one_of_sixteen_equal_ones() -> None:
    cfg = FolderData(root="x", image_size_px=(64, 32), crop_ratio=1.0, cell_deletion=0.5)
    deleted = random_views(square(4000), cfg, seed=0, epoch=1).deleted
    assert deleted is not None
    is_deleted = deleted[:, 2] > deleted[:, 0]
    assert is_deleted.mean() == pytest.approx(0.5, abs=0.03)
    assert ((deleted[:, 3] > deleted[:, 1]) == is_deleted).all()
    left, top, right, bottom = deleted[is_deleted].T
    assert set(zip((right - left).tolist(), (bottom - top).tolist(), strict=True)) == {(8, 16)}
    cells, counts = np.unique(top // 16 * 4 + left // 8, return_counts=True)
    assert cells.tolist() == list(range(16))
    assert counts == pytest.approx(is_deleted.sum() / 16, rel=0.35)  # 125 each, with a deviation of 11
    assert random_views(square(9), cfg.model_copy(update={"cell_deletion": 0.0}), seed=0, epoch=1).deleted is None


def test_cells_of_a_side_that_four_does_not_divide_cover_it_without_overlap() -> None:
    cfg = FolderData(root="x", image_size_px=30, crop_ratio=1.0, cell_deletion=1.0)
    deleted = random_views(square(2000), cfg, seed=0, epoch=1).deleted
    assert deleted is not None
    assert np.unique(deleted[:, [0, 2]], axis=0).tolist() == [[0, 8], [8, 15], [15, 23], [23, 30]]
