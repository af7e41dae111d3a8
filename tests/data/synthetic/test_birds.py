"""Birds look as they did when their first data sets were drawn: results of old studies are read with them."""

from pathlib import Path

import numpy as np
import pytest

from attnsearch.config.data import SyntheticData
from attnsearch.data.synthetic.birds import Code, draw_bird

GOLDEN = Path(__file__).parents[2] / "golden" / "birds.npz"
DRAWN: list[tuple[Code, tuple[bool, ...], int]] = [
    ((0, 1, 2, 3), (True, True, True, True), 1),
    ((4, 3, 2, 1), (True, True, True, False), 2),
    ((1, 0, 4, 2), (True, True, True, True), 3),
]


@pytest.mark.parametrize("row", range(len(DRAWN)))
def test_a_bird_has_the_pixels_of_the_first_version(row: int) -> None:
    code, marked, seed = DRAWN[row]
    image, mask = draw_bird(code, marked, np.random.default_rng(seed), SyntheticData(picture_px=48))
    with np.load(GOLDEN) as golden:
        np.testing.assert_array_equal(np.asarray(image), golden["images"][row])
        np.testing.assert_array_equal(np.asarray(mask), golden["masks"][row])
