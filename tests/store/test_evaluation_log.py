"""The log of test evaluations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.evaluation_log import log_test_evaluation, read_test_evaluations
from attnsearch.store.layout import StudyLayout


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
