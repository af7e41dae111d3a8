from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Engine

from attnsearch.errors import StoreError
from attnsearch.store.database import create_database
from attnsearch.store.inspection import inspect_database, optuna_revisions
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import sqlite_url


def run_sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def with_optuna(engine: Engine, url: str) -> Path:
    """A database of ours after Optuna has opened it; returns its folder."""
    storage = optuna.storages.RDBStorage(url)
    storage.engine.dispose()
    engine.dispose()
    return Path(storage.engine.url.database or "").parent


def test_missing_database_is_absent_and_stays_so(layout: StudyLayout, url: str) -> None:
    assert inspect_database(url) == "absent"
    assert not layout.root.exists()


def test_database_with_our_tables_is_ours_and_stays_untouched(with_optuna: Path, url: str) -> None:
    before = everything(with_optuna)

    assert inspect_database(url, must_exist=True) == "ours"
    assert everything(with_optuna) == before


def test_creator_killed_before_optuna_leaves_a_database_of_ours(engine: Engine, url: str) -> None:
    assert inspect_database(url) == "ours"


def test_database_is_inspected_while_a_writer_holds_the_lock(engine: Engine, url: str) -> None:
    with engine.begin():
        assert inspect_database(url) == "ours"


def test_empty_file_is_absent_for_writers_and_an_error_for_readers(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    url = sqlite_url(tmp_path / "a.db")

    assert inspect_database(url) == "absent"
    with pytest.raises(StoreError, match=r"a\.db is empty"):
        inspect_database(url, must_exist=True)
    assert (tmp_path / "a.db").read_bytes() == b""


def test_reader_of_a_misspelled_path_is_shown_the_near_one(tmp_path: Path) -> None:
    near = tmp_path / "results" / "CUB" / "hypSearch.db"
    create_database(sqlite_url(near)).dispose()
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


def test_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    run_sql(path, "CREATE TABLE pictures (id)")

    with pytest.raises(StoreError, match=r"photos\.db is another program's database.*pictures"):
        inspect_database(sqlite_url(path))


def test_plain_optuna_database_is_refused(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path / "plain.db")
    optuna.storages.RDBStorage(url).engine.dispose()

    with pytest.raises(StoreError, match=r"plain\.db is an Optuna database of another program"):
        inspect_database(url)


def test_truncated_database_is_refused(with_optuna: Path, url: str) -> None:
    path = with_optuna / "hypSearch.db"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be used as a database .*malformed"):
        inspect_database(url)


def test_overwritten_page_is_found(with_optuna: Path, url: str) -> None:
    path = with_optuna / "hypSearch.db"
    content = bytearray(path.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    path.write_bytes(content)

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be used as a database"):
        inspect_database(url)


def test_schema_of_a_newer_optuna_is_refused(with_optuna: Path, url: str) -> None:
    run_sql(with_optuna / "hypSearch.db", "UPDATE alembic_version SET version_num = 'v9.1.0.a'")

    with pytest.raises(StoreError, match=r"'v9\.1\.0\.a', newer than the installed one .*pip install -U optuna"):
        inspect_database(url)


def test_schema_of_an_older_optuna_is_refused_with_its_upgrade(with_optuna: Path, url: str) -> None:
    run_sql(with_optuna / "hypSearch.db", "UPDATE alembic_version SET version_num = 'v2.6.0.a'")

    with pytest.raises(StoreError, match=r"older Optuna schema 'v2\.6\.0\.a'.*optuna storage upgrade"):
        inspect_database(url)


def test_tables_of_a_newer_version_are_refused(engine: Engine, layout: StudyLayout, url: str) -> None:
    engine.dispose()
    run_sql(layout.database, "UPDATE attnsearch_meta SET value = '99'")

    with pytest.raises(StoreError, match="tables of version 99"):
        inspect_database(url)


def test_revisions_are_those_of_the_installed_optuna(tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(sqlite_url(tmp_path / "a.db"))
    known, head = optuna_revisions()
    storage.engine.dispose()

    assert head == storage.get_head_version()
    assert known == set(storage.get_all_versions())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_read_right_is_named(engine: Engine, layout: StudyLayout, url: str) -> None:
    engine.dispose()
    layout.database.chmod(0)

    with pytest.raises(StoreError, match=r"hypSearch\.db cannot be read"):
        inspect_database(url)


def test_unreachable_server_is_named_without_its_password() -> None:
    url = "postgresql+psycopg://ann:s3cret@127.0.0.1:1/db"

    with pytest.raises(StoreError, match=r"postgresql\+psycopg://ann:\*\*\*@127\.0\.0\.1:1/db") as caught:
        inspect_database(url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.slow
def test_looking_keeps_the_locks_of_connections_that_this_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "hypSearch.db"
    create_database(sqlite_url(path)).dispose()
    with closing(sqlite3.connect(path)) as held:
        count = "select count(*) from attnsearch_meta"
        assert held.execute(count).fetchone() == (1,)
        inspect_database(sqlite_url(path))
        # Another process writes and leaves. Had this one lost its locks, the other would take itself for the last
        # user and delete the write-ahead log, and `held` would go on reading the deleted one.
        script = (
            f'import sqlite3; d = sqlite3.connect({str(path)!r}); d.execute("insert into attnsearch_meta values '
            "('k', 'v')\"); d.commit(); d.close()"
        )
        subprocess.run([sys.executable, "-c", script], check=True)
        subprocess.run([sys.executable, "-c", script.replace("'k'", "'l'")], check=True)
        assert held.execute(count).fetchone() == (3,)
        assert path.with_name("hypSearch.db-wal").exists()


def test_reader_is_told_while_the_tables_are_being_made(tmp_path: Path) -> None:
    path = tmp_path / "hypSearch.db"
    create_database(sqlite_url(path)).dispose()  # ours are there, Optuna's are not yet
    with pytest.raises(StoreError, match=r"hypSearch\.db holds no study yet"):
        inspect_database(sqlite_url(path), must_exist=True)
    assert inspect_database(sqlite_url(path)) == "ours"
