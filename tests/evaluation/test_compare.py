"""Comparisons of scored trials."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from attnsearch.errors import ConfigError
from attnsearch.evaluation.compare import (
    ScoredTrial,
    check_comparable,
    compare,
    comparison_name,
    metrics_of,
    write_comparison,
)
from attnsearch.store.image_scores import make_table
from attnsearch.store.layout import ExperimentLayout
from attnsearch.store.score_journal import ImageScore

ABOUT = {"version": 1, "split": "val", "settings": {"n_steps": 4, "fill": "mean"}, "images": "x", "grid": [7, 7]}
A = (0.1, 0.4, 0.3, 0.6, 0.2)
B = (0.2, 0.4, 0.5, 0.9, 0.1)
C = (0.8, 0.9, 0.7, 0.9, 0.6)


def entry(name: str, values: tuple[float, ...], *, order: tuple[int, ...] | None = None, **about: Any) -> ScoredTrial:
    rows = order or tuple(range(len(values)))
    scores = [ImageScore(f"{row}.jpg", {"deletion": values[row], "gini": math.nan}, {}) for row in rows]
    return ScoredTrial(name, make_table(scores, (), {**ABOUT, **about}))


def test_pairs_are_tested_by_image_and_corrected_for_their_number() -> None:
    entries = [entry("a", A), entry("b", B), entry("c", C)]
    found = compare(entries, ["deletion"])
    raw = {
        (x.name, y.name): stats.ttest_rel(x.table.values["deletion"], y.table.values["deletion"]).pvalue
        for x, y in ((entries[0], entries[1]), (entries[0], entries[2]), (entries[1], entries[2]))
    }
    assert {(pair.first, pair.second): pair.p_paired for pair in found.pairs} == pytest.approx(raw)
    smallest = min(raw, key=lambda pair: raw[pair])
    corrected = {(pair.first, pair.second): pair.p_paired_corrected for pair in found.pairs}
    assert corrected[smallest] == pytest.approx(3 * raw[smallest])
    welch = stats.ttest_ind(A, C, equal_var=False).pvalue
    assert next(pair.p_welch for pair in found.pairs if (pair.first, pair.second) == ("a", "c")) == pytest.approx(welch)
    p_values = found.p_values("deletion", ["c", "a", "b"])
    assert p_values[0, 1] == p_values[1, 0] == corrected["a", "c"]
    assert np.diag(p_values).tolist() == [1.0, 1.0, 1.0]


def test_images_are_matched_by_their_ids() -> None:
    found = compare([entry("a", A), entry("b", A, order=(4, 2, 0, 1, 3))], ["deletion"])
    assert found.pairs[0].difference == 0.0
    assert (found.pairs[0].low, found.pairs[0].high) == (0.0, 0.0)


def test_undefined_values_are_left_out_of_pairs_and_counted() -> None:
    found = compare([entry("a", (math.nan, *A[1:])), entry("b", B)], ["deletion"])
    assert found.pairs[0].n_images == 4
    assert [level.n_undefined for level in found.levels] == [1, 0]
    assert found.levels[0].mean == pytest.approx(np.mean(A[1:]))


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"version": 2}, r"different version \(1 and 2\)"),
        ({"settings": {"n_steps": 8, "fill": "mean"}}, r"different settings \(n_steps 4 and 8\)"),
        ({"split": "test"}, r"different split \('val' and 'test'\)"),
        ({"images": "y"}, "different images and cannot"),
    ],
)
def test_numbers_that_do_not_belong_on_one_axis_are_refused(about: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"a and b were scored with {said}"):
        check_comparable([entry("a", A), entry("b", B, **about)])


def test_different_grids_are_noted() -> None:
    (note,) = check_comparable([entry("a", A), entry("b", B, grid=[14, 14])])
    assert "14x14, 7x7" in note
    assert check_comparable([entry("a", A), entry("b", B)]) == []


@pytest.mark.parametrize(("names", "said"), [(["a"], "got a"), (["a", "a"], "compared once, got a, a")])
def test_too_few_or_repeated_trials_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_comparable([entry(name, A) for name in names])


def test_metrics_without_any_value_are_passed_over() -> None:
    entries = [entry("a", A), entry("b", B)]
    assert metrics_of(entries, []) == ["deletion"]
    with pytest.raises(ConfigError, match=r"'deletoin' .*\(did you mean 'deletion'\?\)"):
        metrics_of(entries, ["deletoin"])


def test_tables_and_figure_are_written(tmp_path: Path) -> None:
    entries, layout = [entry("a", A), entry("b", B)], ExperimentLayout(tmp_path, "here")
    paths = write_comparison(compare(entries, ["deletion"]), entries, layout, "two")
    assert [path.name for path in paths] == ["compare_two.csv", "compare_two_pairs.csv", "ttest_two.png"]
    (row,) = csv.DictReader(paths[1].read_text().splitlines())
    assert float(row["difference"]) == pytest.approx(np.mean(A) - np.mean(B))


def test_files_are_named_by_their_trials() -> None:
    assert comparison_name(["br_npa:3", "br_npa:10", "demo/loupe:1"]) == "br_npa_3_10_vs_demo_loupe_1"
    assert comparison_name(["cnn", "b_cnn"]) == "cnn_vs_b_cnn"
    many = [f"study_{number}" for number in range(100)]
    name = comparison_name(many)
    assert len(name) == 80
    assert name.startswith("study_0_vs_study_1_vs_")
    assert name != comparison_name([*many[:-1], "study_100"])


def test_sparser_maps_are_the_better_ones() -> None:
    """Two sparse trials change places between halves of the images; the flat one never wins."""

    def sparse(name: str, values: tuple[float, ...]) -> ScoredTrial:
        scores = [ImageScore(f"{row}.jpg", {"sparsity": value}, {}) for row, value in enumerate(values)]
        return ScoredTrial(name, make_table(scores, (), ABOUT))

    entries = [sparse("a", (0.1, 0.2, 0.3, 0.1)), sparse("b", (0.2, 0.1, 0.1, 0.35)), sparse("flat", (0.9,) * 4)]
    check = compare(entries, ["sparsity"]).winners["sparsity"]
    assert check.same < 1.0
    assert 0.1 < check.corrected < 0.3


def test_metric_that_is_named_twice_is_compared_once() -> None:
    assert metrics_of([entry("a", A), entry("b", B)], ["deletion", "deletion"]) == ["deletion"]
