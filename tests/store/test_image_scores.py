"""Scores of single images: durable while they are made, whole when they are done."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.store.image_scores import (
    ScoreTable,
    has_scores,
    make_table,
    read_scores,
    remove_journal,
    write_areas,
    write_score_files,
)
from attnsearch.store.layout import StudyLayout
from attnsearch.store.score_journal import ImageScore, ScoreJournal
from attnsearch.store.trial_layout import ScorePaths, TrialLayout

ABOUT = {
    **{"version": 1, "digest": "d1", "settings": {"n_steps": 2}, "checkpoint": {"epoch": 3}},
    **{"split": "val", "grid": [7, 7], "images": "x"},
}


def score(image_id: str, deletion: float) -> ImageScore:
    return ImageScore(image_id, {"deletion": deletion, "gini": 0.5}, {"deletion": [0.9, 0.1 + deletion, 1 / 3]})


@pytest.fixture
def paths(tmp_path: Path) -> ScorePaths:
    return TrialLayout(tmp_path).scores("val")


@pytest.fixture
def table() -> ScoreTable:
    return make_table([score("a, b.jpg", 0.25), score("ü.jpg", math.nan)], (0.0, 0.5, 1.0), ABOUT)


def test_scores_come_back_as_they_were(paths: ScorePaths, table: ScoreTable) -> None:
    write_score_files(paths, table)
    found = read_scores(paths)
    assert found.image_ids == ("a, b.jpg", "ü.jpg")
    np.testing.assert_array_equal(found.values["deletion"], [0.25, math.nan])
    np.testing.assert_array_equal(found.curves, table.curves)
    assert found.curves.dtype == np.float32
    assert (found.curve_names, found.fractions, found.digest) == (("deletion",), (0.0, 0.5, 1.0), "d1")
    assert paths.table.read_text().splitlines()[2] == "ü.jpg,,0.5"


def test_undefined_scores_are_counted_and_left_out_of_the_mean(paths: ScorePaths, table: ScoreTable) -> None:
    write_score_files(paths, table)
    assert table.means() == {"deletion": 0.25, "gini": 0.5}
    assert json.loads(paths.about.read_text())["n_undefined"] == {"deletion": 1}


def test_undefined_scores_count_in_the_number_that_a_trial_is_chosen_by() -> None:
    """Half of the images at 0.25 and 0.5; nothing is 1 where smaller is better, and 0 where larger is."""
    values = {"deletion": 0.25, "relevance_gain": 0.5, "sparsity": 0.1}
    scores = [ImageScore("a", values, {}), ImageScore("b", dict.fromkeys(values, math.nan), {})]
    table = make_table(scores, (), ABOUT)
    assert table.trial_means() == {"deletion": 0.625, "relevance_gain": 0.25}
    assert {name: column.tolist() for name, column in table.defined_values().items()} == {
        "deletion": [0.25, 1.0],
        "relevance_gain": [0.5, 0.0],
    }


def test_metric_that_no_image_has_is_undefined() -> None:
    assert math.isnan(make_table([score("a", math.nan)], (0, 0.5, 1), ABOUT).means()["deletion"])


def test_table_without_curves_is_read_again(paths: ScorePaths) -> None:
    write_score_files(paths, make_table([ImageScore("a", {"gini": 0.5}, {})], (), ABOUT))
    assert read_scores(paths).curves.shape == (1, 0, 0)


def test_images_with_other_metrics_do_not_share_a_table() -> None:
    with pytest.raises(ValueError, match=r"b\.jpg"):
        make_table([score("a.jpg", 0.1), ImageScore("b.jpg", {"gini": 0.5}, {})], (0, 0.5, 1), ABOUT)


def test_journal_gives_back_what_was_appended(paths: ScorePaths) -> None:
    journal = ScoreJournal(paths.journal, "d1")
    assert journal.read() == {}
    journal.append([score("a", 0.25), score("b", math.nan)])
    journal.append([score("c", 0.125)])
    found = ScoreJournal(paths.journal, "d1").read()
    assert list(found) == ["a", "b", "c"]
    assert found["c"] == score("c", 0.125)
    assert math.isnan(found["b"].values["deletion"])


def test_journal_of_another_scoring_is_passed_over(paths: ScorePaths) -> None:
    ScoreJournal(paths.journal, "d0").append([score("a", 0.25)])
    assert ScoreJournal(paths.journal, "d1").read() == {}


def test_line_that_was_cut_off_counts_as_not_written(paths: ScorePaths) -> None:
    journal = ScoreJournal(paths.journal, "d1")
    journal.append([score("a", 0.25), score("b", 0.5)])
    content = paths.journal.read_bytes()
    paths.journal.write_bytes(content[:-9])
    assert list(journal.read()) == ["a"]
    journal.append([score("c", 0.5)])
    assert list(journal.read()) == ["a", "c"]


def test_removed_journal_may_be_removed_again(paths: ScorePaths) -> None:
    journal = ScoreJournal(paths.journal, "d1")
    journal.append([score("a", 0.25)])
    remove_journal(paths)
    remove_journal(paths)
    assert journal.read() == {}


def test_lost_lease_leaves_no_scores(paths: ScorePaths, table: ScoreTable) -> None:
    def check() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        write_score_files(paths, table, check=check)
    assert not has_scores(paths)


def test_missing_scores_name_the_verb_that_makes_them(paths: ScorePaths) -> None:
    with pytest.raises(StoreError, match=r"scores_val\.json does not exist; .*attnsearch faithfulness"):
        read_scores(paths)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 7}'])
def test_broken_description_is_refused(paths: ScorePaths, table: ScoreTable, content: str) -> None:
    write_score_files(paths, table)
    paths.about.write_text(content)
    with pytest.raises(StoreError, match=r"scores_val\.json (cannot be read|has the format 7)"):
        read_scores(paths)


def test_rows_of_another_scoring_are_refused(paths: ScorePaths, table: ScoreTable) -> None:
    write_score_files(paths, table)
    paths.table.write_text("image_id,deletion\na,0.5\n")
    with pytest.raises(StoreError, match="1 rows"):
        read_scores(paths)


def areas_table(*areas: float) -> ScoreTable:
    rows = [
        ImageScore(str(index), {"deletion": area}, {"deletion": [1.0, 0.5, area]}) for index, area in enumerate(areas)
    ]
    return make_table(rows, (0.0, 0.5, 1.0), {"grid": [2, 3]})


def test_files_bear_the_published_names(layout: StudyLayout) -> None:
    names = write_areas(layout, "Del", areas_table(0.25, 0.75))
    assert names == ["attMetrDel_br_npa.npy", "attMetrics_Del.csv", "attMetrics_Del_pop.csv"]
    assert (layout.experiment_dir / names[1]).read_text() == "br_npa,0.5\n"
    assert (layout.experiment_dir / names[2]).read_text() == "br_npa,0.25,0.75\n"
    curves = np.load(layout.experiment_dir / names[0], allow_pickle=False)
    np.testing.assert_array_equal(curves[1], np.array([[6, 1.0], [3, 0.5], [0, 0.75]], dtype=np.float32))


def test_lines_of_other_studies_stay_and_the_own_one_is_replaced(layout: StudyLayout) -> None:
    write_areas(layout.shared.study("cnn"), "Del", areas_table(0.125))
    write_areas(layout, "Del", areas_table(0.25))
    write_areas(layout, "Del", areas_table(0.5, math.nan))
    assert layout.shared.areas_csv("Del").read_text() == "br_npa,0.5\ncnn,0.125\n"
    assert layout.shared.areas_csv("Del", per_image=True).read_text() == "br_npa,0.5,\ncnn,0.125\n"


def test_curve_that_was_not_measured_is_named(layout: StudyLayout) -> None:
    with pytest.raises(StoreError, match="br_npa: insertion was not scored"):
        write_areas(layout, "Add", areas_table(0.5))
