"""Connections to a database server that may be away for a while: one connector that waits, one decorator that repeats.

A new connection waits for the server. A connection that breaks during a transaction raises `ConnectionLost`, and
functions whose work is idempotent are repeated by `repeated`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Engine, ExceptionContext, event
from sqlalchemy.exc import SQLAlchemyError

from attnsearch.errors import ConnectionLost, ServerUnavailable, StoreError
from attnsearch.store.urls import driver_url, parse_url, redact, sqlite_path

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 15
_RETRY_S = (0.2, 5.0)
"""First and longest pause between two attempts to connect."""
_MAX_LOSSES = 10
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
"""A network that swallows packets is noticed within a minute."""
_CLOSING = ("08", "57P01", "57P02", "57P03")
"""PostgreSQL's error codes of connections that fail, and of a server that shuts down, has crashed or starts up."""
_REFUSAL = re.compile(
    r"authentication failed|does not exist|no pg_hba\.conf entry|no password supplied|permission denied"
    r"|could not translate host name|failed to resolve host|invalid (port|connection option)|SSL was required",
    re.IGNORECASE,
)
"""Messages of a server, or of the look-up of its name, after which waiting does not help."""

P = ParamSpec("P")
T = TypeVar("T")


class Connector:
    """Opens connections to a server and waits for one that is away; shared by all threads of an engine.

    Args:
        url: of a database on a server.
        patience_s: seconds that an outage may last; 0 reports the first failure.
        clock, sleep: seconds.
    """

    def __init__(
        self,
        url: str,
        *,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        parsed = parse_url(driver_url(url))
        dialect = parsed.get_dialect()
        self._name = redact(url)
        self._driver = dialect.import_dbapi()
        self._arguments, self._options = dialect().create_connect_args(parsed)
        self._options = {"connect_timeout": CONNECT_TIMEOUT_S, **_KEEPALIVE, **self._options}
        self._patience_s, self._clock, self._sleep = patience_s, clock, sleep
        self._lock = threading.Lock()
        self._away_since: float | None = None
        self._back_at = -math.inf

    @property
    def is_away(self) -> bool:
        """Whether the last attempt to connect failed."""
        return self._away_since is not None

    def was_away_within(self, seconds: float) -> bool:
        """Whether the server was away at some time in the last `seconds`."""
        return self.is_away or self._clock() - self._back_at < seconds

    def __call__(self) -> Any:
        """A new connection of the driver, for `create_engine(creator=…)`.

        Raises:
            ServerUnavailable: the server was away for longer than `patience_s`.
            StoreError: the server refuses: wrong name, password or database.
        """
        pause_s, longest_s = _RETRY_S
        while True:
            try:
                connection = self._driver.connect(*self._arguments, **self._options)
            except self._driver.OperationalError as error:
                self._note_failure(_reason(error))
                self._sleep(pause_s)
                pause_s = min(2 * pause_s, longest_s)
            else:
                self._note_success()
                return connection

    def _note_failure(self, reason: str) -> None:
        if _REFUSAL.search(reason):
            raise StoreError(f"{self._name} cannot be opened ({reason}), check server, name and password")
        with self._lock:
            is_new = self._away_since is None
            if self._away_since is None:
                self._away_since = self._clock()
            outage_s = self._clock() - self._away_since
        if outage_s >= self._patience_s:
            lasted = f" for {outage_s:.0f} s" if self._patience_s else ""
            raise ServerUnavailable(f"{self._name} does not answer{lasted} ({reason}); start it, or check the URL")
        if is_new:
            logger.warning("%s does not answer (%s): waiting for up to %g s", self._name, reason, self._patience_s)

    def _note_success(self) -> None:
        with self._lock:
            since, self._away_since = self._away_since, None
        if since is not None:
            self._back_at = self._clock()
            logger.warning("%s answers again, after %.0f s", self._name, self._clock() - since)


def _reason(error: BaseException) -> str:
    """The first line that is not empty: the driver lists every address that it tried."""
    lines = [line.strip(" \t-") for line in redact(str(error)).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def connector_of(url: str, *, patience_s: float = 0.0) -> Connector | None:
    """The connector of a database on a server; None for a file.

    Raises:
        StoreError: the driver of the server is missing.
        ConfigError: not a URL of a usable kind.
    """
    if sqlite_path(url) is not None:
        return None
    with server_errors(url):
        return Connector(url, patience_s=patience_s)


def wait_for_server(url: str, *, patience_s: float) -> None:
    """Waits until the server of a database answers; does nothing for a file.

    Raises:
        ServerUnavailable: it was away for longer than `patience_s`.
        StoreError: it refuses, or its driver is missing.
        ConfigError: not a URL of a usable kind.
    """
    connector = connector_of(url, patience_s=patience_s)
    if connector is not None:
        connector().close()


@contextlib.contextmanager
def server_errors(url: str) -> Iterator[None]:
    """Turns the errors of a missing driver or an unreachable server into a `StoreError` without the password."""
    try:
        yield
    except ImportError as error:  # psycopg raises it too where the library of PostgreSQL is missing
        raise StoreError(
            f"{redact(url)} needs a driver that is not installed ({redact(_first_line(error))}), "
            "pip install 'attnsearch[postgres]' brings the one of postgresql://"
        ) from error
    except SQLAlchemyError as error:
        raise StoreError(
            f"{redact(url)} cannot be opened ({redact(_first_line(error))}), check server, name and password"
        ) from error


def _first_line(error: Exception) -> str:
    reason = getattr(error, "orig", None) or error
    return str(reason).strip().partition("\n")[0]


def raise_lost_connections(engine: Engine) -> None:
    """Makes a connection that breaks during a transaction a `ConnectionLost`, through Optuna too.

    A server that shuts down announces it before it closes the connection, which the driver until then takes for usable.
    """

    @event.listens_for(engine, "handle_error")
    def _on_error(context: ExceptionContext) -> None:
        cause = context.original_exception
        if str(getattr(cause, "sqlstate", None)).startswith(_CLOSING):
            context.is_disconnect = True
        if context.is_disconnect and not context.is_pre_ping:
            raise ConnectionLost(f"the connection to the database was lost ({_reason(cause)})") from cause


def repeated(function: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function whose work is idempotent: it is repeated when its connection breaks.

    The next connection waits for the server, so there is no pause here.
    """

    @functools.wraps(function)
    def repeat(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_MAX_LOSSES):
            try:
                return function(*args, **kwargs)
            except ConnectionLost as error:
                logger.info("%s: repeated", error)
        return function(*args, **kwargs)

    return repeat
