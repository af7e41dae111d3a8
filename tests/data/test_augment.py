"""Which part of an image is shown, and what is done to it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as vision

from attnsearch.config.data import FolderData, MultiScale
from attnsearch.data import augment
from attnsearch.data.augment import (
    CropWindows,
    Views,
    centre_views,
    jitter,
    random_views,
    resample,
)


def square(n_images: int) -> NDArray[np.int64]:
    """Sizes of square images."""
    return np.full((n_images, 2), 20, dtype=np.int64)


def test_resampling_where_no_pixel_moves_is_the_identity() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    images = torch.arange(3 * 16 * 16, dtype=torch.float32).view(1, 3, 16, 16)
    torch.testing.assert_close(resample(images, centre_views(1, cfg), cfg), images, atol=1e-3, rtol=0)


def test_resampling_mirrors_the_crop() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=0.8)
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    one = np.ones(1, dtype=np.float32)
    views = Views(np.array([3]), np.array([1]), np.array([True]), one, one, np.array([0]))
    expected = images[:, :, 1:17, 3:19].flip(3)
    torch.testing.assert_close(resample(images, views, cfg), expected, atol=1e-5, rtol=0)


def test_shrinking_a_large_cache_averages() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1.0
    torch.testing.assert_close(
        resample(stripes, centre_views(1, cfg), cfg), torch.full((1, 1, 16, 16), 0.5), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("brightness", "saturation"), [(0.7, 1.0), (1.4, 1.0), (1.0, 0.2), (1.1, 1.5)])
def test_jitter_is_that_of_torchvision(brightness: float, saturation: float) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = vision.adjust_saturation(vision.adjust_brightness(image, brightness), saturation)
    nothing = np.zeros(1, dtype=np.int64)
    views = Views(
        nothing,
        nothing,
        nothing.astype(bool),
        np.array([brightness], dtype=np.float32),
        np.array([saturation], dtype=np.float32),
        nothing,
    )
    torch.testing.assert_close(jitter(image.clone(), views), expected, atol=2e-4, rtol=0)


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


def test_a_window_shows_its_part_of_the_image() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    images = torch.arange(32.0).expand(2, 1, 32, 32).clone()  # columns are numbered
    boxes = np.array([[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]])
    windows = CropWindows(boxes, np.array([[16, 16], [8, 32]]))
    views = replace(centre_views(2, cfg), is_mirrored=np.array([True, False]), windows=windows)
    first, second = resample(images, views, cfg)
    assert first.shape == (1, 16, 32)
    torch.testing.assert_close(first[0, :, :16], torch.arange(23.0, 7.0, -1).expand(16, 16))
    assert (first[0, :, 16:] == 0).all()
    torch.testing.assert_close(second[0, :8, 1:-1], torch.arange(1.0, 31.0).expand(8, 30))
    assert (second[0, 8:] == 0).all()


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


def test_rand_augment_leaves_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("torch.manual_seed also seeds every GPU")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0, rand_augment=9)
    before = torch.default_generator.get_state()
    augment.rand_augment(torch.full((2, 3, 16, 16), 0.5), random_views(square(2), cfg, seed=0, epoch=1), 9)
    assert torch.equal(torch.default_generator.get_state(), before)
