"""The count of test evaluations, in each database and in the table of the study's folder."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from attnsearch.errors import StoreError
from attnsearch.processes import ProcessName
from attnsearch.store.database import Connections
from attnsearch.store.evaluation_log import log_test_evaluation, read_test_evaluations
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import SqlTrialStore


@pytest.fixture
def store(engine: Engine, url: str, layout: StudyLayout) -> SqlTrialStore:
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    return SqlTrialStore(Connections(url, engine), "study", layout)


def test_evaluations_are_logged_in_order(store: SqlTrialStore, layout: StudyLayout) -> None:
    assert read_test_evaluations(layout) == store.read_evaluations() == []
    log_test_evaluation(store, layout, 3, 7, "test")
    log_test_evaluation(store, layout, 1, 2, "val")
    logged = read_test_evaluations(layout)
    assert logged == store.read_evaluations()
    assert [(line.trial, line.epoch, line.split) for line in logged] == [(3, 7, "test"), (1, 2, "val")]
    assert all(line.time.endswith("Z") for line in logged)
    assert {line.worker.rpartition(":")[2] for line in logged} == {str(ProcessName.of_this_process())}


def test_no_test_evaluation_is_lost_when_several_are_logged_at_once(store: SqlTrialStore, layout: StudyLayout) -> None:
    def log(number: int) -> None:
        for epoch in range(5):
            log_test_evaluation(store, layout, number, epoch, "test")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(log, range(4)))
    expected = [(number, epoch) for number in range(4) for epoch in range(5)]
    assert sorted((line.trial, line.epoch) for line in store.read_evaluations()) == expected
    assert read_test_evaluations(layout) == store.read_evaluations()


def test_those_of_another_study_are_not_counted(
    engine: Engine, url: str, store: SqlTrialStore, layout: StudyLayout
) -> None:
    other = SqlTrialStore(Connections(url, engine), "another study", layout)
    log_test_evaluation(other, layout, 1, 1, "test")
    layout.test_evaluations.unlink()
    log_test_evaluation(store, layout, 2, 1, "test")
    assert [line.trial for line in store.read_evaluations()] == [2]


def test_those_that_the_table_alone_has_are_counted(store: SqlTrialStore, layout: StudyLayout) -> None:
    """As version 0.1 wrote it."""
    layout.test_evaluations.write_text("time,trial,epoch,split\n2026-01-01T00:00:00Z,4,2,test\n")
    log_test_evaluation(store, layout, 5, 1, "test")
    assert [line.time[:4] for line in store.read_evaluations()][:1] == ["2026"]
    assert [line.trial for line in read_test_evaluations(layout)] == [4, 5]


def test_a_lost_table_is_written_again(store: SqlTrialStore, layout: StudyLayout) -> None:
    log_test_evaluation(store, layout, 4, 1, "test")
    layout.test_evaluations.unlink()
    log_test_evaluation(store, layout, 5, 1, "test")
    assert [line.trial for line in read_test_evaluations(layout)] == [4, 5]


def test_damaged_log_of_test_evaluations_is_named(layout: StudyLayout) -> None:
    layout.study_dir.mkdir(parents=True)
    layout.test_evaluations.write_text("time,trial,epoch,split\n2026-01-01T00:00:00Z,one,2,test\n")
    with pytest.raises(StoreError, match=layout.test_evaluations.name):
        read_test_evaluations(layout)
