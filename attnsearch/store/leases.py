"""Leases and locks: who may write a trial, and who may change the queue of a study or create its tables.

Each attempt at a trial holds a lease, whose number refuses writes of earlier attempts. The locks between processes are
the server's own on PostgreSQL, files on SQLite.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, func, select, update
from sqlalchemy.exc import DBAPIError

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.files import locked
from attnsearch.store.database import database_errors, insert_into, leases_table, open_writer, transaction
from attnsearch.store.layout import creation_lock_of
from attnsearch.store.servers import repeated
from attnsearch.store.urls import sqlite_path

HELD, RELEASED, TAKEN = "held", "released", "taken"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Lease:
    """One row of the leases; `expires_at` is UTC seconds since 1970, `epoch` the last finished one of any attempt."""

    number: int
    attempt: int
    worker: str
    expires_at: float
    epoch: int
    stalled: int
    state: str


class Leases(Protocol):
    """The leases of one study."""

    def claim(self, number: int, worker: str, *, duration_s: float) -> int:
        """Starts the next attempt at a trial that Optuna handed out; a living older attempt loses its lease.

        A worker that holds the trial already keeps its attempt: the answer to an earlier call did not reach it.

        Returns:
            The attempt, from 1.
        Raises:
            StoreError: the database refuses.
        """

    def renew(self, number: int, attempt: int, *, duration_s: float, epoch: int | None = None) -> None:
        """Lengthens the lease to `duration_s` from now; one that ran out but was not taken back can be renewed.

        Args:
            epoch: the last finished epoch, from 1; None = as before.
        Raises:
            LeaseLost: the attempt no longer holds the trial.
            StoreError: the database refuses.
        """

    def check(self, number: int, attempt: int) -> None:
        """Checks that this attempt may still write.

        Raises:
            LeaseLost: the attempt no longer holds the trial.
            StoreError: the database refuses.
        """

    def release(self, number: int, attempt: int, *, stalled: bool) -> int:
        """Ends the attempt by its own worker; a second call counts nothing.

        Args:
            stalled: whether an attempt without a new epoch counts as one; False for an end, a clean stop or Ctrl-C.
        Returns:
            How many attempts in a row finished no new epoch.
        Raises:
            LeaseLost: the attempt no longer holds the trial.
            StoreError: the database refuses.
        """

    def take_back(self, number: int, attempt: int | None = None) -> int:
        """Ends the attempt of a worker that died or went silent; a second call counts nothing.

        Args:
            attempt: the attempt that was seen dead, which saves a newer one from a second supervisor; None = any.
        Returns:
            How many attempts in a row, this one included, finished no new epoch; 0 for a trial never claimed.
        Raises:
            LeaseLost: another attempt holds the trial by now.
            StoreError: the database refuses.
        """

    def of_trial(self, number: int) -> Lease | None:
        """The last lease of the trial in whatever state; None if it was never claimed."""

    def held_by(self, worker: str) -> Lease | None:
        """The lease that a worker holds; one whose claim was cut off may not know of it."""

    def n_epochs(self, *, without: int | None = None) -> int:
        """Epochs that all trials of the study have finished so far, one trial left out if asked."""

    def stalled(self) -> dict[int, int]:
        """Trial -> attempts in a row that finished no new epoch, for trials that have any."""

    def seconds_left(self, number: int) -> float:
        """Seconds until the trial's lease runs out, negative afterwards; 0 if nobody holds it."""


class SqlLeases:
    """`Leases` in a database.

    Args:
        engine: a writer's (`database.open_writer`); a reader's suffices for `of_trial` and `seconds_left`.
        clock: UTC seconds since 1970.
    """

    def __init__(self, engine: Engine, study_uuid: str, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._study = study_uuid
        self._clock = clock

    @repeated
    def claim(self, number: int, worker: str, *, duration_s: float) -> int:
        with transaction(self._engine) as connection:
            row = self._locked(connection, number)
            if row.state == HELD and row.worker == worker:
                return int(row.attempt)
            values = {
                "attempt": row.attempt + 1,
                "worker": worker,
                "expires_at": self._clock() + duration_s,
                "epoch_at_claim": row.epoch,
                "stalled": _stalled_after(row) if row.state == HELD else row.stalled,
                "state": HELD,
            }
            connection.execute(update(leases_table).where(self._is(number)).values(values))
        return int(row.attempt) + 1

    @repeated
    def renew(self, number: int, attempt: int, *, duration_s: float, epoch: int | None = None) -> None:
        with transaction(self._engine) as connection:
            row = _require_held(connection, self._study, number, attempt)
            values = {"expires_at": self._clock() + duration_s, "epoch": max(row.epoch, epoch or 0)}
            connection.execute(update(leases_table).where(self._is(number)).values(values))

    @repeated
    def check(self, number: int, attempt: int) -> None:
        with transaction(self._engine) as connection:
            require_lease(connection, self._study, number, attempt)

    @repeated
    def release(self, number: int, attempt: int, *, stalled: bool) -> int:
        with transaction(self._engine) as connection:
            row = _row(connection, self._study, number)
            if row is not None and (row.attempt, row.state) == (attempt, RELEASED):
                return int(row.stalled)
            row = _require_held(connection, self._study, number, attempt)
            after = _stalled_after(row)
            count = after if stalled or after == 0 else int(row.stalled)
            values = {"state": RELEASED, "stalled": count}
            connection.execute(update(leases_table).where(self._is(number)).values(values))
            return count

    @repeated
    def take_back(self, number: int, attempt: int | None = None) -> int:
        with transaction(self._engine) as connection:
            row = _row(connection, self._study, number)
            if row is None:
                return 0
            if attempt is not None and row.attempt != attempt:
                raise _lost(number, attempt, row)
            if row.state != HELD:
                return int(row.stalled)
            stalled = _stalled_after(row)
            values = {"state": TAKEN, "stalled": stalled}
            connection.execute(update(leases_table).where(self._is(number)).values(values))
            return stalled

    @repeated
    def of_trial(self, number: int) -> Lease | None:
        with transaction(self._engine) as connection:
            row = connection.execute(select(leases_table).where(self._is(number))).one_or_none()
        return None if row is None else _lease(row)

    @repeated
    def held_by(self, worker: str) -> Lease | None:
        held = and_(leases_table.c.study == self._study, leases_table.c.worker == worker, leases_table.c.state == HELD)
        with transaction(self._engine) as connection:
            row = connection.execute(select(leases_table).where(held)).one_or_none()
        return None if row is None else _lease(row)

    @repeated
    def n_epochs(self, *, without: int | None = None) -> int:
        table = leases_table
        query = select(func.coalesce(func.sum(table.c.epoch), 0)).where(table.c.study == self._study)
        if without is not None:
            query = query.where(table.c.trial != without)
        with transaction(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    @repeated
    def stalled(self) -> dict[int, int]:
        table = leases_table
        query = select(table.c.trial, table.c.stalled).where(table.c.study == self._study, table.c.stalled > 0)
        with transaction(self._engine) as connection:
            return {row.trial: row.stalled for row in connection.execute(query)}

    def seconds_left(self, number: int) -> float:
        lease = self.of_trial(number)
        return lease.expires_at - self._clock() if lease is not None and lease.state == HELD else 0.0

    def _is(self, number: int) -> ColumnElement[bool]:
        return and_(leases_table.c.study == self._study, leases_table.c.trial == number)

    def _locked(self, connection: Connection, number: int) -> Row[tuple[object, ...]]:
        """The trial's row, made if it is missing, locked until the transaction ends."""
        empty = {"attempt": 0, "worker": "", "expires_at": 0.0, "epoch": 0, "epoch_at_claim": 0, "stalled": 0}
        new = insert_into(connection, leases_table).values(study=self._study, trial=number, state=RELEASED, **empty)
        connection.execute(new.on_conflict_do_nothing())
        row = _row(connection, self._study, number)
        assert row is not None
        return row


def require_lease(connection: Connection, study_uuid: str, number: int, attempt: int) -> None:
    """Checks, inside the transaction of a write, that the attempt still holds the trial.

    Raises:
        LeaseLost: it does not.
    """
    _require_held(connection, study_uuid, number, attempt)


def _require_held(connection: Connection, study_uuid: str, number: int, attempt: int) -> Row[tuple[object, ...]]:
    row = _row(connection, study_uuid, number)
    if row is None or row.attempt != attempt or row.state != HELD:
        raise _lost(number, attempt, row)
    return row


def _row(connection: Connection, study_uuid: str, number: int) -> Row[tuple[object, ...]] | None:
    table = leases_table
    query = select(table).where(table.c.study == study_uuid, table.c.trial == number)
    return connection.execute(query.with_for_update()).one_or_none()  # SQLite: the whole file is locked already


def _lost(number: int, attempt: int, row: Row[tuple[object, ...]] | None) -> LeaseLost:
    owner = "nobody" if row is None else f"attempt {row.attempt} ({row.state}, worker {row.worker!r})"
    return LeaseLost(f"attempt {attempt} at trial {number} may write no more, the trial belongs to {owner}")


def _stalled_after(row: Row[tuple[object, ...]]) -> int:
    return 0 if row.epoch > row.epoch_at_claim else int(row.stalled) + 1


def _lease(row: Row[tuple[object, ...]]) -> Lease:
    return Lease(row.trial, row.attempt, row.worker, row.expires_at, row.epoch, row.stalled, row.state)


@contextmanager
def creation_lock(url: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Held while tables or a study are created: of several first starts one creates them and the others find them.

    Raises:
        StoreError: another process holds it for all of `timeout_s`, or the disk or the server refuses.
    """
    path = sqlite_path(url)
    if path is not None:
        with locked(creation_lock_of(path), timeout_s=timeout_s):
            yield
        return
    engine = open_writer(url)
    try:
        with _server_lock(engine, "create", timeout_s=timeout_s):
            yield
    finally:
        engine.dispose()


@contextmanager
def study_lock(engine: Engine, study_uuid: str, *, file: Path, timeout_s: float = TIMEOUT_S) -> Iterator[None]:
    """Held while the state of a trial changes; on a server it reaches searches from other folders and machines too.

    Not re-entrant.

    Args:
        file: the lock file of the study, for SQLite.
    Raises:
        StoreError: another process holds it for all of `timeout_s`, or the disk or the server refuses.
    """
    if engine.dialect.name == "sqlite":
        with locked(file, timeout_s=timeout_s):
            yield
        return
    with _server_lock(engine, f"study {study_uuid}", timeout_s=timeout_s):
        yield


@contextmanager
def _server_lock(engine: Engine, name: str, *, timeout_s: float) -> Iterator[None]:
    """An advisory lock of a transaction: the server releases it with the connection, however the process ends.

    Raises:
        ConnectionLost: after the block, if the connection broke, so that others may have held the lock meanwhile.
    """
    with database_errors(engine):
        connection = engine.connect()
    with connection:
        with database_errors(engine):
            _acquire(connection, name, timeout_s)
        try:
            yield
        except BaseException:
            with suppress(DBAPIError, StoreError):  # the server has released the lock of a connection that was lost
                connection.rollback()
            raise
        with database_errors(engine):
            connection.execute(select(1))
            connection.rollback()


def _acquire(connection: Connection, name: str, timeout_s: float) -> None:
    limits = {
        "lock_timeout": round(1000 * timeout_s),  # ms
        "statement_timeout": 0,  # 0 = none, whatever the server's default
        "idle_in_transaction_session_timeout": 0,
    }
    connection.execute(select(*(func.set_config(key, str(value), True) for key, value in limits.items())))
    connection.execute(select(func.pg_advisory_xact_lock(_key(name))))


def _key(name: str) -> int:
    """The 64-bit number that stands for a name; locks of different databases on one server never meet."""
    digest = hashlib.sha256(f"attnsearch {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
