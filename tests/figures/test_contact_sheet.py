"""Saliency over pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.tables import ImageTable
from attnsearch.figures.contact_sheet import draw_contact_sheet, overlay
from attnsearch.types import AttentionArchive


def archive(n_images: int, *, saliency: bool = True) -> AttentionArchive:
    return AttentionArchive(
        image_ids=tuple(f"{row}.png" for row in range(n_images)),
        labels=np.zeros(n_images, np.int64),
        predictions=np.arange(n_images, dtype=np.int64) % 2,
        confidences=np.full(n_images, 0.9, np.float32),
        sizes_hw=np.tile(np.array([40, 60]), (n_images, 1)),
        crop_boxes=np.tile(np.array([10.0, 0.0, 50.0, 40.0]), (n_images, 1)),
        class_names=("Least Auklet", "a very long class name that certainly does not fit under any tile of the sheet"),
        map_names=(),
        maps=None,
        norms=None,
        saliency=np.tile(np.eye(4, dtype=np.float32), (n_images, 1, 1)) if saliency else None,
        config_digest="",
        epoch=1,
        split="val",
    )


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    ids = tuple(f"{row}.png" for row in range(20))
    for name in ids:
        Image.new("RGB", (60, 40), (200, 200, 200)).save(tmp_path / name)
    paths = tuple(tmp_path / name for name in ids)
    return ImageTable("val", ("a", "b"), ids, paths, np.zeros(20, np.int64))


def test_the_salient_cell_is_coloured_where_it_lies_in_the_picture() -> None:
    grey = Image.new("RGB", (60, 40), (200, 200, 200))
    saliency = np.zeros((4, 4), np.float32)
    saliency[0, 3] = 5.0  # top right of a view that spans x from 10 to 50
    drawn = np.asarray(overlay(grey, saliency, np.array([10.0, 0.0, 50.0, 40.0])), dtype=int)
    changed = np.abs(drawn - 200).sum(axis=2)[:, 10:50]
    y, x = np.unravel_index(changed.argmax(), changed.shape)
    assert y < 10
    assert x >= 30
    assert (changed[20:, :20] == 0).all()
    assert (drawn[:, :10] == 90).all()  # 0.45 of 200: the model does not see it
    assert (drawn[:, 50:] == 90).all()


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_a_flat_or_undefined_map_shows_the_bare_picture(value: float) -> None:
    grey = Image.new("RGB", (8, 8), (200, 200, 200))
    drawn = overlay(grey, np.full((3, 3), value, np.float32), np.array([0.0, 0.0, 8.0, 8.0]))
    assert (np.asarray(drawn) == 200).all()


def test_a_view_that_rounds_to_nothing_is_still_drawn() -> None:
    grey = Image.new("RGB", (8, 8), (200, 200, 200))
    assert overlay(grey, np.eye(2, dtype=np.float32), np.array([7.9, 7.9, 8.0, 8.0])).size == (8, 8)


@pytest.mark.parametrize(("n_images", "columns", "lines"), [(1, 1, 1), (5, 4, 2), (12, 4, 3), (20, 4, 3)])
def test_a_sheet_has_up_to_three_lines_of_four(n_images: int, columns: int, lines: int, table: ImageTable) -> None:
    sheet = draw_contact_sheet(archive(n_images), table)
    assert sheet.size == (12 + columns * 252, 12 + lines * 290)


def test_a_sheet_without_saliency_is_refused(table: ImageTable) -> None:
    with pytest.raises(ValueError, match="the archive has none"):
        draw_contact_sheet(archive(2, saliency=False), table)
