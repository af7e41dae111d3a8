"""Birds that are drawn again: pixel-exact counterfactuals, numbered masks, targets of images that lack parts."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from attnsearch.config.data import SyntheticData
from attnsearch.data.synthetic.birds import N_VARIANTS, PARTS, draw_bird
from attnsearch.data.synthetic.canvas import FIRST_CLUTTER
from attnsearch.data.synthetic.redraw import BirdRedraw
from attnsearch.errors import DataError

CFG = SyntheticData(n_classes=5, n_train_per_class=2, n_val_per_class=2, n_test_per_class=1)
IMAGE_ID = "val/species_3/0001.jpg"
SEED = (0, 1, 2, 1)
"""Data seed, split, label and index of that image."""


def grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask (H, W) and the pixels next to it, also across corners."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)


def changed(one: Image.Image, other: Image.Image) -> NDArray[np.bool_]:
    """(H, W) whether a pixel differs at all."""
    return (np.asarray(one) != np.asarray(other)).any(axis=-1)


def test_a_bird_with_all_that_it_has_is_what_its_file_was_made_of() -> None:
    birds = BirdRedraw(CFG)
    image, mask = birds.draw(IMAGE_ID)
    expected, marked = draw_bird(birds.code_of(IMAGE_ID), (True,) * 4, np.random.default_rng(SEED), CFG)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    numbers = np.asarray(mask)
    np.testing.assert_array_equal((numbers > 0) & (numbers < FIRST_CLUTTER), np.asarray(marked) > 0)
    assert set(range(1, 5)) <= set(np.unique(numbers).tolist())


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_changes_only_its_own_pixels_and_those_next_to_them(part: str) -> None:
    birds = BirdRedraw(CFG)
    image, mask = birds.draw(IMAGE_ID)
    without, mask_without = birds.draw(IMAGE_ID, present=[name for name in PARTS if name != part])
    number = PARTS.index(part) + 1
    differs = changed(image, without)
    assert differs.any()
    assert not (differs & ~grown(np.asarray(mask) == number)).any()
    assert number not in np.asarray(mask_without)


@pytest.mark.parametrize("part", PARTS)
def test_an_exchanged_part_changes_only_pixels_of_both_variants_and_those_next_to_them(part: str) -> None:
    birds, place = BirdRedraw(CFG), PARTS.index(part)
    image, mask = birds.draw(IMAGE_ID)
    code = list(birds.code_of(IMAGE_ID))
    for variant in set(range(N_VARIANTS)) - {code[place]}:
        swapped, mask_swapped = birds.draw(IMAGE_ID, code=(*code[:place], variant, *code[place + 1 :]))  # type: ignore[arg-type]
        differs = changed(image, swapped)
        covered = (np.asarray(mask) == place + 1) | (np.asarray(mask_swapped) == place + 1)
        assert differs.any()
        assert not (differs & ~grown(grown(covered))).any()  # a tip may cover less than a quarter of a pixel


def test_clutter_that_is_left_out_changes_only_its_own_pixels() -> None:
    birds = BirdRedraw(CFG)
    image, mask = birds.draw(IMAGE_ID)
    n_clutter = birds.n_clutter(IMAGE_ID)
    numbers = np.asarray(mask)
    assert n_clutter >= 3
    assert numbers.max() < FIRST_CLUTTER + n_clutter
    n_seen = 0
    for item in range(n_clutter):
        without, mask_without = birds.draw(IMAGE_ID, without_clutter=item)
        differs = changed(image, without)
        n_seen += bool(differs.any())
        assert not (differs & ~grown(grown(numbers == FIRST_CLUTTER + item))).any()
        assert FIRST_CLUTTER + item not in np.asarray(mask_without)
    assert n_seen >= 1


def test_images_do_not_depend_on_what_was_drawn_before() -> None:
    birds = BirdRedraw(CFG)
    for present in itertools.chain(itertools.combinations(PARTS, 2), itertools.combinations(PARTS, 3)):
        image, mask = birds.draw(IMAGE_ID, present=present)
        alone, mask_alone = BirdRedraw(CFG).draw(IMAGE_ID, present=present)
        assert (image.tobytes(), mask.tobytes()) == (alone.tobytes(), mask_alone.tobytes())


def test_codes_are_in_the_order_of_the_labels() -> None:
    birds = BirdRedraw(SyntheticData(n_classes=12, n_val_per_class=1))
    assert len(birds.codes) == 12
    assert birds.code_of("val/species_12/0000.jpg") == birds.codes[11]
    assert birds.code_of("val/species_02/0000.jpg") == birds.codes[1]


def test_what_cannot_be_drawn_is_named() -> None:
    birds = BirdRedraw(CFG)
    with pytest.raises(DataError, match=r"'val/species_9/0000\.jpg'"):
        birds.draw("val/species_9/0000.jpg")
    with pytest.raises(DataError, match=r"'x\.jpg'"):
        birds.n_clutter("x.jpg")
    with pytest.raises(ValueError, match="'crest'"):
        birds.draw(IMAGE_ID, present=["crest"])
    with pytest.raises(ValueError, match=r"\(0, 1, 2, 5\)"):
        birds.draw(IMAGE_ID, code=(0, 1, 2, 5))
    with pytest.raises(ValueError, match="got 99"):
        birds.draw(IMAGE_ID, without_clutter=99)
