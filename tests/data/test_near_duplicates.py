"""Near-duplicates: copies are found, others are not, and no pair that a full comparison finds is missed."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from attnsearch.data.listing import ListedImage
from attnsearch.data.near_duplicates import (
    MIN_CORRELATION,
    correlations,
    groups_of,
    near_duplicates,
    near_groups,
    near_pairs,
    thumbnail,
)

N_VALUES = 32 * 32 * 3


def scene(seed: int, size: tuple[int, int] = (64, 128)) -> Image.Image:
    """Smooth colours, as a photograph has."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def recompressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=40)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "copy",
    [
        recompressed,
        lambda image: image.resize((32, 64)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    ],
)
def test_copies_are_found_among_others(copy: object) -> None:
    others = np.stack([thumbnail(scene(seed)) for seed in range(20)])
    ((row, other, value),) = near_duplicates(thumbnail(copy(scene(7)))[None], others)  # type: ignore[operator]
    assert (row, other) == (0, 7)
    assert value > MIN_CORRELATION


def test_other_images_and_mirror_images_are_none() -> None:
    others = np.stack([thumbnail(scene(seed)) for seed in range(20)])
    mirror = scene(3).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    images = np.stack([*(thumbnail(scene(seed)) for seed in range(100, 110)), thumbnail(mirror)])
    assert list(near_duplicates(images, others)) == []


def test_exactly_the_images_of_a_full_comparison_are_found() -> None:
    """Many pairs lie near the limit, and rows beyond one block and one chunk are searched."""
    rng = np.random.default_rng(0)
    base = np.stack([thumbnail(scene(seed)) for seed in range(8)]).astype(float)
    others = np.clip(base[rng.integers(0, 8, 600)] + rng.normal(0, 9, (600, N_VALUES)), 0, 255).astype(np.uint8)
    noise = rng.uniform(0, 20, (700, 1)) * rng.normal(0, 1, (700, N_VALUES))
    images = np.clip(base[rng.integers(0, 8, 700)] + noise, 0, 255).astype(np.uint8)
    full = correlations(images, others)
    expected = np.flatnonzero((full > MIN_CORRELATION).any(axis=1))
    assert 50 < len(expected) < 650
    found = list(near_duplicates(images, others))
    assert [row for row, _, _ in found] == expected.tolist()
    for row, other, value in found:
        assert value == pytest.approx(full[row, other], abs=1e-5)
        assert value > MIN_CORRELATION


def test_a_correlation_is_that_of_the_pixels() -> None:
    images = np.stack([thumbnail(scene(seed)) for seed in range(3)])
    assert correlations(images, images) == pytest.approx(np.corrcoef(images), abs=1e-5)


def test_images_of_one_colour_equal_nothing() -> None:
    flat = np.full((3, N_VALUES), 128, np.uint8)
    assert list(near_duplicates(flat, flat)) == []
    assert not correlations(flat, flat).any()
    assert list(near_duplicates(flat, flat[:0])) == []
    assert list(near_duplicates(flat[:0], flat)) == []


def test_all_pairs_of_a_full_comparison_are_found() -> None:
    rng = np.random.default_rng(0)
    base = np.stack([thumbnail(scene(seed)) for seed in range(8)]).astype(float)
    images = np.clip(base[rng.integers(0, 8, 700)] + rng.normal(0, 9, (700, N_VALUES)), 0, 255).astype(np.uint8)
    images[3] = 128
    full = correlations(images, images)
    expected = np.argwhere(np.triu(full > MIN_CORRELATION, k=1)).tolist()
    assert len(expected) > 700
    assert sorted([row, other] for row, other, _ in near_pairs(images)) == expected


def test_pairs_join_images_into_groups() -> None:
    groups = groups_of(6, np.array([[0, 3], [3, 5], [1, 2]]))
    assert groups[0] == groups[3] == groups[5]
    assert groups[1] == groups[2]
    assert len(set(groups.tolist())) == 3
    assert len(set(groups_of(3, np.zeros((0, 2), dtype=np.int64)).tolist())) == 3


def test_groups_are_found_once_and_images_that_cannot_be_read_are_in_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("a", 1), ("b", 2), ("c", 1), ("d", 3)):
        scene(seed).save(tmp_path / f"{name}.jpg", quality=80 + seed)
    (tmp_path / "d.jpg").write_bytes(b"")
    images = [ListedImage("train", "x", name, tmp_path / f"{name}.jpg") for name in "abcde"]
    groups = near_groups(tmp_path, images)
    assert groups["a"] == groups["c"]
    assert len(set(groups.values())) == 4
    monkeypatch.setattr("attnsearch.data.near_duplicates.thumbnail", lambda _: pytest.fail("decoded again"))
    assert near_groups(tmp_path, images[::-1]) == groups


def test_a_thumbnail_shows_the_whole_image_and_averages() -> None:
    stripes = np.zeros((64, 640, 3), dtype=np.uint8)
    stripes[:, ::2] = 200
    inner = thumbnail(Image.fromarray(stripes)).reshape(32, 32, 3)[:, 1:-1].astype(int)
    assert np.abs(inner - 100).max() <= 1
