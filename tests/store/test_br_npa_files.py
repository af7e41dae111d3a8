"""Deletion and insertion under their published names."""

from __future__ import annotations

import math

import numpy as np
import pytest

from attnsearch.errors import StoreError
from attnsearch.store.br_npa_files import write_areas
from attnsearch.store.image_scores import ImageScore, ScoreTable, make_table
from attnsearch.store.layout import StudyLayout


def table(*areas: float) -> ScoreTable:
    rows = [
        ImageScore(str(index), {"deletion": area}, {"deletion": [1.0, 0.5, area]}) for index, area in enumerate(areas)
    ]
    return make_table(rows, (0.0, 0.5, 1.0), {"grid": [2, 3]})


def test_files_bear_the_published_names(layout: StudyLayout) -> None:
    names = write_areas(layout, "Del", table(0.25, 0.75))
    assert names == ["attMetrDel_br_npa.npy", "attMetrics_Del.csv", "attMetrics_Del_pop.csv"]
    assert (layout.experiment_dir / names[1]).read_text() == "br_npa,0.5\n"
    assert (layout.experiment_dir / names[2]).read_text() == "br_npa,0.25,0.75\n"
    curves = np.load(layout.experiment_dir / names[0], allow_pickle=False)
    np.testing.assert_array_equal(curves[1], np.array([[6, 1.0], [3, 0.5], [0, 0.75]], dtype=np.float32))


def test_lines_of_other_studies_stay_and_the_own_one_is_replaced(layout: StudyLayout) -> None:
    write_areas(layout.shared.study("cnn"), "Del", table(0.125))
    write_areas(layout, "Del", table(0.25))
    write_areas(layout, "Del", table(0.5, math.nan))
    assert layout.shared.areas_csv("Del").read_text() == "br_npa,0.5\ncnn,0.125\n"
    assert layout.shared.areas_csv("Del", per_image=True).read_text() == "br_npa,0.5,\ncnn,0.125\n"


def test_curve_that_was_not_measured_is_named(layout: StudyLayout) -> None:
    with pytest.raises(StoreError, match="br_npa: insertion was not scored"):
        write_areas(layout, "Add", table(0.5))
