"""A sheet of overlays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.tables import ImageTable
from attnsearch.figures.contact_sheet import contact_sheet, write_contact_sheet
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


@pytest.mark.parametrize(("n_images", "lines"), [(1, [1]), (5, [4, 1]), (12, [4, 4, 4]), (20, [4, 4, 4])])
def test_a_sheet_has_up_to_three_lines_of_four(n_images: int, lines: list[int], table: ImageTable) -> None:
    assert [len(row.panels) for row in contact_sheet(archive(n_images), table).rows] == lines


def test_a_tile_stands_between_its_class_and_its_prediction(table: ImageTable) -> None:
    (row,) = contact_sheet(archive(2), table).rows
    assert [panel.title for panel in row.panels] == ["Least Auklet", "Least Auklet"]
    assert [panel.is_correct for panel in row.panels] == [True, False]
    assert row.panels[0].note == "= Least Auklet 0.90"


def test_a_sheet_is_a_png(table: ImageTable, tmp_path: Path) -> None:
    write_contact_sheet(archive(5), table, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 4 * 220


def test_a_sheet_without_saliency_is_refused(table: ImageTable) -> None:
    with pytest.raises(ValueError, match="the archive has none"):
        contact_sheet(archive(2, saliency=False), table)
