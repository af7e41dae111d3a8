"""What is made of the pixels of an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional as vision

from attnsearch.config.data import FolderData
from attnsearch.data.augment import cut, erase, erased_mask, jitter, noise, normalise, resample
from attnsearch.data.views import CropWindows, Views, centre_views, random_views


def square(n_images: int) -> NDArray[np.int64]:
    """Sizes of square images."""
    return np.full((n_images, 2), 20, dtype=np.int64)


def resampled(images: NDArray[np.uint8], views: Views, cfg: FolderData) -> NDArray[np.int64]:
    """(B, H, W, C) of each image in its place."""
    canvas_hw = cfg.image_hw if views.windows is None else tuple(views.windows.sizes_hw.max(axis=0).tolist())
    return resample(images, np.arange(len(images)), views, cfg, canvas_hw=canvas_hw).astype(np.int64)


def texture(n_images: int, side: int) -> NDArray[np.uint8]:
    """Images (N, side, side, 3) with as much detail as pixels can hold."""
    return np.random.default_rng(n_images).integers(256, size=(n_images, side, side, 3), dtype=np.uint8)


def local_contrast(images: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) mean absolute difference of neighbours, of images (N, H, W, C)."""
    return sum(np.abs(np.diff(images, axis=axis)).mean(axis=(1, 2, 3)) for axis in (1, 2))  # type: ignore[return-value]


def by_pillow(image: NDArray[np.uint8], box: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """The part `box` (left, top, right, bottom in pixels) of an image (·, ·, 3), resized."""
    resized = Image.fromarray(image).resize(size_hw[::-1], Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    return np.array(resized).astype(np.int64)


def test_resampling_where_no_pixel_moves_is_the_identity() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    np.testing.assert_array_equal(resampled(texture(2, 16), centre_views(2, cfg), cfg), texture(2, 16))


def test_resampling_mirrors_the_crop() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=0.8)
    one = np.ones(1, dtype=np.float32)
    views = Views(np.array([3]), np.array([1]), np.array([True]), one, one, np.array([0]))
    images = texture(1, 20)
    np.testing.assert_array_equal(resampled(images, views, cfg), images[:, 1:17, 3:19][:, :, ::-1])


@pytest.mark.parametrize("cached_px", [32, 40, 47, 63, 65, 100])
def test_a_larger_cache_is_resized_as_by_pillow(cached_px: int) -> None:
    cfg = FolderData(root="x", image_size_px=24, crop_ratio=0.75)
    images = texture(3, cached_px)
    box = np.array([4, 4, 28, 28]) * cached_px / 32
    expected = np.stack([by_pillow(image, box, (24, 24)) for image in images])
    shown = resampled(images, centre_views(3, cfg), cfg)
    np.testing.assert_allclose(shown, expected, atol=1, rtol=0)  # rounded after each axis
    np.testing.assert_allclose(local_contrast(shown), local_contrast(expected), atol=0, rtol=0.01)


def test_windows_are_cut_and_resized_as_by_pillow_whatever_else_is_in_the_batch() -> None:
    cfg = FolderData(root="x", image_size_px=24, crop_ratio=1.0)
    images = texture(4, 80)
    boxes = np.array([[0, 0, 80, 80], [10, 5, 50, 77], [60, 60, 72, 72], [3, 41, 76, 80]])
    windows = CropWindows(boxes / 80, np.full((4, 2), 24))
    views = replace(centre_views(4, cfg), windows=windows)
    shown = resampled(images, views, cfg)
    for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
        part = images[index, top:bottom, left:right]
        expected = by_pillow(part, np.array([0, 0, right - left, bottom - top]), (24, 24))[None]
        np.testing.assert_allclose(shown[[index]], expected, atol=1, rtol=0)
        np.testing.assert_allclose(local_contrast(shown[[index]]), local_contrast(expected), atol=0, rtol=0.01)
        alone = resampled(images[[index]], views.take(np.array([index])), cfg)
        np.testing.assert_array_equal(alone[0], shown[index])


@pytest.mark.parametrize("side", [64, 16, 5])
def test_windows_are_whole_pixels_and_at_least_one(side: int) -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    boxes = np.array([[0.999, 0.5, 1.0, 0.5001], [0.0, 0.0, 1e-4, 1.0]])
    views = replace(centre_views(2, cfg), windows=CropWindows(boxes, np.full((2, 2), 16)))
    images = texture(2, side)
    shown = resampled(images, views, cfg)
    np.testing.assert_array_equal(shown[0], np.broadcast_to(images[0, round(side / 2), -1], (16, 16, 3)))
    assert (np.ptp(shown[1], axis=1) == 0).all()


@pytest.mark.parametrize(("brightness", "saturation"), [(0.7, 1.0), (1.4, 1.0), (1.0, 0.2), (1.1, 1.5)])
def test_jitter_is_that_of_torchvision(brightness: float, saturation: float) -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = vision.adjust_saturation(vision.adjust_brightness(image, brightness), saturation)
    changed = jitter(image.clone(), torch.tensor([brightness]), torch.tensor([saturation]))
    torch.testing.assert_close(changed, expected, atol=2e-4, rtol=0)


def test_normalised_images_are_the_same_in_both_memory_formats() -> None:
    images = torch.rand(2, 3, 8, 5, generator=torch.Generator().manual_seed(0))
    expected = normalise(images.clone())
    shown = normalise(images.contiguous(memory_format=torch.channels_last))
    assert shown.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(shown, expected)
    by_torchvision = vision.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(expected, by_torchvision, atol=1e-6, rtol=0)


def padded_by_hand(image: NDArray[np.uint8], x: int, y: int, hw: tuple[int, int], pad: int) -> NDArray[np.uint8]:
    """TransReID's order: pad with black on all sides, then crop."""
    wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    return wide[y + pad : y + pad + hw[0], x + pad : x + pad + hw[1]]


@pytest.mark.parametrize("is_resampled", [False, True])
@pytest.mark.parametrize("ratio", [1.0, 0.8])
def test_crops_show_black_beyond_the_image(ratio: float, is_resampled: bool) -> None:
    cfg = FolderData(root="x", image_size_px=(24, 16), crop_ratio=ratio, pad_px=5)
    pixels = np.random.default_rng(0).integers(1, 256, (8, *cfg.resized_hw, 3), dtype=np.uint8)
    views = random_views(square(8), cfg, seed=0, epoch=1)
    assert (views.x < 0).any()
    assert (views.x > cfg.resized_hw[1] - 16).any()
    shown = resampled(pixels, views, cfg) if is_resampled else cut(pixels, np.arange(8), views, cfg)
    for index in range(8):
        expected = padded_by_hand(pixels[index], views.x[index], views.y[index], (24, 16), 5)
        if views.is_mirrored[index]:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(shown[index], expected)


def erased_images(erased: NDArray[np.int64], seeds: NDArray[np.int64]) -> torch.Tensor:
    """Images (N, 3, 64, 64) of nines with noise in a rectangle of each."""
    images = torch.full((len(seeds), 3, 64, 64), 9.0)
    drawn = noise(erased, seeds, tuple(images.shape))
    return erase(images, torch.from_numpy(erased), torch.from_numpy(drawn))


def test_erased_pixels_are_normal_noise_of_the_image_alone() -> None:
    erased = np.array([[2, 1, 60, 50], [0, 0, 0, 0], [2, 1, 60, 50]])
    seeds = np.array([5, 6, 7])
    images = erased_images(erased, seeds)
    inside = images[[0, 2], :, 1:50, 2:60]
    assert (images[1] == 9).all()
    assert (images == 9).sum() == images.numel() - inside.numel()
    assert (inside.mean().item(), inside.std().item()) == pytest.approx((0.0, 1.0), abs=0.02)
    assert torch.equal(erased_images(erased[2:], seeds[2:])[0], images[2])
    correlation = np.corrcoef(inside.flatten(2).flatten(0, 1).numpy())  # of two images with three channels each
    assert np.abs(correlation - np.eye(6)).max() < 0.1
    assert (erased_mask(torch.from_numpy(erased), (64, 64)) == (images[:, 0] != 9)).all()


def test_a_window_shows_its_part_of_the_image() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    images = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None], (2, 32, 32, 1))  # columns are numbered
    boxes = np.array([[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]])
    windows = CropWindows(boxes, np.array([[16, 16], [8, 32]]))
    views = replace(centre_views(2, cfg), is_mirrored=np.array([True, False]), windows=windows)
    first, second = resampled(images, views, cfg)
    assert first.shape == (16, 32, 1)
    np.testing.assert_array_equal(first[:, :16, 0], np.tile(np.arange(23, 7, -1), (16, 1)))
    assert (first[:, 16:] == 0).all()
    np.testing.assert_array_equal(second[:8, :, 0], np.tile(np.arange(32), (8, 1)))
    assert (second[8:] == 0).all()
