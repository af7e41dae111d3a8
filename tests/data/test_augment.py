"""What is made of the pixels of an image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from attnsearch.config.data import FolderData
from attnsearch.data import augment
from attnsearch.data.augment import cut, erase, erased_mask, jitter, resample
from attnsearch.data.views import CropWindows, Views, centre_views, random_views


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


def texture(n_images: int, side: int) -> Tensor:
    """Images (N, 3, side, side) with as much detail as pixels can hold, of whole values in [0, 255]."""
    values = torch.randint(256, (n_images, 3, side, side), generator=torch.Generator().manual_seed(n_images))
    return values.float()


def local_contrast(images: Tensor) -> Tensor:
    """(N,) mean absolute difference of neighbours."""
    return images.diff(dim=3).abs().mean(dim=(1, 2, 3)) + images.diff(dim=2).abs().mean(dim=(1, 2, 3))


def by_pillow(image: Tensor, box: NDArray[np.float64], size_hw: tuple[int, int]) -> Tensor:
    """The part `box` (left, top, right, bottom in pixels) of an image (3, ·, ·), resized."""
    pixels = Image.fromarray(image.permute(1, 2, 0).byte().numpy())
    resized = pixels.resize(size_hw[::-1], Image.Resampling.BILINEAR, box=tuple(box.tolist()))
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()


@pytest.mark.parametrize("cached_px", [16, 24, 31, 33, 64, 100])
def test_a_larger_cache_is_resized_as_by_pillow(cached_px: int) -> None:
    cfg = FolderData(root="x", image_size_px=24, crop_ratio=0.75)
    images = texture(3, cached_px)
    start = cfg.resized_hw[0] / 2 - 12
    box = np.array([start, start, start + 24, start + 24]) * cached_px / cfg.resized_hw[0]
    expected = torch.stack([by_pillow(image, box, (24, 24)) for image in images])
    shown = resample(images, centre_views(3, cfg), cfg)
    torch.testing.assert_close(shown, expected, atol=1.01, rtol=0)  # Pillow rounds after each axis
    torch.testing.assert_close(local_contrast(shown), local_contrast(expected), atol=0, rtol=0.01)


def test_windows_are_cut_and_resized_as_by_pillow_whatever_else_is_in_the_batch() -> None:
    cfg = FolderData(root="x", image_size_px=24, crop_ratio=1.0)
    images = texture(4, 80)
    boxes = np.array([[0, 0, 80, 80], [10, 5, 50, 77], [60, 60, 72, 72], [3, 41, 76, 80]], dtype=np.float64)
    windows = CropWindows(boxes / 80, np.full((4, 2), 24))
    views = replace(centre_views(4, cfg), windows=windows)
    shown = resample(images, views, cfg)
    for index, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        part = images[index, :, top:bottom, left:right]
        expected = by_pillow(part, np.array([0, 0, right - left, bottom - top]), (24, 24))
        torch.testing.assert_close(shown[index], expected, atol=1.01, rtol=0)
        torch.testing.assert_close(local_contrast(shown)[index], local_contrast(expected[None])[0], atol=0, rtol=0.01)
        alone = resample(images[[index]], views.take(np.array([index])), cfg)
        torch.testing.assert_close(alone[0], shown[index], atol=1e-4, rtol=0)


def test_a_mirrored_window_is_the_mirror_image_of_the_window() -> None:
    cfg = FolderData(root="x", image_size_px=24, crop_ratio=1.0)
    windows = CropWindows(np.array([[0.1, 0.2, 0.83, 0.9]] * 2), np.full((2, 2), 24))
    views = replace(centre_views(2, cfg), is_mirrored=np.array([False, True]), windows=windows)
    plain, mirrored = resample(texture(1, 50).expand(2, -1, -1, -1), views, cfg)
    torch.testing.assert_close(mirrored, plain.flip(2), atol=1e-3, rtol=0)


def test_a_window_reads_no_pixel_beyond_it() -> None:
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0)
    images = torch.full((1, 3, 64, 64), 200.0)
    images[:, :, :, 40:] = 0  # such as the padding of an image that is higher than wide
    windows = CropWindows(np.array([[0.0, 0.0, 40 / 64, 1.0]]), np.array([[16, 10]]))
    shown = resample(images, replace(centre_views(1, cfg), windows=windows), cfg)
    torch.testing.assert_close(shown, torch.full((1, 3, 16, 10), 200.0))


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
    if is_resampled:
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        shown = resample(images, views, cfg).permute(0, 2, 3, 1).numpy()
    else:
        shown = cut(pixels, np.arange(8), views, cfg)
    for index in range(8):
        expected = padded_by_hand(pixels[index], views.x[index], views.y[index], (24, 16), 5)
        if views.is_mirrored[index]:
            expected = expected[:, ::-1]
        np.testing.assert_allclose(shown[index], expected, atol=0.01)
        assert ((shown[index] == 0).all(axis=-1) == (expected == 0).all(axis=-1)).all()


def test_erased_pixels_are_normal_noise_of_the_image_alone() -> None:
    erased = np.array([[2, 1, 60, 50], [0, 0, 0, 0], [2, 1, 60, 50]])
    seeds = np.array([5, 6, 7])
    images = erase(torch.full((3, 3, 64, 64), 9.0), erased, seeds)
    inside = images[[0, 2], :, 1:50, 2:60]
    assert (images[1] == 9).all()
    assert (images == 9).sum() == images.numel() - inside.numel()
    assert (inside.mean().item(), inside.std().item()) == pytest.approx((0.0, 1.0), abs=0.02)
    alone = erase(torch.full((1, 3, 64, 64), 9.0), erased[2:], seeds[2:])
    assert torch.equal(alone[0], images[2])
    correlation = np.corrcoef(inside.flatten(2).flatten(0, 1).numpy())  # of two images with three channels each
    assert np.abs(correlation - np.eye(6)).max() < 0.1
    assert (erased_mask(erased, (64, 64), device="cpu") == (images[:, 0] != 9)).all()


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


def test_rand_augment_leaves_the_generators_of_gpus_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise AssertionError("torch.manual_seed also seeds every GPU")

    monkeypatch.setattr(torch, "manual_seed", refuse)
    cfg = FolderData(root="x", image_size_px=16, crop_ratio=1.0, rand_augment=9)
    before = torch.default_generator.get_state()
    augment.rand_augment(torch.full((2, 3, 16, 16), 0.5), random_views(square(2), cfg, seed=0, epoch=1), 9)
    assert torch.equal(torch.default_generator.get_state(), before)
