from __future__ import annotations

import logging
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import optuna
import pytest
from sqlalchemy import Connection, Engine, create_engine, func, insert, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from attnsearch.errors import StoreError
from attnsearch.store import creation, database
from attnsearch.store.creation import create_database, create_tables
from attnsearch.store.database import (
    checkpoint_wal,
    open_reader,
    open_writer,
    reader_arguments,
    transaction,
    tune_writer,
    writer_arguments,
)
from attnsearch.store.inspection import database_content_errors, inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.tables import artifacts_table, meta_table, upsert, values_table
from attnsearch.store.urls import sqlite_url

ROW = {"key": "k", "value": "v"}
RunProcesses = Callable[..., list[str]]


def pragma(engine: Engine, name: str) -> object:
    with engine.connect() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def n_meta(engine: Engine) -> int:
    with transaction(engine) as connection:
        return connection.execute(select(func.count()).select_from(meta_table)).scalar_one()


def test_writer_is_tuned_as_measured(file_engine: Engine) -> None:
    assert pragma(file_engine, "journal_mode") == "wal"
    assert pragma(file_engine, "synchronous") == 1  # NORMAL
    assert pragma(file_engine, "busy_timeout") == 60_000


def test_tables_are_created_once(engine: Engine) -> None:
    create_tables(engine)

    assert n_meta(engine) == 1


def test_writer_holds_the_lock_from_its_first_read_on(file_engine: Engine, layout: StudyLayout) -> None:
    with file_engine.begin() as connection:
        connection.execute(select(meta_table))
        with (
            closing(sqlite3.connect(layout.database, timeout=0)) as other,
            pytest.raises(sqlite3.OperationalError, match="locked"),
        ):
            other.execute("INSERT INTO attnsearch_meta VALUES ('k', 'v')")


def test_optuna_engine_is_tuned_although_it_has_open_connections(file_engine: Engine, file_url: str) -> None:
    storage = optuna.storages.RDBStorage(file_url)
    tune_writer(storage.engine)

    assert pragma(storage.engine, "busy_timeout") == 60_000
    assert optuna.create_study(storage=storage).trials == []
    storage.engine.dispose()


def test_failed_block_writes_nothing(engine: Engine) -> None:
    def write_half() -> None:
        with transaction(engine) as connection:
            connection.execute(insert(meta_table), ROW)
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert n_meta(engine) == 1


def test_reader_sees_the_last_commit_while_a_writer_is_busy(engine: Engine, url: str) -> None:
    reader = open_reader(url)
    with engine.begin() as connection:
        connection.execute(insert(meta_table), ROW)
        assert n_meta(reader) == 1

    assert n_meta(reader) == 2


def test_open_reader_never_blocks_a_writer(engine: Engine, url: str) -> None:
    reader = open_reader(url)
    with reader.connect() as looking:
        looking.execute(select(meta_table)).first()
        with transaction(engine) as connection:
            connection.execute(insert(meta_table), ROW)

    assert n_meta(reader) == 2


def test_reader_cannot_write(engine: Engine, url: str) -> None:
    refused = (
        r"hypSearch\.db: attempt to write a readonly database; .*right to write"
        r"|INSERT in a read-only transaction; name a server that may be written"
    )
    with pytest.raises(StoreError, match=refused):
        create_tables(open_reader(url))
    with pytest.raises(StoreError, match=refused), transaction(open_reader(url)) as connection:
        connection.execute(insert(meta_table), ROW)
    assert n_meta(engine) == 1


def test_reader_of_a_missing_database_creates_none(layout: StudyLayout, file_url: str) -> None:
    with pytest.raises(StoreError, match=r"hypSearch\.db: unable to open"):
        n_meta(open_reader(file_url))
    assert not layout.root.exists()


def test_reader_works_in_a_read_only_folder(
    file_engine: Engine, file_url: str, layout: StudyLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_engine.dispose()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)

    assert n_meta(open_reader(file_url)) == 1
    assert [path.name for path in layout.experiment_dir.iterdir()] == ["hypSearch.db"]


def test_reader_in_a_read_only_folder_follows_a_writer_that_starts_later(
    file_engine: Engine, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_engine.dispose()
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    reader = open_reader(file_url)
    assert n_meta(reader) == 1
    with transaction(file_engine) as connection:
        connection.execute(insert(meta_table), ROW)

    assert n_meta(reader) == 2


def test_optuna_reads_through_a_reader(engine: Engine, url: str) -> None:
    writer_url, settings = writer_arguments(url)
    writing = optuna.storages.RDBStorage(writer_url, engine_kwargs=settings)
    optuna.create_study(storage=writing, study_name="gull")
    reader_url, options = reader_arguments(url)
    reading = optuna.storages.RDBStorage(reader_url, engine_kwargs=options, skip_table_creation=True)

    assert optuna.get_all_study_names(reading) == ["gull"]
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.create_study(storage=reading, study_name="tern")
    writing.engine.dispose()


def test_locked_database_is_named_with_its_mend(
    file_engine: Engine, file_url: str, monkeypatch: pytest.MonkeyPatch, layout: StudyLayout
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
    impatient = open_writer(file_url)
    with (
        file_engine.begin(),
        pytest.raises(StoreError, match="database is locked; another process has held it for 0 s") as caught,
        transaction(impatient),
    ):
        pass
    assert str(layout.database) in str(caught.value)


def test_writer_waits_for_one_that_was_paused_inside_a_transaction(
    file_engine: Engine, file_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
    patient, paused = open_writer(file_url), file_engine.connect()
    paused.begin()

    class Waker(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            paused.close()

    database.logger.addHandler(waker := Waker())
    try:
        assert n_meta(patient) == 1
    finally:
        database.logger.removeHandler(waker)
    assert "is locked: another process has held it for 0 s, wake or stop that one" in caplog.text


def test_optuna_names_a_locked_database_with_its_mend(
    file_engine: Engine, file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = optuna.storages.RDBStorage(file_url)
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
    tune_writer(storage.engine)
    with (
        file_engine.begin(),
        pytest.raises(StoreError, match="database is locked; another process has held it"),
    ):
        optuna.create_study(storage=storage, study_name="gull")
    storage.engine.dispose()


def test_full_disk_is_named_with_its_mend(file_engine: Engine) -> None:
    with file_engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # raised by SQLite to the present size

    with (
        pytest.raises(StoreError, match=r"database or disk is full; .* free some with `attnsearch prune-files`"),
        transaction(file_engine) as connection,
    ):
        connection.exec_driver_sql("CREATE TABLE big AS SELECT zeroblob(1000000)")


def test_disk_without_write_ahead_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a database without a name lives in memory or in a temporary file and keeps its own journal mode
    monkeypatch.setattr(creation, "shown", lambda _url: "share/hypSearch.db")

    with pytest.raises(StoreError, match=r"share/hypSearch\.db: .* cannot hold a write-ahead log .*'memory'"):
        create_tables(tune_writer(create_engine("sqlite://")))


def test_clean_stop_empties_the_log(file_engine: Engine, file_url: str, layout: StudyLayout) -> None:
    with transaction(file_engine) as connection:
        connection.execute(insert(meta_table), ROW)
    log = layout.database.with_name("hypSearch.db-wal")
    assert log.stat().st_size > 0

    assert checkpoint_wal(file_url)
    assert log.stat().st_size == 0


def test_nothing_to_checkpoint_without_a_database(layout: StudyLayout, file_url: str) -> None:
    assert checkpoint_wal(file_url)
    assert not layout.root.exists()


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "CUB").touch()

    with pytest.raises(StoreError, match="CUB"):
        create_database(sqlite_url(tmp_path / "CUB" / "hypSearch.db"))


def test_database_on_a_network_disk_is_warned_about(
    file_url: str, layout: StudyLayout, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(creation, "network_file_system", lambda _path: "nfs4")
    create_database(file_url)

    assert f"{layout.database} lies on a network file system (nfs4)" in caplog.text


def test_tables_and_upserts_are_plain_postgresql() -> None:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    connection = cast("Connection", SimpleNamespace(dialect=dialect))
    put = upsert(connection, artifacts_table)

    assert "value_15 DOUBLE PRECISION" in str(CreateTable(values_table).compile(dialect=dialect))
    assert "bytes BIGINT" in str(CreateTable(artifacts_table).compile(dialect=dialect))
    assert "ON CONFLICT (study, trial, kind) DO UPDATE SET path = excluded.path" in str(put.compile(dialect=dialect))


@pytest.mark.slow
def test_no_trial_is_handed_to_two_processes(engine: Engine, url: str, run_processes: RunProcesses) -> None:
    writer_url, options = writer_arguments(url)
    storage = optuna.storages.RDBStorage(writer_url, engine_kwargs=options)
    study = optuna.create_study(storage=storage, study_name="gull")
    for _ in range(20):
        study.enqueue_trial({})
    answers = run_processes([("ask", url, 5)] * 4)
    storage.engine.dispose()

    assert sorted(int(number) for answer in answers for number in answer.split()) == list(range(20))


@pytest.mark.slow
def test_reading_works_while_another_process_holds_a_write(engine: Engine, url: str) -> None:
    script = str(Path(__file__).with_name("processes.py"))
    with subprocess.Popen(
        [sys.executable, script, "hold", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "held\n"
        during = n_meta(open_reader(url)), inspect_database(url)
        writer.communicate()

    assert during == (1, "unfinished")
    assert n_meta(open_reader(url)) == 2


def test_damaged_rows_name_the_database_and_hide_its_password() -> None:
    url, said = "postgresql://ann:s3cret@host/db", r"^database postgresql://.*@host/db cannot be read \(KeyError: 3\); "
    with pytest.raises(StoreError, match=said) as caught, database_content_errors(url):
        raise KeyError(3)
    assert "s3cret" not in str(caught.value)
