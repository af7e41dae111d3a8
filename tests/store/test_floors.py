"""The file of floors: one measurement per grid, whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.floors import MeasuredFloors, add_floors, read_floors


def floors(side: int, value: float = 0.1, images: str = "a") -> MeasuredFloors:
    return MeasuredFloors(
        grid=(side, side),
        n_images=4,
        n_split=8,
        version=3,
        settings="s",
        images=images,
        values={"pointing_hit": {"fixed cell": value}},
    )


def test_grids_stand_side_by_side_and_a_measurement_replaces_its_like(tmp_path: Path) -> None:
    path = tmp_path / "floors_val.json"
    assert read_floors(path) == []
    for one in (floors(3), floors(12), floors(3, 0.2), floors(3, images="b")):
        add_floors(path, one)
    assert read_floors(path) == [floors(12), floors(3, 0.2), floors(3, images="b")]


@pytest.mark.parametrize("text", ["", "{}", '{"format": 9, "floors": []}', '{"format": 1, "floors": [{"grid": [3]}]}'])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "floors_val.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=r"floors_val\.json"):
        read_floors(path)
