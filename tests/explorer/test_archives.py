"""Whether the cell of largest saliency meets the object, counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.tables import ImageTable
from attnsearch.explorer.archives import Archives, OpenArchive, hits_in_targets
from attnsearch.results.study import StudyReader
from tests.explorer.built import Built, write_trial_scores

# A 64 x 96 image, of which the model sees the middle half: x 24..72, y 16..48, in 4 x 5 cells of 9.6 x 8 pixels.
# The hot cell (row 1, column 3) lies at x 52.8..62.4, y 24..32.
INSIDE, LEFT_OF_IT, TOUCHING = (55, 25, 60, 30), (0, 0, 52, 64), (0, 0, 53, 25)


@pytest.fixture
def opened(built: Built) -> OpenArchive:
    return Archives().open(StudyReader(built.layout).trial(0), "val")


def table(opened: OpenArchive, **truth: object) -> ImageTable:
    ids = opened.archive.image_ids
    return ImageTable(
        "val",
        ("a", "b"),
        ids,
        tuple(map(Path, ids)),
        opened.archive.labels,
        **truth,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(("box", "is_hit"), [(INSIDE, True), (LEFT_OF_IT, False), (TOUCHING, True)])
def test_box(opened: OpenArchive, box: tuple[int, ...], is_hit: bool) -> None:
    boxes = np.tile(np.array(box, dtype=np.float64), (6, 1))
    hits = hits_in_targets(opened, table(opened, boxes=boxes))
    assert hits is not None
    assert bool(hits[0]) is is_hit


@pytest.mark.parametrize(("box", "is_hit"), [(INSIDE, True), (LEFT_OF_IT, False)])
def test_mask(opened: OpenArchive, tmp_path: Path, box: tuple[int, ...], is_hit: bool) -> None:
    paths = []
    for index, (height, width) in enumerate(opened.archive.sizes_hw):
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = 255
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(mask).save(paths[-1])
    hits = hits_in_targets(opened, table(opened, mask_paths=tuple(paths)))
    assert hits is not None
    assert bool(hits[0]) is is_hit


def test_image_that_the_data_set_lacks_gives_no_answer(opened: OpenArchive) -> None:
    other = ImageTable("val", ("a", "b"), ("x",), (Path("x"),), np.zeros(1, dtype=np.int64), boxes=np.zeros((1, 4)))
    assert hits_in_targets(opened, other) is None


def test_score_decides_and_the_data_set_answers_for_images_without_one(copied: Built) -> None:
    """An image whose box holds the hot cell counts as missed if its score is a miss."""
    ids = [f"val/{name}/{index}.jpg" for name in ("gull", "tern") for index in range(3)]
    write_trial_scores(copied.layout, 0, ids[:2], {"pointing_in_box": [0, 1]})
    trial = StudyReader(copied.layout).trial(0)
    archives = Archives()
    assert archives.hits(trial, archives.open(trial, "val")) == [False, True, None, None, None, None]
