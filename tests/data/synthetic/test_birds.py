"""Birds look as they did when their first data sets were drawn: results of old studies are read with them."""

import hashlib
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


@pytest.mark.parametrize(
    ("drawn", "changes", "digest"),
    [
        (
            ((0, 1, 2, 3), (True,) * 4, (0, 1, 2, 3)),
            {},
            "0a0ea39777d514d7e30a697b55ab6b1aea5a636eab14a8b43e02985b14c34c50",
        ),
        (
            ((4, 3, 2, 1), (True, True, True, False), (7, 0, 1, 30)),
            {"picture_px": 96, "part_scale": 0.8},
            "4d7898a7f92998cd28e11f0df86fa911a2bc3d78867d3f0d0a1d801ba49d87b9",
        ),
        (
            ((2, 2, 2, 2), (False, True, True, True), (1, 2, 0, 5)),
            {"bird_scale": 0.7, "translation": 0.3},
            "4e46cd11a452337bff8542cea833084c4a81f371ce86881d69d425f7dfe0a63f",
        ),
    ],
)
def test_complete_birds_and_their_masks_are_byte_for_byte_those_of_the_first_version(
    drawn: tuple[Code, tuple[bool, ...], tuple[int, ...]], changes: dict[str, object], digest: str
) -> None:
    code, marked, seed = drawn
    image, mask = draw_bird(code, marked, np.random.default_rng(seed), SyntheticData(**changes))  # type: ignore[arg-type]
    assert hashlib.sha256(image.tobytes() + mask.tobytes()).hexdigest() == digest
