"""What only a server can do to us: missing drivers, rights and databases, odd passwords, lost connections."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from psycopg import sql
from sqlalchemy import select
from sqlalchemy.dialects import postgresql

from attnsearch.errors import StoreError
from attnsearch.store import schema
from attnsearch.store.database import (
    Connections,
    create_database,
    open_reader,
    open_writer,
    transaction,
    writer_arguments,
)
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import FileRecord, SqlTrialStore
from attnsearch.store.urls import parse_url
from tests.postgres import PostgresServer


def of_role(url: str, name: str, password: str) -> str:
    return parse_url(url).set(username=name, password=password).render_as_string(hide_password=False)


def add_optuna(url: str) -> str:
    """Makes Optuna's tables; returns the name of the driver."""
    writer_url, options = writer_arguments(url)
    engine = optuna.storages.RDBStorage(writer_url, engine_kwargs=options).engine
    engine.dispose()
    return engine.dialect.driver


@pytest.fixture
def guest_url(postgres_server: PostgresServer, postgres_url: str) -> str:
    """The test's database as a role sees it that may connect and nothing else; its password needs quoting."""
    name, password = parse_url(postgres_url).database, "p@ss:w/{r}%d"
    postgres_server.execute(sql.SQL("DROP ROLE IF EXISTS guest"))
    postgres_server.execute(sql.SQL("CREATE ROLE guest LOGIN PASSWORD {}").format(sql.Literal(password)))
    assert name is not None
    return of_role(postgres_url, "guest", password)


def test_plain_url_works_for_optuna_and_for_us_without_naming_a_driver(postgres_url: str) -> None:
    create_database(postgres_url)

    assert postgres_url.startswith("postgresql://")
    assert add_optuna(postgres_url) == "psycopg"
    assert inspect_database(postgres_url, must_exist=True) == "ours"


def test_password_may_hold_what_urls_and_templates_reserve(postgres_server: PostgresServer, guest_url: str) -> None:
    rights = sql.SQL("GRANT CREATE ON SCHEMA public TO guest")
    postgres_server.execute(rights, database=str(parse_url(guest_url).database))
    create_database(guest_url)
    add_optuna(guest_url)

    assert inspect_database(guest_url, must_exist=True) == "ours"


def test_role_that_may_not_create_tables_is_told_so(guest_url: str) -> None:
    with pytest.raises(StoreError, match=r"permission denied .*; grant this user the right to create") as caught:
        create_database(guest_url)
    assert "w/{r}" not in str(caught.value)


def test_missing_tables_are_named_with_their_mend(postgres_url: str) -> None:
    with (
        pytest.raises(StoreError, match='"attnsearch_meta" does not exist; start a search to create the tables'),
        transaction(open_reader(postgres_url)) as connection,
    ):
        connection.execute(select(schema.meta))


def test_missing_database_and_wrong_password_are_named(postgres_url: str) -> None:
    absent = parse_url(postgres_url).set(database="nowhere").render_as_string(hide_password=False)
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        inspect_database(absent)
    with pytest.raises(StoreError, match="password authentication failed") as caught:
        inspect_database(of_role(postgres_url, "tester", "wr0ng"))
    assert "wr0ng" not in str(caught.value)


def test_missing_driver_is_one_line_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_args: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(postgresql.psycopg.PGDialect_psycopg, "import_dbapi", absent)
    for step in (inspect_database, open_reader, open_writer):
        with pytest.raises(StoreError, match=r"pip install 'attnsearch\[postgres\]'") as caught:
            step("postgresql://ann:s3cret@127.0.0.1/db")
        assert "No module named 'psycopg'" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)


def test_readers_hold_no_connection_between_two_looks(postgres_server: PostgresServer, postgres_url: str) -> None:
    create_database(postgres_url)
    reader = open_reader(postgres_url)
    with transaction(reader) as connection:
        connection.execute(select(schema.meta))
    count = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE datname = {}")

    assert postgres_server.execute(count.format(sql.Literal(parse_url(postgres_url).database))) == [(0,)]


def test_restarted_server_keeps_what_was_committed(
    postgres_server: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    create_database(postgres_url)
    connections = Connections(postgres_url, open_writer(postgres_url))
    store = SqlTrialStore(connections, "uuid", StudyLayout(tmp_path, "here", "hunt"))
    file = FileRecord("best.safetensors", (), "", "00", 2**62)
    store.write_artifacts(0, {"best": file}, attempt=None)
    postgres_server.restart()

    assert store.read_artifacts() == {0: {"best": file}}
    connections.close()
