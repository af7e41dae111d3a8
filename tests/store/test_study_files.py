"""The small files in the folder of a study."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import log_test_evaluation, read_manifest, read_test_evaluations, write_classes

SETS = [{"trial": 1, "epoch": 3, "folder": "."}]


def write(layout: StudyLayout, **changes: Any) -> None:
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, "study": "hunt", "sets": SETS, "files": ["a.csv"], **changes}
    layout.published_json.write_text(json.dumps(about), encoding="utf-8")


def test_manifest_is_read_and_none_where_there_is_none(layout: StudyLayout) -> None:
    assert read_manifest(layout) is None
    write(layout)
    found = read_manifest(layout)
    assert found is not None
    assert (found["sets"], found["files"]) == (SETS, ["a.csv"])


@pytest.mark.parametrize(
    "changes",
    [
        {"sets": []},
        {"sets": 3},
        {"sets": [None]},
        {"sets": [{**SETS[0], "trial": "1"}]},
        {"sets": [{**SETS[0], "folder": "../.."}]},
        {"files": ["/etc/passwd"]},
        {"files": None},
    ],
)
def test_damaged_manifest_is_named_with_its_fix(layout: StudyLayout, changes: dict[str, Any]) -> None:
    write(layout, **changes)
    with pytest.raises(StoreError, match=r"published\.json cannot be read \((sets|files).*\), delete it; .*search"):
        read_manifest(layout)


def test_evaluations_are_logged_in_order(layout: StudyLayout) -> None:
    layout.study_dir.mkdir(parents=True)
    assert read_test_evaluations(layout) == []
    log_test_evaluation(layout, 3, 7, "test")
    log_test_evaluation(layout, 1, 2, "val")
    logged = read_test_evaluations(layout)
    assert [(line.trial, line.epoch, line.split) for line in logged] == [(3, 7, "test"), (1, 2, "val")]
    assert all(line.time.endswith("Z") for line in logged)


def test_no_test_evaluation_is_lost_when_several_are_logged_at_once(layout: StudyLayout) -> None:
    layout.study_dir.mkdir(parents=True)

    def log(number: int) -> None:
        for epoch in range(8):
            log_test_evaluation(layout, number, epoch, "test")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(log, range(4)))
    logged = sorted((line.trial, line.epoch) for line in read_test_evaluations(layout))
    assert logged == [(number, epoch) for number in range(4) for epoch in range(8)]
    assert layout.test_evaluations.read_text().startswith("time,trial,epoch,split\n")


def test_damaged_log_of_test_evaluations_is_named(layout: StudyLayout) -> None:
    layout.study_dir.mkdir(parents=True)
    layout.test_evaluations.write_text("time,trial,epoch,split\n2026-01-01T00:00:00Z,one,2,test\n")
    with pytest.raises(StoreError, match=layout.test_evaluations.name):
        read_test_evaluations(layout)


def test_class_names_keep_their_order_and_spelling(tmp_path: Path) -> None:
    names = ("tern, common", "Müller's gull", '"x"', "001")
    write_classes(tmp_path / "classes.csv", names)
    text = (tmp_path / "classes.csv").read_text(encoding="utf-8")
    assert text.startswith('label,class_name\n0,"tern, common"\n')
    assert [row["class_name"] for row in csv.DictReader(text.splitlines())] == list(names)
