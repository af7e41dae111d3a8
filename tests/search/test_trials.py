"""Trials are ranked by their objectives; damaged rows are one line with the database and the value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from attnsearch.errors import StoreError
from attnsearch.search.choice import best_trials
from attnsearch.search.handle import StudyHandle, open_database
from attnsearch.search.study import (
    ENDED_AT,
)
from attnsearch.search.trials import find_stored, is_failing, read_storage, read_study
from attnsearch.store.urls import sqlite_url
from tests.search.studies import ON_EACH_DATABASE


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one complete trial of a study with one objective."""
    path = tmp_path_factory.mktemp("rows") / "hypSearch.db"
    database = open_database(sqlite_url(path), create=True)
    study = optuna.create_study(study_name="hunt", storage=database.storage)
    study.set_user_attr("note", "a")
    attributes = {"val/accuracy": 0.5, "best_epoch": 2, "seconds": 1.5}
    axes = {"lr": optuna.distributions.FloatDistribution(0.0, 1.0)}
    study.add_trial(optuna.trial.create_trial(value=0.5, params={"lr": 0.1}, distributions=axes, user_attrs=attributes))
    database.close()
    return path


@pytest.fixture
def damaged(sound: Path, tmp_path: Path) -> Path:
    """A copy, of which a test changes something."""
    with closing(sqlite3.connect(sound)) as source, closing(sqlite3.connect(tmp_path / sound.name)) as target:
        source.backup(target)
    return tmp_path / sound.name


def change(path: Path, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(statement, values).rowcount > 0
        database.commit()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("val/accuracy", "much", "val/accuracy of trial 0 must be a number, got 'much'"),
        ("val/accuracy", True, "val/accuracy of trial 0 must be a number, got True"),
        ("best_epoch", 2.5, "best_epoch of trial 0 must be a whole number from 0 on, got 2.5"),
        ("best_epoch", 2**60, "best_epoch of trial 0 must be a whole number from 0 on"),
        ("seconds", None, "seconds of trial 0 must be a number, got None"),
    ],
)
def test_attribute_of_another_kind_is_named(damaged: Path, key: str, value: Any, said: str) -> None:
    statement = "UPDATE trial_user_attributes SET value_json = ? WHERE key = ?"
    change(damaged, statement, json.dumps(value), key)
    with pytest.raises(StoreError, match=rf"database .*hypSearch\.db cannot be read \({said}.*export`$"):
        read_study(sqlite_url(damaged), "hunt")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trial_user_attributes SET value_json = '{'",
        "UPDATE study_user_attributes SET value_json = '[['",
        "UPDATE trial_params SET distribution_json = '3'",
        'UPDATE trial_params SET distribution_json = \'{"name": "x"}\'',
        "UPDATE trials SET state = 'LOST'",
        "UPDATE trials SET datetime_start = 'soon'",
        "UPDATE trials SET number = 'x'",
        "UPDATE trial_values SET value = 'x'",
        "DELETE FROM trial_values",
        "DELETE FROM study_directions",
        "UPDATE study_directions SET direction = 'UP'",
        "UPDATE trial_values SET value_type = NULL",
        "ALTER TABLE trials DROP COLUMN datetime_start",
    ],
)
def test_damaged_row_is_one_line_with_the_database(damaged: Path, statement: str) -> None:
    with closing(sqlite3.connect(damaged)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")
        database.commit()
    with closing(sqlite3.connect(damaged)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute(statement)
        database.commit()
    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be (read|used)") as caught:
        read_study(sqlite_url(damaged), "hunt")
    assert "\n" not in str(caught.value)


def test_study_of_another_name_is_told_which_there_are(sound: Path) -> None:
    with pytest.raises(StoreError, match=r"'hunts' is not in its database .*hypSearch\.db; known: hunt"):
        read_study(sqlite_url(sound), "hunts")


def test_search_finds_a_sound_study_and_none_of_another_name(sound: Path) -> None:
    found = find_stored(read_storage(sqlite_url(sound)), sqlite_url(sound), "hunt")
    assert found is not None
    assert found.study_name == "hunt"
    assert find_stored(read_storage(sqlite_url(sound)), sqlite_url(sound), "other") is None


def test_search_starts_on_no_damaged_page(damaged: Path) -> None:
    """`PRAGMA quick_check` reads all pages; nothing is written to a file that fails it."""
    content = bytearray(damaged.read_bytes())
    content[-8192:-4096] = b"\xff" * 4096
    damaged.write_bytes(content)
    for look in (read_storage, lambda url: open_database(url, create=True)):
        with pytest.raises(StoreError, match=r"hypSearch\.db cannot be used as a database .*export"):
            look(sqlite_url(damaged))
    assert damaged.read_bytes() == content


def test_search_starts_on_no_damaged_trial(damaged: Path) -> None:
    change(damaged, "UPDATE trial_user_attributes SET value_json = '{'")
    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be read \(JSONDecodeError"):
        find_stored(read_storage(sqlite_url(damaged)), sqlite_url(damaged), "hunt")


Open = Callable[..., StudyHandle]


def finish(handle: StudyHandle, *values: float, monitor: float | None = None) -> None:
    trial = handle.study.ask()
    trial.set_user_attr("val/accuracy", values[0] if monitor is None else monitor)
    handle.study.tell(trial, list(values))


@pytest.mark.parametrize(("direction", "best"), [("maximize", 1), ("minimize", 0)])
def test_direction_is_respected(open_tiny: Open, direction: str, best: int) -> None:
    handle = open_tiny(objectives={"val/accuracy": direction})
    finish(handle, 0.2)
    finish(handle, 0.9)
    finish(handle, 0.5)
    assert best_trials(handle.study, handle.loaded.study, k=1)[0].number == best


def test_first_of_equal_trials_is_best(open_tiny: Open) -> None:
    handle = open_tiny()
    finish(handle, 0.9)
    finish(handle, 0.9)
    assert [trial.number for trial in best_trials(handle.study, handle.loaded.study, k=2)] == [0, 1]


@ON_EACH_DATABASE
def test_pareto_front_comes_first_and_is_ordered_by_the_monitor(open_tiny: Open) -> None:
    handle = open_tiny(objectives={"val/accuracy": "maximize", "val/sparsity": "minimize"})
    finish(handle, 0.5, 0.1)
    finish(handle, 0.8, 0.5)
    finish(handle, 0.7, 0.6)  # dominated by the second
    assert [trial.number for trial in best_trials(handle.study, handle.loaded.study, k=1)] == [1, 0]


@ON_EACH_DATABASE
def test_infeasible_trial_is_never_best(open_tiny: Open) -> None:
    handle = open_tiny()
    trial = handle.study.ask()
    trial.set_constraint("val/sparsity", 0.1)
    handle.study.tell(trial, 0.99)
    finish(handle, 0.5)
    assert [trial.number for trial in best_trials(handle.study, handle.loaded.study, k=5)] == [1]


def ended(handle: StudyHandle, states: list[TrialState]) -> None:
    for index, state in enumerate(states):
        trial = handle.study.ask()
        trial.set_user_attr(ENDED_AT, 100.0 + index)
        handle.study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)


FAIL, COMPLETE = TrialState.FAIL, TrialState.COMPLETE


@pytest.mark.parametrize(
    ("states", "since", "failing"),
    [
        ([FAIL, FAIL, FAIL], 0.0, True),
        ([COMPLETE, FAIL, FAIL, FAIL], 0.0, True),
        ([FAIL, FAIL, FAIL, COMPLETE], 0.0, True),  # the last one was still running when the others failed
        ([FAIL, FAIL, COMPLETE, FAIL], 0.0, False),
        ([FAIL, FAIL], 0.0, False),
        ([FAIL, FAIL, FAIL], 101.0, False),  # the first one belongs to an earlier start
    ],
)
def test_three_failures_in_a_row_are_too_many(
    open_tiny: Open, states: list[TrialState], since: float, failing: bool
) -> None:
    handle = open_tiny()
    ended(handle, states)
    assert is_failing(handle.trials(), since=since) is failing
