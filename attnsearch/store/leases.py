"""Leases and locks: who may write a trial, and who may change the queue of a study or create its tables.

Each attempt at a trial holds a lease, whose number refuses writes of earlier attempts. The locks between processes are
the server's own on PostgreSQL, files on SQLite.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, case, func, select, update
from sqlalchemy.exc import DBAPIError

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.files import locked
from attnsearch.store.database import clock_of, database_errors, open_reader, open_writer, transaction
from attnsearch.store.layout import creation_lock_of
from attnsearch.store.servers import repeated
from attnsearch.store.tables import insert_into, leases_table
from attnsearch.store.urls import sqlite_path

HELD, RELEASED, TAKEN = "held", "released", "taken"
TIMEOUT_S = 120.0
PUBLICATION = -1
"""The number under which the one who publishes a study holds a lease; of no trial, and in no list of leases."""


@dataclass(frozen=True)
class Lease:
    """The last attempt at a trial, and the rules by which it changes.

    Attributes:
        attempt: from 1; 0 = never claimed.
        expires_at: UTC seconds since 1970.
        epoch: the last finished one of any attempt.
        epoch_at_claim: the last finished one when this attempt began.
        stalled: attempts in a row that finished no new epoch.
        state: held | released | taken.
    """

    number: int
    attempt: int = 0
    worker: str = ""
    expires_at: float = 0.0
    epoch: int = 0
    epoch_at_claim: int = 0
    stalled: int = 0
    state: str = RELEASED

    def held_in(self, attempt: int) -> Lease:
        """Itself, where this attempt holds the trial.

        Raises:
            LeaseLost: it does not.
        """
        if (self.attempt, self.state) != (attempt, HELD):
            raise self.lost(attempt)
        return self

    def lost(self, attempt: int) -> LeaseLost:
        """The error of an attempt that holds the trial no longer."""
        owner = f"attempt {self.attempt} ({self.state}, worker {self.worker!r})" if self.attempt else "nobody"
        return LeaseLost(f"attempt {attempt} at trial {self.number} may write no more, the trial belongs to {owner}")

    def n_stalled(self) -> int:
        """Attempts in a row without a new epoch, if this one ends now."""
        return 0 if self.epoch > self.epoch_at_claim else self.stalled + 1

    def claimed(self, worker: str, expires_at: float) -> Lease:
        """The next attempt; a worker that holds the trial already keeps its attempt."""
        if self.state == HELD and self.worker == worker:
            return self
        stalled = self.n_stalled() if self.state == HELD else self.stalled
        return Lease(self.number, self.attempt + 1, worker, expires_at, self.epoch, self.epoch, stalled, HELD)

    def released(self, attempt: int, *, stalled: bool) -> Lease:
        """Ended by its own worker; a second time it changes nothing."""
        if (self.attempt, self.state) == (attempt, RELEASED):
            return self
        n_stalled = self.held_in(attempt).n_stalled()
        counted = n_stalled if stalled or n_stalled == 0 else self.stalled
        return replace(self, state=RELEASED, stalled=counted)

    def taken(self, attempt: int | None) -> Lease:
        """Ended by another process; a second time, or where it was never claimed, it changes nothing."""
        if self.attempt and attempt not in (None, self.attempt):
            raise self.lost(attempt)
        return replace(self, state=TAKEN, stalled=self.n_stalled()) if self.state == HELD else self


class Leases(ABC):
    """The leases of one study; the forms in a database and in memory store them.

    Args:
        clock: UTC seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def claim(self, number: int, worker: str, *, duration_s: float) -> int:
        """Starts the next attempt at a trial that Optuna handed out; a living older attempt loses its lease.

        A worker that holds the trial already keeps its attempt: the answer to an earlier call did not reach it.

        Returns:
            The attempt, from 1.
        Raises:
            StoreError: the database refuses.
        """
        expires_at = self._clock() + duration_s
        return self._change(number, lambda lease: lease.claimed(worker, expires_at)).attempt

    def renew(self, number: int, attempt: int, *, duration_s: float, epoch: int | None = None) -> None:
        """Lengthens the lease to `duration_s` from now; one that ran out but was not taken back can be renewed.

        Args:
            epoch: the last finished epoch, from 1; None = as before.
        Raises:
            LeaseLost: the attempt no longer holds the trial.
            StoreError: the database refuses.
        """

        expires_at = self._clock() + duration_s

        def renewed(lease: Lease) -> Lease:
            return replace(lease.held_in(attempt), expires_at=expires_at, epoch=max(lease.epoch, epoch or 0))

        self._change(number, renewed)

    def check(self, number: int, attempt: int) -> None:
        """Checks that this attempt may still write.

        Raises:
            LeaseLost: the attempt no longer holds the trial.
            StoreError: the database refuses.
        """
        self._change(number, lambda lease: lease.held_in(attempt))

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
        return self._change(number, lambda lease: lease.released(attempt, stalled=stalled)).stalled

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
        return self._change(number, lambda lease: lease.taken(attempt)).stalled

    def seconds_left(self, number: int) -> float:
        """Seconds until the trial's lease runs out, negative afterwards; 0 if nobody holds it."""
        lease = self.of_trial(number)
        return lease.expires_at - self._clock() if lease is not None and lease.state == HELD else 0.0

    @abstractmethod
    def of_trial(self, number: int) -> Lease | None:
        """The last lease of the trial in whatever state; None if it was never claimed."""

    @abstractmethod
    def held_by(self, worker: str) -> Lease | None:
        """The lease that a worker holds; one whose claim was cut off may not know of it."""

    @abstractmethod
    def held(self) -> list[Lease]:
        """All leases of the study that are held."""

    @abstractmethod
    def n_changes(self) -> int:
        """A number that rises with each claim of a trial and with each end of an attempt."""

    @abstractmethod
    def n_epochs(self, *, without: int | None = None) -> int:
        """Epochs that all trials of the study have finished so far, one trial left out if asked."""

    @abstractmethod
    def stalled(self) -> dict[int, int]:
        """Trial -> attempts in a row that finished no new epoch, for trials that have any."""

    @abstractmethod
    def _change(self, number: int, change: Callable[[Lease], Lease]) -> Lease:
        """Replaces the lease of a trial, or that of one never claimed, by what `change` makes of it; in one step."""


_OF_TRIALS = leases_table.c.trial != PUBLICATION


class SqlLeases(Leases):
    """`Leases` in a database.

    Args:
        engine: a writer's (`database.open_writer`); a reader's suffices for what changes nothing.
        clock: UTC seconds since 1970; None is the clock of the database.
    """

    def __init__(self, engine: Engine, study_uuid: str, *, clock: Callable[[], float] | None = None) -> None:
        super().__init__(clock or clock_of(engine))
        self._engine = engine
        self._study = study_uuid

    def of_trial(self, number: int) -> Lease | None:
        return next(iter(self._read(leases_table.c.trial == number)), None)

    def held_by(self, worker: str) -> Lease | None:
        return next((lease for lease in self.held() if lease.worker == worker), None)

    def held(self) -> list[Lease]:
        return self._read(_OF_TRIALS, leases_table.c.state == HELD)

    @repeated
    def n_changes(self) -> int:
        table = leases_table.c
        is_held = case((table.state == HELD, 1), else_=0)
        query = select(func.coalesce(func.sum(2 * table.attempt - is_held), 0)).where(table.study == self._study)
        with transaction(self._engine) as connection:
            return int(connection.execute(query.where(_OF_TRIALS)).scalar_one())

    def n_epochs(self, *, without: int | None = None) -> int:
        return sum(lease.epoch for lease in self._read(_OF_TRIALS) if lease.number != without)

    def stalled(self) -> dict[int, int]:
        return {lease.number: lease.stalled for lease in self._read(_OF_TRIALS, leases_table.c.stalled > 0)}

    @repeated
    def _read(self, *conditions: ColumnElement[bool]) -> list[Lease]:
        query = select(leases_table).where(leases_table.c.study == self._study, *conditions)
        with transaction(self._engine) as connection:
            return [_lease(row) for row in connection.execute(query)]

    @repeated
    def _change(self, number: int, change: Callable[[Lease], Lease]) -> Lease:
        with transaction(self._engine) as connection:
            before = _locked(connection, self._study, number)
            after = change(before or Lease(number))
            if before is None and after.attempt:  # a first claim: another one may come in between on a server
                new = insert_into(connection, leases_table).values(_row(self._study, Lease(number)))
                connection.execute(new.on_conflict_do_nothing())
                before = _locked(connection, self._study, number)
                assert before is not None
                after = change(before)
            if after != before and after.attempt:
                row = leases_table.c.study == self._study, leases_table.c.trial == number
                connection.execute(update(leases_table).where(*row).values(_row(self._study, after)))
            return after


def held_leases(url: str, study_uuid: str) -> list[tuple[Lease, float]]:
    """The leases in force of a study by worker, that of its publication last, each with the seconds until it runs out.

    Raises:
        StoreError: the database cannot be read.
    """
    engine = open_reader(url)
    try:
        leases, now = SqlLeases(engine, study_uuid), clock_of(engine)()
        publication = leases.of_trial(PUBLICATION)
        held = sorted(leases.held(), key=lambda lease: (lease.worker, lease.number))
        if publication is not None and publication.state == HELD:
            held.append(publication)
        return [(lease, lease.expires_at - now) for lease in held]
    finally:
        engine.dispose()


def require_lease(connection: Connection, study_uuid: str, number: int, attempt: int) -> None:
    """Checks, inside the transaction of a write, that the attempt still holds the trial.

    Raises:
        LeaseLost: it does not.
    """
    (_locked(connection, study_uuid, number) or Lease(number)).held_in(attempt)


def _locked(connection: Connection, study_uuid: str, number: int) -> Lease | None:
    """The lease of a trial, locked until the transaction ends; on SQLite the whole file is locked already."""
    query = select(leases_table).where(leases_table.c.study == study_uuid, leases_table.c.trial == number)
    row = connection.execute(query.with_for_update()).one_or_none()
    return None if row is None else _lease(row)


def _lease(row: Row[Any]) -> Lease:
    values = row._asdict()
    del values["study"]
    return Lease(number=values.pop("trial"), **values)


def _row(study_uuid: str, lease: Lease) -> dict[str, Any]:
    values = asdict(lease)
    return {"study": study_uuid, "trial": values.pop("number"), **values}


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
    """The 64-bit number that stands for a name; databases of one server do not see each other's locks."""
    digest = hashlib.sha256(f"attnsearch {name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
