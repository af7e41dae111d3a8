"""`retrieval` and what it is printed beside, on a small study, in this process."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from attnsearch.cli import main
from tests.cli.conftest import Run


@pytest.fixture
def run(people: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command on the results; returns the lines that it printed."""

    def call(*words: str, code: int = 0) -> list[str]:
        assert main([*words, "--results", str(people)]) == code
        shown = capsys.readouterr()
        return (shown.err if code else shown.out).splitlines()

    return call


def test_re_ranked_scores_stand_apart(run: Run) -> None:
    lines = run("retrieval", "cnn_people", "--trial", "0", "--rerank", "--k1", "5", "--k2", "2")
    titles = [line.strip() for line in lines if line.strip() and not line.startswith(" ")]
    assert titles[0].startswith("people/cnn_people:0, val, ")
    assert titles[1].startswith("without a trained model")
    assert titles[2].startswith("re-ranked by k-reciprocal neighbours, k1 5, k2 2, lambda_value 0.3")
    assert [line for line in lines if line.startswith("written: ") and line.endswith("reranked_val.csv")]
    text = "\n".join(lines)
    assert "accuracy" not in text
    assert "class" not in text


def test_lines_for_machines_name_what_they_are_of(run: Run) -> None:
    rows = [json.loads(line) for line in run("retrieval", "dcal_people", "--json")]
    rankings = [row["ranking"] for row in rows if "ranking" in row]
    assert rankings == ["combined", "sa", "glca"]
    assert rows[0]["mAP_low"] <= rows[0]["mAP"] <= rows[0]["mAP_high"]
    (floors,) = [row["floors"] for row in rows if "floors" in row]
    assert set(floors) == {"floor_random_mAP", "floor_histogram_mAP", "floor_untrained_mAP"}
    assert [row["camera"] for row in rows if "n_gallery" in row and "camera" in row] == ["1", "2", "3"]
    matrix = {row["query_camera"]: row["mAP_by_gallery_camera"] for row in rows if "query_camera" in row}
    assert matrix["1"]["1"] is None
    queries = [row["average_precision"] for row in rows if "query" in row]
    assert queries == sorted(queries)


def test_evaluate_prints_floors(run: Run) -> None:
    (line,) = run("evaluate", "cnn_people", "--json")
    scores = json.loads(line)
    assert {"val/mAP", "val/floor_random_mAP", "val/floor_histogram_mAP", "val/floor_untrained_mAP"} <= scores.keys()


def test_floors_are_published_with_the_scores(people: Path) -> None:
    (path,) = (people / "people").glob("modelcnn_people_epoch*_test.csv")
    names, cells = csv.reader(path.read_text().splitlines())
    assert names[-3:] == ["floor_random_mAP", "floor_histogram_mAP", "floor_untrained_mAP"]
    assert all(0 < float(cell) < 1 for cell in cells[-3:])


def test_each_task_has_its_command(run: Run, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = run("confusion", "cnn_people", code=2)
    assert re.fullmatch(r"error: people/cnn_people:\d is trained for reid; use `attnsearch retrieval`", line)
    assert main(["retrieval", "br_npa_low_res", "--results", str(finished_run)]) == 2
    assert capsys.readouterr().err == (
        "error: demo/br_npa_low_res:0 is trained for classification; use `attnsearch confusion`\n"
    )


def test_trials_are_compared_by_their_queries(run: Run, people: Path) -> None:
    rows = [json.loads(line) for line in run("compare", "cnn_people:0,1", "--json")]
    levels = {(row["name"], row["metric"]): row["mean"] for row in rows if "mean" in row}
    assert {metric for _, metric in levels} == {"mAP", "rank1", "rank5", "rank10", "mINP"}
    first, second = (
        json.loads(run("retrieval", "cnn_people", "--trial", number, "--json")[0])["mAP"] for number in "01"
    )
    assert levels["cnn_people:0", "mAP"] == pytest.approx(first)
    (pair,) = [row for row in rows if "difference" in row and row["metric"] == "mAP"]
    assert pair["difference"] == pytest.approx(first - second)
    shown = run("compare", "cnn_people:0,1")
    assert shown[0].startswith("A = cnn_people:0, ")
    assert shown[0].endswith(" queries")
    assert not any("images" in line for line in shown if not line.startswith(("note: ", "written: ")))
    (line,) = run("compare", "cnn_people:0,1", "--metrics", "mAP_group", code=2)
    assert "metric 'mAP_group' was not scored for all trials" in line
