"""Databases and files that are damaged, foreign or of another version are refused with the place and the fix."""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest
from sqlalchemy import Engine

from attnsearch.errors import DataError, StoreError
from attnsearch.store.creation import create_database
from attnsearch.store.database import open_writer, writer_arguments
from attnsearch.store.inspection import (
    MAX_REASON,
    Content,
    content_errors,
    inspect_database,
    open_array,
    optuna_revisions,
    read_json,
    reason_of,
)
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import sqlite_url


def run_sql(url: str, statement: str) -> None:
    engine = open_writer(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add_optuna(url: str) -> None:
    writer_url, options = writer_arguments(url)
    optuna.storages.RDBStorage(writer_url, engine_kwargs=options).engine.dispose()


@pytest.fixture
def whole_url(engine: Engine, url: str) -> str:
    """A database of ours after Optuna has opened it."""
    add_optuna(url)
    engine.dispose()
    return url


@pytest.fixture
def whole_file(file_engine: Engine, file_url: str, layout: StudyLayout) -> Path:
    """A file of ours after Optuna has opened it."""
    add_optuna(file_url)
    file_engine.dispose()
    return layout.database


def test_missing_database_is_absent_and_stays_so(layout: StudyLayout, url: str) -> None:
    assert inspect_database(url) == "absent"
    assert inspect_database(url) == "absent"
    assert not layout.root.exists()


def test_database_with_our_tables_is_ours(whole_url: str) -> None:
    assert inspect_database(whole_url, must_exist=True) == "ours"


def test_looking_leaves_files_untouched(whole_file: Path, file_url: str) -> None:
    before = everything(whole_file.parent)
    inspect_database(file_url, must_exist=True)

    assert everything(whole_file.parent) == before


def test_creator_killed_before_optuna_leaves_an_unfinished_database(engine: Engine, url: str) -> None:
    assert inspect_database(url) == "unfinished"
    with pytest.raises(StoreError, match="holds no study yet"):
        inspect_database(url, must_exist=True)


def test_database_is_inspected_while_a_writer_holds_the_lock(whole_url: str) -> None:
    writer = open_writer(whole_url)
    with writer.begin() as connection:
        connection.exec_driver_sql("UPDATE attnsearch_meta SET value = '99'")
        assert inspect_database(whole_url) == "ours"
        connection.rollback()
    writer.dispose()


def test_empty_file_is_absent_for_writers_and_an_error_for_readers(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    url = sqlite_url(tmp_path / "a.db")

    assert inspect_database(url) == "absent"
    with pytest.raises(StoreError, match=r"a\.db is empty"):
        inspect_database(url, must_exist=True)
    assert (tmp_path / "a.db").read_bytes() == b""


def test_reader_of_a_misspelled_path_is_shown_the_near_one(tmp_path: Path) -> None:
    near = tmp_path / "results" / "CUB" / "hypSearch.db"
    create_database(sqlite_url(near))
    misspelled = tmp_path / "results" / "CUBB" / "hypSearch.db"

    with pytest.raises(StoreError, match="did you mean") as caught:
        inspect_database(sqlite_url(misspelled), must_exist=True)
    assert str(misspelled) in str(caught.value)
    assert str(near) in str(caught.value)
    assert not misspelled.parent.exists()


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path} is a folder"):
        inspect_database(sqlite_url(tmp_path))


def test_other_kind_of_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("my notes, no database")

    with pytest.raises(StoreError, match=r"notes\.txt is not an SQLite database, choose another"):
        inspect_database(sqlite_url(path))
    assert path.read_text() == "my notes, no database"


def test_database_of_another_program_is_refused(layout: StudyLayout, url: str) -> None:
    layout.experiment_dir.mkdir(parents=True)
    run_sql(url, "CREATE TABLE pictures (id INTEGER)")

    with pytest.raises(StoreError, match=r"(hypSearch\.db|/scratch) is another program's database.*pictures"):
        inspect_database(url)


def test_plain_optuna_database_is_refused(layout: StudyLayout, url: str) -> None:
    layout.experiment_dir.mkdir(parents=True)
    add_optuna(url)

    with pytest.raises(StoreError, match=r"(hypSearch\.db|/scratch) is an Optuna database of another program"):
        inspect_database(url)


def test_truncated_database_is_refused(whole_file: Path, file_url: str) -> None:
    content = whole_file.read_bytes()
    whole_file.write_bytes(content[: len(content) // 2])

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be used as a database .*malformed"):
        inspect_database(file_url)


def test_overwritten_page_is_found(whole_file: Path, file_url: str) -> None:
    content = bytearray(whole_file.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    whole_file.write_bytes(content)

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be used as a database"):
        inspect_database(file_url)


def test_schema_of_a_newer_optuna_is_refused(whole_url: str) -> None:
    run_sql(whole_url, "UPDATE alembic_version SET version_num = 'v9.1.0.a'")

    with pytest.raises(StoreError, match=r"'v9\.1\.0\.a', newer than the installed one .*pip install -U optuna"):
        inspect_database(whole_url)


def test_schema_of_an_older_optuna_is_refused_with_its_upgrade(whole_url: str) -> None:
    run_sql(whole_url, "UPDATE alembic_version SET version_num = 'v2.6.0.a'")

    with pytest.raises(StoreError, match=r"older Optuna schema 'v2\.6\.0\.a'.*optuna storage upgrade"):
        inspect_database(whole_url)


def test_tables_of_a_newer_version_are_refused(engine: Engine, url: str) -> None:
    engine.dispose()
    run_sql(url, "UPDATE attnsearch_meta SET value = '99'")

    with pytest.raises(StoreError, match="tables of version 99"):
        inspect_database(url)


def test_revisions_are_those_of_the_installed_optuna(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(sqlite_url(tmp_path / "a.db"))
    known, head = optuna_revisions()
    storage.engine.dispose()

    assert head == storage.get_head_version()
    assert known == set(storage.get_all_versions())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_read_right_is_named(whole_file: Path, file_url: str) -> None:
    whole_file.chmod(0)

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be read"):
        inspect_database(file_url)


def test_unreachable_server_is_named_without_its_password() -> None:
    url = "postgresql+psycopg://ann:s3cret@127.0.0.1:1/db"

    with pytest.raises(StoreError, match=r"postgresql\+psycopg://\*\*\*:\*\*\*@127\.0\.0\.1:1/db") as caught:
        inspect_database(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
def test_looking_keeps_the_locks_of_connections_that_this_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "hypSearch.db"
    create_database(sqlite_url(path))
    with closing(sqlite3.connect(path)) as held:
        count = "select count(*) from attnsearch_meta"
        assert held.execute(count).fetchone() == (1,)
        inspect_database(sqlite_url(path))
        # Another process writes and leaves. Had this one lost its locks, the other would take itself for the last
        # user and delete the write-ahead log, and `held` would still read the deleted one.
        script = (
            f'import sqlite3; d = sqlite3.connect({str(path)!r}); d.execute("insert into attnsearch_meta values '
            "('k', 'v')\"); d.commit(); d.close()"
        )
        subprocess.run([sys.executable, "-c", script], check=True)
        subprocess.run([sys.executable, "-c", script.replace("'k'", "'l'")], check=True)
        assert held.execute(count).fetchone() == (3,)
        assert path.with_name("hypSearch.db-wal").exists()


@pytest.mark.parametrize("value", ["x", "", "-1", "9" * 5000])
def test_version_that_is_no_number_is_refused(engine: Engine, url: str, value: str) -> None:
    engine.dispose()
    run_sql(url, f"UPDATE attnsearch_meta SET value = '{value[:200]}'")
    with pytest.raises(StoreError, match=r"is damaged \(the version of its tables is .*restore it from"):
        inspect_database(url)


def test_version_that_is_missing_is_refused(engine: Engine, url: str) -> None:
    engine.dispose()
    run_sql(url, "DELETE FROM attnsearch_meta")
    with pytest.raises(StoreError, match=r"is damaged \(the version of its tables is ''\), restore it from"):
        inspect_database(url)


class Named(Content):
    name: str


ERRORS = (KeyError("a"), RecursionError("deep"), AssertionError(), UnicodeError("b"), OverflowError())


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_parser_raises_names_file_and_fix(tmp_path: Path, error: Exception) -> None:
    said = rf"a\.csv cannot be read \({type(error).__name__}: .*\), make it again$"
    with pytest.raises(StoreError, match=said), content_errors(tmp_path / "a.csv", "make it again"):
        raise error


def test_own_errors_pass_and_those_of_the_disk_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(DataError, match=r"^mine$"), content_errors(path, "make it again"):
        raise DataError("mine")
    with pytest.raises(StoreError, match=r"a: No such file or directory; check"), content_errors(path, "make it again"):
        path.read_text()


def test_reason_is_one_short_printable_line_of_the_first_cause() -> None:
    error = ValueError("above")
    error.__cause__ = ValueError("a\x1b[31m" + "9" * 5000 + "\nmore")
    assert reason_of(error) == "a?[31m" + "9" * (MAX_REASON - 6) + "…"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF while parsing"),
        (b"[" * 50_000, "recursion limit exceeded"),
        (b'{"format": 1, "name": 3}', "name: Input should be a valid string"),
        (b'{"format": 1}', "name: Field required"),
        (b'{"format": 1, "name": "\\ud800"}', "hex escape"),
        (b'{"format": 1, "name": "\xff"}', "Invalid JSON"),
        (b'{"name": "a"}', "format: Field required"),
    ],
)
def test_damaged_json_is_named_with_its_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"a\.json cannot be read \(.*{reason}.*\), make it again$"):
        read_json(tmp_path / "a.json", Named, version=1, fix="make it again")


def test_json_of_another_format_is_named_before_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"a\.json has the format 2, this version reads 1, update"):
        read_json(tmp_path / "a.json", Named, version=1, fix="make it again")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9999999)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_or",
        "[" * 9000,
        "'" + "a" * 60_000,
    ],
)
def test_damaged_header_of_an_array_is_named(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8))
    with pytest.raises(StoreError, match=r"a\.npy is not a whole \.npy file \(.*\), make it again$"):
        open_array(path, "make it again")


def test_whole_array_is_mapped_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3.0))
    found = open_array(tmp_path / "a.npy", "make it again")
    assert found.tolist() == [0, 1, 2]
    assert not found.flags.writeable
