"""What is told of ranked galleries, on the worked example of the protocol."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.evaluation.compare import ScoredTrial, check_comparable
from attnsearch.evaluation.ranking import (
    Reranking,
    RetrievalReport,
    camera_rows,
    floor_names,
    hardest_queries,
    identity_rows,
    matrix_of,
    query_columns,
    query_table,
    query_values,
    ranking_row,
    scores_of,
    write_tables,
)
from attnsearch.metrics.retrieval import RankingScores
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.tasks.retrieval import rank_split
from attnsearch.types import MatchRule, Retrieval
from tests.tasks.test_retrieval import worked_example


@pytest.fixture
def example() -> Retrieval:
    """Queries 5/1, 7/2 and 2/2: AP 1/2, 5/6 and none; gallery 5/1, 0/2, 5/3, 7/1, 5/2, 7/3, 2/2."""
    table, features = worked_example()
    return rank_split(table, features, distance="cosine")[0]


def test_scores_are_means_over_queries_with_a_match(example: Retrieval) -> None:
    row = ranking_row("combined", scores_of(example), example.match_rule)
    assert row.n_queries == 2
    assert {name: one.mean for name, one in row.scores.items()} == pytest.approx(
        {"mAP": 2 / 3, "rank1": 0.5, "rank5": 1.0, "rank10": 1.0, "mINP": (0.5 + 2 / 3) / 2}
    )
    assert row.scores["mAP"].low == pytest.approx(0.5)  # a bootstrap of two values gives one of them at the ends
    assert row.scores["mAP"].high == pytest.approx(5 / 6)


@pytest.mark.parametrize(("rule", "name"), [("camera", "mAP"), ("group", "mAP_group"), ("open", "mAP_open")])
def test_names_end_in_the_rule(example: Retrieval, rule: MatchRule, name: str) -> None:
    assert name in query_values(replace(example, match_rule=rule))
    assert floor_names(rule) == tuple(f"floor_{floor}_{name}" for floor in ("random", "histogram", "untrained"))


def test_cameras_have_the_means_of_their_queries(example: Retrieval) -> None:
    first, second, third = camera_rows(example)
    assert (first.name, first.n_queries, first.n_gallery, first.scores["mAP"]) == ("1", 1, 2, pytest.approx(0.5))
    assert (second.n_queries, second.n_gallery, second.scores["rank1"]) == (1, 3, 1.0)  # 2/2 has no match
    assert (third.n_queries, third.n_gallery) == (0, 2)
    assert np.isnan(third.scores["mAP"])
    assert camera_rows(replace(example, cameras=None)) == ()


def test_identities_with_the_lowest_scores_come_first(example: Retrieval) -> None:
    rows = identity_rows(example)
    assert [(row.name, row.n_queries, row.n_gallery) for row in rows] == [("5", 1, 3), ("7", 1, 2)]
    assert [row.scores["mAP"] for row in rows] == pytest.approx([0.5, 5 / 6])


def test_cells_of_the_matrix_rank_one_camera_alone(example: Retrieval) -> None:
    matrix = matrix_of(example)
    assert matrix is not None
    # 5/1 ranks 0/2, 5/2, 2/2 of camera 2 and 5/3, 7/3 of camera 3; 7/2 ranks 7/1, 5/1 of camera 1 and 7/3, 5/3
    np.testing.assert_allclose(matrix, [[np.nan, 0.5, 1.0], [1.0, np.nan, 1.0], [np.nan, np.nan, np.nan]])
    assert matrix_of(replace(example, cameras=None)) is None


def test_queries_are_told_with_their_nearest_image(example: Retrieval) -> None:
    columns = query_columns(example)
    assert columns["image_id"] == ["0.jpg", "1.jpg", "2.jpg"]
    assert columns["identity"] == ["5", "7", "2"]
    assert columns["camera"] == ["1", "2", "2"]
    assert columns["first_match"] == [2, 1, 0]
    assert columns["nearest"] == ["4.jpg", "8.jpg", "3.jpg"]
    assert columns["nearest_identity"] == ["0", "7", "5"]
    assert hardest_queries(example, 5) == [0, 1]


def test_queries_are_compared_like_images(example: Retrieval) -> None:
    table = query_table(example, split="val", epoch=3)
    assert table.image_ids == ("0.jpg", "1.jpg", "2.jpg")
    np.testing.assert_allclose(table.values["mAP"], [0.5, 5 / 6, np.nan])
    other = query_table(replace(example, is_query=~example.is_query), split="val", epoch=3)
    assert table.about["images"] != other.about["images"]
    assert (table.about["settings"], table.about["distance"]) == ({"match_rule": "camera"}, "cosine")


def test_models_are_compared_each_under_its_own_distance(example: Retrieval) -> None:
    entries = [
        ScoredTrial(distance, query_table(replace(example, distance=distance), split="val", epoch=3))
        for distance in ("cosine", "euclidean")
    ]
    assert check_comparable(entries) == []
    other = ScoredTrial("group", query_table(replace(example, match_rule="group"), split="val", epoch=3))
    with pytest.raises(ConfigError, match=r"different settings \(match_rule 'camera' and 'group'\)"):
        check_comparable([entries[0], other])


def cells(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_tables_keep_what_is_re_ranked_apart(example: Retrieval, tmp_path: Path) -> None:
    scores = scores_of(example)
    reranked = RankingScores(np.array([1.0, 1.0, np.nan]), np.ones(3), np.array([1, 1, 0]))
    rankings = (ranking_row("combined", scores, "camera"),)
    floors = {"floor_random_mAP": 0.25}
    report = RetrievalReport(example, rankings, matrix_of(example), floors, Reranking(k1=4), reranked)
    files = TrialLayout(tmp_path)
    names = [path.name for path in write_tables(files, "val_cosine", report)]
    assert sorted(names) == sorted(
        f"{table}_val_cosine.csv"
        for table in ("rankings", "ranked_queries", "identities", "cameras", "camera_matrix", "reranked")
    )
    header, combined, floor = cells(files.table_csv("rankings", "val_cosine"))
    assert header[:5] == ["ranking", "n_queries", "mAP", "mAP_low", "mAP_high"]
    assert (combined[0], float(combined[2])) == ("combined", pytest.approx(2 / 3))
    assert floor == ["floor_random_mAP", "", "0.25", *[""] * (len(header) - 3)]
    header, again = cells(files.table_csv("reranked", "val_cosine"))
    assert dict(zip(header, again, strict=True)) | {"k1": "4", "k2": "6", "lambda_value": "0.3", "mAP": "1.0"} == dict(
        zip(header, again, strict=True)
    )
    header, first, *_, last = cells(files.table_csv("ranked_queries", "val_cosine"))
    row = dict(zip(header, first, strict=True))
    assert (row["average_precision"], row["reranked_average_precision"]) == ("0.5", "1.0")
    assert dict(zip(header, last, strict=True))["average_precision"] == ""
    assert cells(files.table_csv("camera_matrix", "val_cosine"))[1] == ["1", "", "0.5", "1.0"]
    assert [row[0] for row in cells(files.table_csv("identities", "val_cosine"))] == ["identity", "5", "7"]
