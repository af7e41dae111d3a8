"""Data sets that are recognised by what their folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from attnsearch.data.detection import detected_name
from attnsearch.errors import DataError
from tests.data.test_cub import write_cub
from tests.data.test_reid_folder import WITH_CAMERAS
from tests.data.test_reid_sets import DUKE, MARKET, VERI, write_msmt17, write_named


@pytest.mark.parametrize(
    ("place", "folders", "name"),
    [
        ("Market-1501-v15.09.15", MARKET, "market1501"),
        ("market1501/Market-1501-v15.09.15", MARKET, "market1501"),
        ("Market1501", MARKET, "market1501"),
        ("market_1501/unpacked", MARKET, "market1501"),
        ("mine", MARKET, "reid_folder"),
        ("marketing/animals", MARKET, "reid_folder"),
        ("supermarket1501b", MARKET, "reid_folder"),
        ("DukeMTMC-reID", DUKE, "duke"),
        ("dukes/animals", DUKE, "reid_folder"),
        ("VeRi", VERI, "veri776"),
        ("any", VERI, "veri776"),
        ("any", WITH_CAMERAS, "reid_folder"),
        ("any", {"train/a": ["1.jpg"], "test/a": ["1.jpg"]}, "folder"),
    ],
)
def test_folders_are_recognised(tmp_path: Path, place: str, folders: Mapping[str, Sequence[str]], name: str) -> None:
    write_named(tmp_path / place, folders)
    assert detected_name(tmp_path / place) == name


@pytest.mark.parametrize(
    ("place", "folders", "name"),
    [("Market-1501-v15.09.15", MARKET, "market1501"), ("DukeMTMC-reID", DUKE, "duke"), ("VeRi", VERI, "veri776")],
)
def test_the_parent_is_recognised_too(
    tmp_path: Path, place: str, folders: Mapping[str, Sequence[str]], name: str
) -> None:
    write_named(tmp_path / place, folders)
    assert detected_name(tmp_path) == name


def test_other_sets_are_recognised_by_their_lists(tmp_path: Path) -> None:
    assert detected_name(write_cub(tmp_path / "a")) == "cub"
    assert detected_name(write_msmt17(tmp_path / "b")) == "msmt17"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "images.csv").touch()
    assert detected_name(tmp_path / "c") == "reid_folder"
    assert detected_name(tmp_path / "absent") == "folder"


def test_names_of_another_data_set_do_not_count(tmp_path: Path) -> None:
    write_named(tmp_path / "market1501", DUKE)
    assert detected_name(tmp_path / "market1501") == "reid_folder"


def test_of_several_data_sets_one_must_be_named(tmp_path: Path) -> None:
    write_named(tmp_path / "VeRi", VERI)
    write_msmt17(tmp_path / "MSMT17_V1")
    with pytest.raises(DataError, match=r"holds msmt17 and veri776; write data.name=msmt17 data.root="):
        detected_name(tmp_path)
