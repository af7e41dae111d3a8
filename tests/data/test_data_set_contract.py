"""What every data set must do, run over those of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from attnsearch.config.base import members, tag_of
from attnsearch.config.data import (
    AircraftData,
    CsvData,
    CubData,
    DataConfig,
    DukeData,
    FolderData,
    IndividualsData,
    Market1501Data,
    Msmt17Data,
    ReidFolderData,
    SyntheticData,
    Veri776Data,
)
from attnsearch.config.images import DataSettings
from attnsearch.testing.data_set import DataSetContract
from tests.data.test_csv_table import ROWS, written
from tests.data.test_cub import write_cub
from tests.data.test_reid_sets import DUKE, MARKET, VERI, write_msmt17, write_named
from tests.data.test_torchvision_sets import write_aircraft


def csv(folder: Path) -> CsvData:
    return written(folder, ROWS)


def cub(folder: Path) -> CubData:
    return CubData(root=str(write_cub(folder)), check_sizes=False)


def aircraft(folder: Path) -> AircraftData:
    write_aircraft(folder)
    return AircraftData(root=str(folder), check_sizes=False)


SMALL: dict[str, Callable[[Path], DataSettings]] = {
    "csv": csv,
    "cub": cub,
    "aircraft": aircraft,
    "market1501": lambda folder: Market1501Data(root=str(write_named(folder, MARKET))),
    "duke": lambda folder: DukeData(root=str(write_named(folder, DUKE))),
    "msmt17": lambda folder: Msmt17Data(root=str(write_msmt17(folder))),
    "veri776": lambda folder: Veri776Data(root=str(write_named(folder, VERI))),
    "reid_folder": lambda folder: ReidFolderData(root=str(write_named(folder, MARKET))),
    "individuals": lambda _: IndividualsData(
        n_identities=5, n_test_identities=2, n_cameras=2, n_per_camera=2, n_distractors=1, n_junk=1, picture_px=64
    ),
    "synthetic": lambda _: SyntheticData(
        n_classes=2, n_train_per_class=2, n_val_per_class=1, n_test_per_class=1, picture_px=48
    ),
}
"""Others of torchvision are read as `aircraft` is; `folder` has a suite of its own below."""


class TestDataSets(DataSetContract):
    @pytest.fixture(params=SMALL)
    def settings(self, request: pytest.FixtureRequest, tmp_path: Path) -> DataSettings:
        return SMALL[request.param](tmp_path)


class TestFolder(DataSetContract):
    @pytest.fixture
    def settings(self, small_tree: Path) -> DataSettings:
        return FolderData(root=str(small_tree))


def test_every_data_set_is_covered() -> None:
    names = {found[1] for one in members(DataConfig) if (found := tag_of(one))}
    assert names == {*SMALL, "folder", "cars", "pets", "flowers"}
