"""Servers that are away for a while, and connections that break: what is waited for, repeated, or said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, event, select, text
from sqlalchemy.dialects import postgresql

from attnsearch.errors import ConnectionLost, ServerUnavailable, StoreError
from attnsearch.store.creation import create_database
from attnsearch.store.database import Connections, open_reader, open_writer, transaction, writer_arguments
from attnsearch.store.file_records import FileRecord
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import SqlLeases
from attnsearch.store.servers import Connector, repeated
from attnsearch.store.tables import meta_table
from attnsearch.store.trial_store import SqlTrialStore
from attnsearch.store.urls import parse_url
from tests.postgres import PostgresServer

URL = "postgresql://user:secret@db.example:5432/studies"
AWAY = "connection failed: connection to server at 10.0.0.1 failed: Connection refused"


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def connector(monkeypatch: pytest.MonkeyPatch, answers: Callable[[float], str | None], patience_s: float) -> Connector:
    """A connector whose server answers, at a time, with a connection (None) or an error."""
    time = Time()

    def connect(*_arguments: Any, **_options: Any) -> str:
        error = answers(time.now)
        if error is not None:
            raise psycopg.OperationalError(error)
        return f"connected at {time.now:.1f}"

    monkeypatch.setattr(psycopg, "connect", connect)
    return Connector(URL, patience_s=patience_s, clock=time, sleep=time.sleep)


def test_server_that_comes_back_is_waited_for_and_announced_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connect = connector(monkeypatch, lambda now: AWAY if now < 100 else None, 300)
    with caplog.at_level(logging.INFO):
        assert float(connect().removeprefix("connected at ")) >= 100
    lost, back = [record.getMessage() for record in caplog.records]
    assert "does not answer" in lost
    assert "waiting for up to 300 s" in lost
    assert "answers again" in back
    assert "secret" not in caplog.text
    assert not connect.is_away
    assert connect.was_away_within(60)


@pytest.mark.parametrize("patience_s", [0.0, 30.0])
def test_outage_beyond_the_patience_is_an_error(monkeypatch: pytest.MonkeyPatch, patience_s: float) -> None:
    connect = connector(monkeypatch, lambda now: AWAY, patience_s)
    with pytest.raises(ServerUnavailable, match=r"does not answer.*Connection refused") as raised:
        connect()
    assert "secret" not in str(raised.value)
    assert connect.is_away


def test_outage_counts_from_its_first_failure_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = connector(monkeypatch, lambda now: AWAY, 30.0)
    with pytest.raises(ServerUnavailable):
        connect()
    with pytest.raises(ServerUnavailable, match=r"for 3\d s"):  # at once, not after another 30 s
        connect()


@pytest.mark.parametrize(
    "refusal",
    [
        'FATAL:  password authentication failed for user "user"',
        'FATAL:  database "studies" does not exist',
        "failed to resolve host 'db.example': [Errno -2] Name or service not known",
    ],
)
def test_refusal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, refusal: str) -> None:
    connect = connector(monkeypatch, lambda now: refusal, 300)
    with pytest.raises(StoreError, match="check server, name and password"):
        connect()


def test_work_is_repeated_until_its_connection_holds() -> None:
    losses = [ConnectionLost("broken"), ConnectionLost("broken again")]

    @repeated
    def work(value: int) -> int:
        if losses:
            raise losses.pop()
        return value + 1

    assert work(41) == 42


def test_work_whose_connection_never_holds_ends() -> None:
    @repeated
    def work() -> None:
        raise ConnectionLost("broken")

    with pytest.raises(ConnectionLost):
        work()


def lose_connection(engine: Engine, server: PostgresServer, *, before: str) -> None:
    """Makes the server end the connection of the first statement that begins so, just before it."""
    lost: list[int] = []

    @event.listens_for(engine, "before_cursor_execute")
    def _lose(connection: Connection, _cursor: Any, statement: str, *_others: Any) -> None:
        if statement.startswith(before) and not lost:
            lost.append(connection.connection.dbapi_connection.info.backend_pid)  # type: ignore[union-attr]
            server.end_connection(lost[0])


def test_lease_whose_connection_the_server_ends_is_renewed(postgres_url: str, postgres_server: PostgresServer) -> None:
    create_database(postgres_url)
    engine = open_writer(postgres_url)
    leases = SqlLeases(engine, "study")
    attempt = leases.claim(7, "w", duration_s=300)
    lose_connection(engine, postgres_server, before="UPDATE")
    leases.renew(7, attempt, epoch=3, duration_s=300)
    assert leases.n_epochs() == 3
    engine.dispose()


def test_broken_transaction_says_so(postgres_url: str, postgres_server: PostgresServer) -> None:
    engine = open_writer(postgres_url)
    lose_connection(engine, postgres_server, before="SELECT 41")
    with pytest.raises(ConnectionLost, match="connection"), transaction(engine) as connection:
        connection.execute(text("SELECT 41"))
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT 42")).scalar() == 42
    engine.dispose()


@pytest.mark.parametrize("code", ["57P01", "57P02", "08006"])
def test_last_words_of_a_server_that_shuts_down_are_a_lost_connection(postgres_url: str, code: str) -> None:
    engine = open_writer(postgres_url)
    said = text(f"DO $$ BEGIN RAISE EXCEPTION 'terminating connection' USING ERRCODE = '{code}'; END $$")
    before = backend_pid(engine)
    with pytest.raises(ConnectionLost, match="terminating connection"), transaction(engine) as connection:
        connection.execute(said)
    assert backend_pid(engine) != before  # such a connection is not used again
    engine.dispose()


def backend_pid(engine: Engine) -> int:
    with transaction(engine) as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.slow
def test_restart_between_two_transactions_goes_unnoticed(postgres_url: str, postgres_server: PostgresServer) -> None:
    engine = open_writer(postgres_url)
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT 42")).scalar() == 42
    postgres_server.restart()
    with transaction(engine) as connection:
        assert connection.execute(text("SELECT 42")).scalar() == 42
    engine.dispose()


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
        connection.execute(select(meta_table))


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
        connection.execute(select(meta_table))
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
