"""Which settings of a space are measured."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from attnsearch.config.study import Parameter
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.search.extremes import draw_settings, extreme_setting, value_at
from tests.search.studies import CLASSES, VAL_HASH, loaded_study

PARAMETER: TypeAdapter[Any] = TypeAdapter(Parameter)
DEMANDING: dict[str, Any] = {
    "model.width": {"kind": "choice", "choices": [0.5, 0.25]},
    "train.batch_size": {"kind": "int", "low": 4, "high": 8},
    "train.accumulation": {"kind": "choice", "choices": [2, 1]},
    "train.epochs": {"kind": "int", "low": 1, "high": 3},
}


@pytest.fixture
def tables(tmp_path: Any) -> DataTables:
    table = ImageTable("val", CLASSES, (), (), np.zeros(0, dtype=np.int64))
    return DataTables(tmp_path, CLASSES, table, table, None, VAL_HASH)


def test_largest_setting_has_most_of_everything(tables: DataTables) -> None:
    loaded = loaded_study(space=DEMANDING)
    largest = extreme_setting(loaded, tables, is_largest=True)
    assert largest.settings == {
        **{"model.width": 0.5, "train.batch_size": 8, "train.accumulation": 1, "train.epochs": 3}
    }
    assert largest.experiment.train.batch_size == 8
    smallest = extreme_setting(loaded, tables, is_largest=False)
    assert smallest.settings == {
        **{"model.width": 0.25, "train.batch_size": 4, "train.accumulation": 2, "train.epochs": 1}
    }


def test_limits_that_do_not_fit_those_before_are_passed_over(tables: DataTables) -> None:
    space = {"train.accumulation": {"kind": "choice", "choices": [3]}}  # divides no batch of 4
    assert extreme_setting(loaded_study(space=space), tables, is_largest=True).description == "the base"


def test_conditions_hold_in_all_settings(tables: DataTables) -> None:
    loaded = loaded_study()
    settings = [extreme_setting(loaded, tables, is_largest=True), *draw_settings(loaded, n=8)]
    for one in settings:
        assert ("train.optimizer.momentum" in one.settings) == (one.settings["train.optimizer.name"] == "sgd")


def test_draws_fill_every_part_of_a_range() -> None:
    drawn = draw_settings(loaded_study(), n=8)
    rates = sorted(np.log10(float(one.settings["train.optimizer.lr"] or 0)) for one in drawn)
    assert [int((rate + 4) / 2 * 8) for rate in rates] == list(range(8))  # 1e-4 to 1e-2 in eight parts
    assert sum(one.settings["train.optimizer.name"] == "sgd" for one in drawn) == 4
    assert [one.settings for one in draw_settings(loaded_study(), n=8)] == [one.settings for one in drawn]


def test_a_study_without_space_has_one_setting() -> None:
    (only,) = draw_settings(loaded_study(space={}), n=4)
    assert (only.settings, only.description) == ({}, "the base")


@pytest.mark.parametrize(
    ("parameter", "place", "value"),
    [
        ({"kind": "float", "low": 1.0, "high": 3.0}, 0.25, 1.5),
        ({"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}, 0.5, 1e-3),
        ({"kind": "float", "low": 0.0, "high": 0.6, "step": 0.2}, 0.99, 0.6),
        ({"kind": "int", "low": 1, "high": 4}, 0.99, 4),
        ({"kind": "int", "low": 1, "high": 4}, 0.0, 1),
        ({"kind": "int", "low": 8, "high": 32, "log": True}, 0.5, 16),
        ({"kind": "choice", "choices": ["a", None, 3]}, 0.4, None),
    ],
)
def test_values_lie_where_a_uniform_draw_finds_them(parameter: dict[str, Any], place: float, value: Any) -> None:
    found = value_at(PARAMETER.validate_json(json.dumps(parameter)), place)
    assert found == (value if value is None else pytest.approx(value))
