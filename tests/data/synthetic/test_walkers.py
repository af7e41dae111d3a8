"""Walking figures: what parts change and what they leave, how much of an image they cover, cameras and obstacles."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attnsearch.config.data import IndividualsData
from attnsearch.data.synthetic.accessories import N_VARIANTS, PARTS, VARIANTS
from attnsearch.data.synthetic.cameras import Camera, random_camera
from attnsearch.data.synthetic.walkers import Code, draw_walker, random_clothes

CODE = (0, 1, 2, 3, 4)
PLAIN = IndividualsData(occlusion=0.0)


def drawn(
    code: Code = CODE,
    *,
    seed: int = 0,
    present: tuple[str, ...] = PARTS,
    camera: Camera | None = None,
    cfg: IndividualsData = PLAIN,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (H, W, 3) and part numbers (H, W) of a figure; the camera has no effects unless one is given."""
    clothes = random_clothes(np.random.default_rng((seed, 1)))
    image, mask = draw_walker(code, clothes, camera or Camera(), np.random.default_rng(seed), cfg, present=present)
    return np.asarray(image).astype(np.int64), np.asarray(mask).astype(np.int64)


def grown(mask: NDArray[np.bool_], n_pixels: int = 1) -> NDArray[np.bool_]:
    """The mask and what is at most so many pixels from it: a part that covers little of a pixel is not in its mask."""
    for _ in range(n_pixels):
        for axis in (0, 1):
            mask = mask | np.roll(mask, 1, axis) | np.roll(mask, -1, axis)
    return mask


def test_every_part_has_its_variants_and_no_two_look_alike() -> None:
    assert set(VARIANTS) == set(PARTS)
    for variants in VARIANTS.values():
        assert len(variants) == N_VARIANTS
        assert len({tuple(colour for _, colour in shapes) for shapes in variants}) == N_VARIANTS
        assert len({np.concatenate([points for points, _ in shapes]).tobytes() for shapes in variants}) == N_VARIANTS


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("seed", [0, 1])
def test_another_variant_changes_the_pixels_of_its_part_alone(name: str, seed: int) -> None:
    place = PARTS.index(name)
    other = tuple((digit + 1) % N_VARIANTS if n == place else digit for n, digit in enumerate(CODE))
    (image, mask), (changed, changed_mask) = drawn(seed=seed), drawn(other, seed=seed)
    number = place + 1
    differs = (image != changed).any(axis=-1)
    assert differs.any()
    assert not (differs & ~grown((mask == number) | (changed_mask == number))).any()


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_absent_leaves_all_else_as_it_was(name: str) -> None:
    image, mask = drawn()
    without, mask_without = drawn(present=tuple(part for part in PARTS if part != name))
    number = PARTS.index(name) + 1
    differs = (image != without).any(axis=-1)
    assert (mask == number).any()
    assert not (mask_without == number).any()
    assert differs[mask == number].mean() > 0.9
    assert not (differs & ~grown(mask == number)).any()


def test_noise_and_blur_of_a_camera_do_not_depend_on_the_parts() -> None:
    camera = replace(random_camera((0, 1), 2), blur=0.7)
    (image, mask), (changed, changed_mask) = drawn(camera=camera), drawn((4, 1, 2, 3, 4), camera=camera)
    near = grown((mask == 1) | (changed_mask == 1), 4)
    np.testing.assert_array_equal(image[~near], changed[~near])
    assert (image[near] != changed[near]).any()


def test_parts_cover_about_a_tenth_of_an_image() -> None:
    cfg = IndividualsData()
    codes = np.random.default_rng(0).integers(0, N_VARIANTS, (48, 5)).tolist()
    masks = [drawn(tuple(c), seed=n, camera=random_camera((0, 1), n % 6), cfg=cfg)[1] for n, c in enumerate(codes)]
    fractions = np.array([[(mask == number).mean() for number in range(1, 6)] for mask in masks])
    assert 0.08 <= fractions.sum(axis=1).mean() <= 0.11
    assert (fractions.mean(axis=0) > 0.008).all()
    assert set(np.unique(masks)) == {0, 1, 2, 3, 4, 5}


def test_part_scale_makes_parts_larger() -> None:
    small, large = (drawn(cfg=IndividualsData(occlusion=0.0, part_scale=scale))[1] for scale in (0.9, 1.3))
    assert (large > 0).sum() > 1.3 * (small > 0).sum()


def test_an_obstacle_hides_parts_and_leaves_the_image_beside_it() -> None:
    hidden = 0
    for seed in range(6):
        (image, mask), (behind, mask_behind) = drawn(seed=seed), drawn(seed=seed, cfg=IndividualsData(occlusion=1.0))
        assert not ((mask_behind > 0) & (mask != mask_behind) & ~grown(mask > 0)).any()
        covered = (image != behind).any(axis=-1).mean()
        assert 0.03 < covered < 0.6
        hidden += (mask > 0).sum() - (mask_behind > 0).sum()
    assert hidden > 0


def test_a_mirrored_camera_sees_the_figure_from_the_other_side() -> None:
    _, mask = drawn()
    _, mirrored = drawn(camera=Camera(is_mirrored=True))
    middle = 31.5
    bag, bag_mirrored = (np.nonzero(one == PARTS.index("bag") + 1)[1].mean() for one in (mask, mirrored))
    assert bag < middle < bag_mirrored


def test_cameras_stay_within_their_limits_and_differ() -> None:
    cameras = [random_camera((0, 1), index) for index in range(6)]
    assert len({camera.palette for camera in cameras}) == 6
    assert sum(camera.is_mirrored for camera in cameras) == 3
    assert random_camera((0, 1), 3) == cameras[3]
    assert random_camera((1, 1), 3) != cameras[3]
    for camera in cameras:
        assert 0.80 <= camera.height <= 0.92
        assert np.abs(camera.shift[0]) <= 0.06
        assert np.abs(camera.shift[1]) <= 0.03
        assert all(0.75 * 0.84 <= gain <= 1.15 * 1.16 for gain in camera.gains)
        assert 0 <= camera.blur <= 0.7
        assert 2 <= camera.noise <= 6


def test_a_figure_of_another_size_is_the_same_figure() -> None:
    cfg = IndividualsData(occlusion=0.0, picture_px=256)
    _, small = drawn()
    large_image, large = drawn(cfg=cfg)
    assert large_image.shape == (256, 128, 3)
    shrunk = np.asarray(Image.fromarray((large > 0).astype(np.uint8) * 255).reduce(2)) > 127
    assert (shrunk != (small > 0)).mean() < 0.03
