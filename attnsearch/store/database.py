"""The database of an experiment: how writers and readers open it, transactions and errors."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, ExceptionContext, NullPool, create_engine, event, func, select
from sqlalchemy.exc import DBAPIError

from attnsearch.errors import StoreError, TransientStoreError
from attnsearch.files import free_bytes
from attnsearch.store.servers import (
    CONNECT_TIMEOUT_S,
    Connector,
    connector_of,
    raise_lost_connections,
    repeated,
    server_errors,
)
from attnsearch.store.urls import driver_url, read_only_uri, redact, shown, sqlite_path

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 60
LOCK_ATTEMPTS = 60
"""How often a writer waits that long for one that was stopped inside a transaction, before it gives up."""
_LOCKED = "another process has held it for %d s, wake or stop that one, or move the database to a local disk"
_MIB = 2**20
_SERVER_REMEDIES = {
    "25006": "name a server that may be written, this one is read-only",
    "42501": "grant this user the right to create and to write tables",
    "42P01": "start a search to create the tables",
    "53100": "free space on the disk of the server",
    "53300": "raise max_connections of the server or run fewer workers",
    "55P03": "another process holds this lock, end the one that hangs or was paused",
}
"""What to do, by PostgreSQL's error code: its messages are in the server's language."""


def tune_writer(engine: Engine) -> Engine:
    """Makes an engine, Optuna's too, safe for many writing processes.

    On SQLite `BEGIN IMMEDIATE` takes the write lock before the first read; without it SQLite hands one waiting trial to
    several workers (Optuna's SELECT … FOR UPDATE does nothing there). On a server a connection that breaks is a
    `ConnectionLost`. Listeners do not survive pickling: pass URLs between processes, never engines or storages.

    A writer waits for another one that was paused inside a transaction, with a warning a minute. What the database
    refuses in the end is a `StoreError`, through Optuna too.

    Returns:
        The same engine.
    """
    if engine.dialect.name != "sqlite":
        raise_lost_connections(engine)
        return engine

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver must not begin transactions by itself
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                connection.connection.cursor().execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or attempt == LOCK_ATTEMPTS:
                    raise _store_error(engine, error) from error
                logger.warning("database %s is locked: %s", shown(url_of(engine)), _LOCKED % (attempt * BUSY_TIMEOUT_S))

    @event.listens_for(engine, "handle_error")
    def _on_error(context: ExceptionContext) -> None:
        if isinstance(context.original_exception, sqlite3.OperationalError):
            raise _store_error(engine, context.original_exception) from context.original_exception

    engine.dispose()  # connections opened before would miss the listener
    return engine


def open_writer(url: str) -> Engine:
    """An engine for our tables that may write; SQLite creates the file, so look with `inspect_database` first.

    Raises:
        StoreError: the driver of the server is missing.
        ConfigError: not a URL of a usable kind.
    """
    writer_url, options = writer_arguments(url)
    with server_errors(url):
        return tune_writer(create_engine(writer_url, **options))


def writer_arguments(url: str, connector: Connector | None = None) -> tuple[str, dict[str, Any]]:
    """URL and keyword arguments of `create_engine` for a writer.

    Optuna writes with `RDBStorage(url, engine_kwargs=options)`, whose engine then goes through `tune_writer`.

    Args:
        connector: from `connector_of`; None is one that waits for no server.
    """
    connector = connector or connector_of(url)
    if connector is None:
        return url, {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    return driver_url(url), {"creator": connector, "pool_pre_ping": True}


def open_reader(url: str) -> Engine:
    """An engine that only looks: it never blocks a writer, is never blocked by one, and works on a read-only folder.

    Raises:
        StoreError: the driver of the server is missing.
        ConfigError: not a URL of a usable kind.
    """
    reader_url, options = reader_arguments(url)
    with server_errors(url):
        return create_engine(reader_url, **options)


def reader_arguments(url: str) -> tuple[str, dict[str, Any]]:
    """URL and keyword arguments of `create_engine` for a reader.

    Optuna reads with `RDBStorage(url, engine_kwargs=options, skip_table_creation=True)`. Each use of the database
    opens it again: whether a file needs side files can change while a long-lived reader runs, and pages that are open
    for days hold no connection of a server.
    """
    path = sqlite_path(url)
    if path is None:
        settings = {"connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}, "poolclass": NullPool}
        return driver_url(url), {**settings, "execution_options": {"postgresql_readonly": True}}

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(read_only_uri(path), uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)

    return url, {"creator": connect, "poolclass": NullPool}


class HasEngine(Protocol):
    """Another library's view of a database, such as Optuna's `RDBStorage`."""

    engine: Engine


S = TypeVar("S", bound=HasEngine)
T = TypeVar("T")


@dataclass(frozen=True)
class Connections:
    """The connections of one process to a database, shared by Optuna's storage and our tables; never pickled."""

    url: str
    engine: Engine
    connector: Connector | None = None

    @property
    def is_away(self) -> bool:
        """Whether the server of the database does not answer just now; a file always does."""
        return self.connector is not None and self.connector.is_away

    def was_away_within(self, seconds: float) -> bool:
        """Whether the server was away at some time in the last `seconds`."""
        return self.connector is not None and self.connector.was_away_within(seconds)

    def close(self) -> None:
        """Closes them; a later use opens new ones."""
        self.engine.dispose()


def connect_writer(url: str, make: Callable[..., S], *, patience_s: float) -> tuple[S, Connections]:
    """Opens another library's view of a database for writing, and the connections that our tables share with it.

    Args:
        make: called with the URL and the keyword argument `engine_kwargs`.
        patience_s: seconds that a server may be away.
    """
    connector = connector_of(url, patience_s=patience_s)
    writer_url, options = writer_arguments(url, connector)
    with server_errors(url):
        view = make(writer_url, engine_kwargs=options)
        return view, Connections(url, tune_writer(view.engine), connector)


def connect_reader(url: str, make: Callable[..., T]) -> T:
    """As `connect_writer`, for looking only."""
    reader_url, options = reader_arguments(url)
    with server_errors(url):
        return make(reader_url, engine_kwargs=options)


@contextlib.contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction of our tables: committed after the block, rolled back by any exception.

    Raises:
        StoreError: the database refuses (locked for a minute, disk full, read-only, malformed, server gone).
    """
    with database_errors(engine), engine.begin() as connection:
        yield connection


def clock_of(engine: Engine) -> Callable[[], float]:
    """The clock that all processes of a database have in common, in UTC seconds since 1970.

    It is the server's: those of its clients may differ by minutes. All processes on a file are of one machine.
    """
    return time.time if engine.dialect.name == "sqlite" else lambda: _asked_seconds(engine, func.clock_timestamp())


def server_age_s(engine: Engine) -> float:
    """Seconds since the server was started; infinite for a file."""
    if engine.dialect.name == "sqlite":
        return math.inf
    return _asked_seconds(engine, func.clock_timestamp() - func.pg_postmaster_start_time())


@repeated
def _asked_seconds(engine: Engine, time_or_interval: ColumnElement[Any]) -> float:
    with transaction(engine) as connection:
        return float(connection.execute(select(func.extract("epoch", time_or_interval))).scalar_one())


@contextlib.contextmanager
def database_errors(engine: Engine) -> Iterator[None]:
    """Turns errors of the database into a `StoreError` that names it and says what to do."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        raise _store_error(engine, error.orig if isinstance(error, DBAPIError) else error) from error


def url_of(engine: Engine) -> str:
    """The URL of an engine, for a message."""
    return engine.url.render_as_string(hide_password=True)


def _store_error(engine: Engine, cause: BaseException | None) -> StoreError:
    """A `TransientStoreError` where no cause is known that a user must remove first."""
    reason = redact(str(cause).strip().partition("\n")[0])
    code = str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None))  # psycopg 3, psycopg 2
    remedy = _SERVER_REMEDIES.get(code) or _remedy(reason, engine)
    kind = StoreError if remedy else TransientStoreError
    return kind(f"database {shown(url_of(engine))}: {reason}; {remedy or 'check the disk or the server'}")


def _remedy(reason: str, engine: Engine) -> str | None:
    if "locked" in reason:
        return _LOCKED % (LOCK_ATTEMPTS * BUSY_TIMEOUT_S)
    if "full" in reason:
        path = sqlite_path(url_of(engine))
        free = f"{free_bytes(path) // _MIB} MiB are free, " if path is not None else ""
        return f"{free}free some with `attnsearch prune-files`"
    if "readonly" in reason or "unable to open" in reason:
        return "give this user the right to write the file and its folder"
    if "malformed" in reason or "not a database" in reason:
        return "restore it from an `attnsearch export`"
    if "no such table" in reason:
        return "start a search to create the tables"
    return None


def checkpoint_wal(url: str) -> bool:
    """Moves everything from SQLite's `-wal` file into the database, for a clean stop; nothing to do for a server.

    Returns:
        False if a reader still uses old pages, so that the `-wal` file is still needed.
    Raises:
        StoreError: the disk refuses.
    """
    path = sqlite_path(url)
    if path is None or not path.exists():
        return True
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as connection:
            busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    except sqlite3.Error as error:
        raise StoreError(f"database {path}: {error}; the -wal file beside it must be kept with it") from error
    return not busy
