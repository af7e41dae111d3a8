"""Trials are ranked by their objectives; damaged rows are one line with the database and the value."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest

from attnsearch.errors import StoreError
from attnsearch.search.brackets import BRACKET, BRACKETS, RUNG_VALUES
from attnsearch.search.choice import best_trials
from attnsearch.search.handle import StudyHandle, open_database
from attnsearch.search.standings import Standing
from attnsearch.search.study import RETURNED
from attnsearch.search.trials import find_stored, open_stored, read_storage, read_study
from attnsearch.store.urls import sqlite_url
from tests.search.studies import HALVING, ON_EACH_DATABASE, play_leg


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
    for look in (partial(open_stored, patience_s=0.0), partial(open_database, create=True)):
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


def test_trial_at_a_rung_is_paused_with_its_place_and_what_it_has_reached(open_tiny: Open) -> None:
    handle = open_tiny(**HALVING)
    for accuracy in (0.5, 0.75, 0.25):
        play_leg(handle, {"val/accuracy": accuracy})
    rows = read_study(handle.database.url, "hunt")
    assert [row.state for row in rows.trials] == ["paused"] * 3
    assert [row.values for row in rows.trials] == [(0.5,), (0.75,), (0.25,)]
    assert rows.trials[0].standing == Standing(bracket=1, rung=1, epoch=1, place=2, n_reached=3)
    assert rows.best == ()


def test_trial_that_its_rung_has_ended_shows_what_it_had_reached(open_tiny: Open) -> None:
    handle = open_tiny(**HALVING)
    for accuracy in (0.5, 0.75, 0.25, 0.8, 0.875, 0.9):
        play_leg(handle, {"val/accuracy": accuracy})
    rows = read_study(handle.database.url, "hunt").trials
    assert [(row.state, row.values) for row in rows] == [
        ("pruned", (0.5,)), ("complete", (0.8,)), ("pruned", (0.25,)), ("complete", (0.9,))
    ]  # fmt: skip
    assert [row.standing and row.standing.place for row in rows] == [3, None, 4, None]


def test_objectives_of_a_paused_trial_are_known_together_or_not_at_all(open_tiny: Open) -> None:
    objectives = {"val/accuracy": "maximize", "val/sparsity": "minimize"}
    handle = open_tiny(objectives=objectives, **HALVING)
    play_leg(handle, {"val/accuracy": 0.5, "val/sparsity": 0.25})
    play_leg(handle, {"val/accuracy": 0.5})
    assert [row.values for row in read_study(handle.database.url, "hunt").trials] == [(0.5, 0.25), ()]


def test_paused_trial_that_was_returned_before_gives_no_reason(open_tiny: Open) -> None:
    handle = open_tiny(**HALVING)
    number = play_leg(handle, {"val/accuracy": 0.5})
    handle.database.storage.set_trial_user_attr(handle.trials()[number]._trial_id, RETURNED, {"reason": "killed"})
    assert read_study(handle.database.url, "hunt").trials[number].error is None


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("trial_user_attributes", RUNG_VALUES, [{"epoch": 1}]),
        ("trial_user_attributes", RUNG_VALUES, 3),
        ("trial_user_attributes", RUNG_VALUES, [{"epoch": 1, "values": ["x"], "excess": 0}]),
        ("trial_user_attributes", BRACKET, "first"),
        ("trial_user_attributes", BRACKET, None),
        ("study_user_attributes", BRACKETS, [{"n_trials": 4}]),
        ("study_user_attributes", BRACKETS, "none"),
    ],
)
def test_damaged_rungs_are_one_line_with_the_database(open_tiny: Open, table: str, key: str, value: Any) -> None:
    handle = open_tiny(**HALVING)
    play_leg(handle, {"val/accuracy": 0.5})
    change(handle.layout.database, f"UPDATE {table} SET value_json = ? WHERE key = ?", json.dumps(value), key)
    handle.database.close()
    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be read \(.*export`$"):
        read_study(handle.database.url, "hunt")
