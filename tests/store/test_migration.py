"""A database of version 1 is brought to this version whole or not at all; readers read both."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from sqlalchemy import Engine, event

from attnsearch.errors import StoreError
from attnsearch.store import migration
from attnsearch.store.creation import create_database
from attnsearch.store.database import Connections, connect_writer, open_reader, open_writer, transaction
from attnsearch.store.file_records import FileRecord
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import SqlLeases
from attnsearch.store.tables import SCHEMA, schema_of
from attnsearch.store.trial_store import SqlTrialStore, TrialRecords, open_trial_records, opened_trial_store
from attnsearch.store.urls import sqlite_path
from attnsearch.testing.store_contract import epoch_record, score_table

DDL = (
    "CREATE TABLE attnsearch_meta (key VARCHAR(64) NOT NULL PRIMARY KEY, value VARCHAR(200) NOT NULL)",
    "CREATE TABLE attnsearch_epochs (study VARCHAR(36) NOT NULL, trial INTEGER NOT NULL, epoch INTEGER NOT NULL, "
    "split VARCHAR(8) NOT NULL, metric VARCHAR(128) NOT NULL, value DOUBLE PRECISION, "
    "PRIMARY KEY (study, trial, epoch, split, metric))",
    "CREATE TABLE attnsearch_scores (study VARCHAR(36) NOT NULL, trial INTEGER NOT NULL, digest VARCHAR(64) NOT NULL, "
    "metric VARCHAR(128) NOT NULL, value DOUBLE PRECISION, split VARCHAR(8) NOT NULL, version INTEGER NOT NULL, "
    "settings VARCHAR(4096) NOT NULL, n_images INTEGER NOT NULL, n_undefined INTEGER NOT NULL, "
    "PRIMARY KEY (study, trial, digest, metric))",
    "CREATE TABLE attnsearch_artifacts (study VARCHAR(36) NOT NULL, trial INTEGER NOT NULL, kind VARCHAR(64) NOT NULL, "
    "path VARCHAR(1024) NOT NULL, shape VARCHAR(128) NOT NULL, dtype VARCHAR(32) NOT NULL, "
    "sha256 VARCHAR(64) NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY (study, trial, kind))",
    "CREATE TABLE attnsearch_leases (study VARCHAR(36) NOT NULL, trial INTEGER NOT NULL, attempt INTEGER NOT NULL, "
    "worker VARCHAR(200) NOT NULL, expires_at DOUBLE PRECISION NOT NULL, epoch INTEGER NOT NULL, "
    "epoch_at_claim INTEGER NOT NULL, stalled INTEGER NOT NULL, state VARCHAR(8) NOT NULL, "
    "PRIMARY KEY (study, trial))",
    "INSERT INTO attnsearch_meta VALUES ('schema', '1')",
)
"""The tables of version 1."""
METRICS = [*((split, name) for split in ("train", "val") for name in ("accuracy", "loss", "lr", "n_images")),
           *(("val", f"metric_{index}") for index in range(30))]  # fmt: skip
SETTINGS = json.dumps({"n_steps": 2})
BEST = FileRecord("br_npa/trials/00001/best.safetensors", (), "", "00", 2**40)
Read = dict[str, Any]


def old_rows() -> dict[str, list[tuple[Any, ...]]]:
    """Two studies of two trials: the second one lacks a metric, and has an epoch where one is undefined."""
    epochs: list[tuple[Any, ...]] = []
    for study, n_epochs in (("gull", 3), ("tern", 2)):
        for trial in (0, 1):
            for epoch in range(1, n_epochs + 1):
                for index, (split, metric) in enumerate(METRICS[: 38 if study == "gull" else 12]):
                    value = None if (trial, epoch, index) == (1, 2, 3) else (1 + trial) / (epoch + index + 1)
                    epochs.append((study, trial, epoch, split, metric, value))
    scored = [("deletion", 0.1 + 0.2, 1), ("gini", None, 4), ("accuracy", 0.5, 0)]
    scores = [
        ("gull", 1, digest, name, value, "val", 2, SETTINGS, 4, n) for digest in ("a", "b") for name, value, n in scored
    ]
    leases = [("gull", number, 1 + number, "here:1:a", 5.0, 3, 0, 0, "released") for number in (0, 1)]
    artifacts = [("gull", 1, "kept", BEST.path, "", "", BEST.sha256, BEST.bytes)]
    return {"epochs": epochs, "scores": scores, "leases": leases, "artifacts": artifacts}


def make_old(url: str, *, without: str = "") -> None:
    """A database of version 1, with Optuna's tables; `without` is a table that a still earlier one lacked."""
    engine = open_writer(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            assert sqlite_path(url)
        for statement in DDL:
            if not without or without not in statement:
                connection.exec_driver_sql(statement)
        for name, rows in old_rows().items():
            if name != without:
                places = ", ".join(["?" if engine.dialect.name == "sqlite" else "%s"] * len(rows[0]))
                connection.exec_driver_sql(f"INSERT INTO attnsearch_{name} VALUES ({places})", rows)
    engine.dispose()
    connect_writer(url, optuna.storages.RDBStorage, patience_s=0.0)[1].close()


@pytest.fixture
def old_url(url: str, layout: StudyLayout) -> str:
    layout.study_dir.mkdir(parents=True)
    make_old(url)
    return url


@pytest.fixture
def old_file(file_url: str, layout: StudyLayout) -> Path:
    layout.study_dir.mkdir(parents=True)
    make_old(file_url)
    return layout.database


def everything(url: str) -> Read:
    """All that a reader finds."""
    found: Read = {}
    for study in ("gull", "tern"):
        records = open_trial_records(url, study)
        found[study] = (
            records.read_epochs().to_dict("list"),
            records.read_epochs([1]).to_dict("list"),
            records.read_scores().drop(columns="standard_error").to_dict("list"),
            records.read_artifacts(),
            [SqlLeases(open_reader(url), study).of_trial(number) for number in (0, 1)],
            best_of(records),
        )
    return found


def best_of(records: TrialRecords) -> Any:
    """The values of the first epochs of both trials that are best in a metric."""
    found = records.read_best_epochs([0, 1], ["val/accuracy", "train/n_images"], is_higher=True)
    return found.n_trials, found.values[found.values.argmax(axis=0)].tolist()


def same(before: Read, after: Read) -> bool:
    return repr(before) == repr(after)  # NaN is not itself


def test_reader_finds_the_same_before_and_after_a_migration(old_url: str, caplog: pytest.LogCaptureFixture) -> None:
    before = everything(old_url)
    assert before["gull"][0]["val/metric_29"][0] == 1 / 39
    assert before["gull"][3] == {1: {"best": BEST}}
    create_database(old_url)
    assert same(before, everything(old_url))
    assert f"tables were brought to version {SCHEMA}" in caplog.text
    with transaction(open_reader(old_url)) as connection:
        assert schema_of(connection) == SCHEMA


def test_values_keep_their_order_of_columns_for_sql(old_url: str) -> None:
    query = "SELECT study, trial, epoch, split, metric, value FROM attnsearch_epochs WHERE value IS NOT NULL"
    asked = (query, "SELECT study, trial, digest, metric, value, split, version, settings, n_images, n_undefined "
             "FROM attnsearch_scores")  # fmt: skip

    def look() -> list[list[Any]]:
        with transaction(open_reader(old_url)) as connection:
            tables = [pd.read_sql(words, connection) for words in asked]
        return [sorted(map(tuple, table.to_numpy().tolist()), key=repr) for table in tables]

    before = look()
    create_database(old_url)
    assert repr(look()) == repr(before)


def test_search_writes_after_a_migration(old_url: str, layout: StudyLayout) -> None:
    with opened_trial_store(old_url, "gull", layout) as store:
        attempt = store.leases.claim(1, "here:2:a", duration_s=60)
        assert attempt == 3
        store.write_epochs(1, [epoch_record(1, "val", accuracy=0.75)], attempt=attempt)
        store.write_scores(1, score_table("b", deletions=(0.25, 0.75)), attempt=None)
        assert store.read_epochs([1])["val/accuracy"].tolist() == [0.75]
        scores = store.read_scores().set_index(["digest", "metric"])["value"]
        assert scores["b", "deletion"] == 0.5
        assert scores["a", "deletion"] == 0.1 + 0.2


def test_reader_writes_nothing_into_an_old_database(old_file: Path, file_url: str) -> None:
    before = old_file.read_bytes()
    assert inspect_database(file_url, must_exist=True) == "ours"
    everything(file_url)
    assert old_file.read_bytes() == before
    assert not old_file.with_name("hypSearch.db.schema1").exists()


def test_worker_is_told_to_start_the_search_again(old_url: str) -> None:
    with pytest.raises(StoreError, match=r"tables of version 1.*start its search again"):
        inspect_database(old_url, must_exist=True, is_current=True)


def test_database_of_before_there_were_scores_is_migrated(url: str, layout: StudyLayout) -> None:
    layout.study_dir.mkdir(parents=True)
    make_old(url, without="scores")
    create_database(url)
    records = open_trial_records(url, "gull")
    assert len(records.read_epochs()) == 6
    assert records.read_scores().empty


def test_file_as_it_was_is_kept(old_file: Path, file_url: str) -> None:
    before, size = everything(file_url), old_file.stat().st_size
    create_database(file_url)
    copy = old_file.with_name("hypSearch.db.schema1")
    assert same(before, everything(f"sqlite:///{copy}"))
    assert old_file.stat().st_size < size + 20 * 4096
    with closing(sqlite3.connect(old_file)) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_file_that_another_connection_has_open_is_refused(
    old_file: Path, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration, "WAIT_S", 0.05)
    with closing(sqlite3.connect(old_file)) as other:
        other.execute("PRAGMA journal_mode = WAL").fetchone()
        other.execute("SELECT * FROM attnsearch_meta").fetchone()
        with pytest.raises(StoreError, match=r"hypSearch\.db has tables of an earlier version.*has it open"):
            create_database(file_url)
        other.execute("UPDATE attnsearch_leases SET epoch = 7")
        other.commit()
    create_database(file_url)
    assert everything(file_url)["gull"][4][0].epoch == 7


def test_server_whose_workers_still_run_is_refused(postgres_url: str) -> None:
    make_old(postgres_url)
    engine = open_writer(postgres_url)
    store = SqlTrialStore(Connections(postgres_url, engine), "gull", StudyLayout(Path(), "CUB", "br_npa"))
    attempt = store.leases.claim(0, "there:9:b", duration_s=60)
    with pytest.raises(StoreError, match=r"worker 'there:9:b' still uses them.*or wait (60|59) s"):
        create_database(postgres_url)
    store.leases.release(0, attempt, stalled=False)
    create_database(postgres_url)
    assert store.read_epochs()["trial"].nunique() == 2
    engine.dispose()


def is_killed(url: str, harm: Callable[[Callable[[bool], None]], None], n_steps: int) -> bool:
    """Migrates in a process that is killed at a step that counts; whether it came so far.

    Args:
        harm: has a function called at each step, which is told whether that one counts.
        n_steps: that count and are made before.
    """
    child = os.fork()
    if child == 0:
        left = n_steps

        def step(counts: bool) -> None:
            nonlocal left
            left -= counts
            if left < 0:
                os._exit(9)

        harm(step)
        try:
            create_database(url)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def at_statements(step: Callable[[bool], None]) -> None:
    """Steps are the statements that change the file."""

    def before(_connection: object, _cursor: object, statement: str, *_arguments: object) -> None:
        step(statement.split()[0] not in ("PRAGMA", "SELECT") or "_mode" in statement)

    event.listen(Engine, "before_cursor_execute", before)


def inside_statements(step: Callable[[bool], None]) -> None:
    """Steps are a hundred of SQLite's own, whose changes reach the file as they are made."""

    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA cache_size = 1")
        connection.set_progress_handler(lambda: step(True), 100)

    event.listen(Engine, "connect", prepare)


@pytest.mark.slow
@pytest.mark.parametrize(("harm", "every"), [(at_statements, 1), (inside_statements, 40)])
def test_migration_that_is_killed_anywhere_is_made_by_the_next_start(
    file_url: str, layout: StudyLayout, harm: Any, every: int
) -> None:
    layout.study_dir.mkdir(parents=True)
    make_old(file_url)
    before, template = everything(file_url), layout.database.read_bytes()
    for n_deaths in range(200):
        for left_over in layout.database.parent.glob("*hypSearch.db*"):
            left_over.unlink()
        layout.database.write_bytes(template)
        was_killed = is_killed(file_url, harm, n_deaths * every)
        assert inspect_database(file_url, must_exist=True) == "ours", n_deaths
        assert same(before, everything(file_url)), n_deaths
        create_database(file_url)
        assert same(before, everything(file_url)), n_deaths
        if not was_killed:
            break
    assert 5 < n_deaths < 199


def test_file_that_is_locked_is_not_called_damaged(
    file_url: str, old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnsearch.store.inspection.CONNECT_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(old_file, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = WAL").fetchone()
        other.execute("UPDATE attnsearch_leases SET epoch = 7")
        with pytest.raises(StoreError, match=r"hypSearch\.db is locked by another process.*try again once that has"):
            inspect_database(file_url)
