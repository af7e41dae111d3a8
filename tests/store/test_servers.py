"""Servers that are away for a while, and connections that break: what is waited for, repeated, or said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection, Engine, event, text

from attnsearch.errors import ConnectionLost, ServerUnavailable, StoreError
from attnsearch.store.database import create_database, open_writer, transaction
from attnsearch.store.leases import SqlLeases
from attnsearch.store.servers import Connector, repeated, wait_for_server
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


def test_restart_between_two_transactions_goes_unnoticed(postgres_url: str, postgres_server: PostgresServer) -> None:
    engine = open_writer(postgres_url)
    for _ in range(2):
        with transaction(engine) as connection:
            assert connection.execute(text("SELECT 42")).scalar() == 42
        postgres_server.restart()
    wait_for_server(postgres_url, patience_s=30)
    engine.dispose()
