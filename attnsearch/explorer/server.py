"""One server: optuna-dashboard at the root, the attention explorer below it, and a guard in front of both."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.explorer.dashboards import Dashboards
from attnsearch.explorer.security import LOOPBACK, PREFIX, Guard, new_token
from attnsearch.explorer.views import create_explorer
from attnsearch.results.databases import StudyDatabases
from attnsearch.results.reader import Results
from attnsearch.results.shared import SharedReads
from attnsearch.store.layout import ExperimentLayout

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

HIGHEST_PORT = 65535
MAX_CONNECTIONS = 64
MAX_WAITING = 1024
"""Connections that the system holds until one of those before them ends."""
REQUEST_S = 10.0
"""Seconds until the head of a request must have arrived, and for which a connection may stand still after it."""
_WAIT_S = 0.25
_PIECE_BYTES = 2**16


@dataclass(frozen=True)
class RunningServer:
    """A server that listens already; `serve_forever` of `server` blocks.

    Attributes:
        url: of the explorer, with the token if one is needed.
        dashboard_of: the experiment that optuna-dashboard shows at first; None if there is no database.
        token: what a browser must show first, or None.
    """

    server: Server
    url: str
    dashboard_of: str | None
    token: str | None


def open_server(
    experiments: Mapping[str, ExperimentLayout],
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    allow_edit: bool = False,
    storage: str | None = None,
) -> RunningServer:
    """Binds the address and builds both apps; no request is answered before `serve_forever`.

    Args:
        experiments: what is shown; optuna-dashboard shows first the one whose database was written last.
        host: an address of this machine; anything but the loopback asks for a token.
        port: 0 takes a free one.
        allow_edit: lets optuna-dashboard change studies, and people keep photographs that they had explained.
        storage: URL of the database of all experiments; None is each experiment's own file.
    Raises:
        ConfigError: the port is taken, or there is no such address.
        StoreError: a database cannot be read.
    """
    listener = bind(host, port)
    try:
        token = None if host in LOOPBACK else new_token()
        app, dashboard_of = build_app(
            experiments,
            hosts=(*LOOPBACK, host, socket.gethostname()),
            token=token,
            allow_edit=allow_edit,
            storage=storage,
        )
        port = listener.getsockname()[1]
        server = Server(listener, app)
    finally:
        listener.close()  # the server has a copy of its own
    name = f"[{host}]" if ":" in host else host
    query = "" if token is None else f"?token={token}"
    return RunningServer(server, f"http://{name}:{port}{PREFIX}/{query}", dashboard_of, token)


def build_app(
    experiments: Mapping[str, ExperimentLayout],
    *,
    hosts: Iterable[str] = LOOPBACK,
    token: str | None = None,
    allow_edit: bool = False,
    storage: str | None = None,
) -> tuple[WSGIApplication, str | None]:
    """Dashboards, explorer and guard as one WSGI app, and the experiment that optuna-dashboard shows first."""
    results = Results(experiments, SharedReads(StudyDatabases(storage)))
    for study in results:
        with suppress(AttnSearchError):  # its page shows the error
            study.rows  # noqa: B018  read now, so that the first page of a large study is not slow
    dashboards = Dashboards(results, allow_edit=allow_edit)
    explorer = create_explorer(results, dashboards_of=dashboards.names, allow_edit=allow_edit)
    guarded = Guard(_dispatch(dashboards, explorer), hosts=hosts, token=token, allow_edit=allow_edit)
    return guarded, dashboards.first


def _dispatch(root: WSGIApplication, explorer: WSGIApplication) -> WSGIApplication:
    """The explorer at its prefix, the other app at all other paths."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        is_below = f"{environ['PATH_INFO']}/".startswith(f"{PREFIX}/")
        return (explorer if is_below else root)(environ, start_response)

    return call


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on the address.

    Raises:
        ConfigError: the port is taken or not allowed, or there is no such address.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise ConfigError(f"--port must lie between 0 and {HIGHEST_PORT}, got {port}")
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(MAX_WAITING)
    except OSError as error:
        if listener is not None:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port {port} is taken on {host}; choose another, or 0 for a free one") from error
        raise ConfigError(f"cannot listen on {host}:{port} ({error}); choose another --host or --port") from error
    return listener


class Server(ThreadedWSGIServer):
    """One thread per connection, at most `max_connections` of them; the rest wait until they are accepted.

    Args:
        listener: is copied and may be closed.
        request_s: seconds, as `REQUEST_S`.
    """

    def __init__(
        self,
        listener: socket.socket,
        app: WSGIApplication,
        *,
        max_connections: int = MAX_CONNECTIONS,
        request_s: float = REQUEST_S,
    ) -> None:
        host, port = listener.getsockname()[:2]
        self._request_s = request_s
        self._free = threading.BoundedSemaphore(max_connections)
        self._arriving: dict[socket.socket, float] = {}
        super().__init__(host, port, _in_pieces(app), _Handler, fd=listener.fileno())

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Answers until `shutdown`; what was there before is not searched for garbage while large tables are read."""
        gc.freeze()
        try:
            super().serve_forever(poll_interval)
        finally:
            gc.unfreeze()

    def get_request(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            OSError: there is no place for one, or no file handle; it waits, and `serve_forever` asks again.
        """
        if not self._free.acquire(timeout=_WAIT_S):
            raise TimeoutError("all connections are in use")
        try:
            request, address = super().get_request()
        except OSError:
            self._free.release()
            time.sleep(_WAIT_S)  # without it the loop would use a whole core until a file handle is free
            raise
        request.settimeout(self._request_s)
        self._arriving[request] = time.monotonic()
        return request, address

    def note_arrived(self, request: socket.socket) -> None:
        """The head of the request is complete, or the connection has ended."""
        self._arriving.pop(request, None)

    def service_actions(self) -> None:
        """Ends connections that have sent no whole head in time, however steadily they send single bytes."""
        latest = time.monotonic() - self._request_s
        for request, since in list(self._arriving.items()):
            if since < latest:
                self.note_arrived(request)
                with suppress(OSError):  # it has ended by itself
                    request.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        """Called once for each connection, at its end."""
        self.note_arrived(request)
        super().shutdown_request(request)
        self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.warning("a request from %s ended with %r", client_address[0], sys.exception())


class _Handler(WSGIRequestHandler):
    """Requests are logged for debugging only."""

    server: Server

    def run_wsgi(self) -> None:
        self.server.note_arrived(self.connection)
        super().run_wsgi()

    def log(self, type: str, message: str, *args: Any) -> None:
        logger.debug(message, *args)


def _in_pieces(app: WSGIApplication) -> WSGIApplication:
    """Sends a long answer in pieces, so that the time limit of a connection is that of one write."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return _pieces(app(environ, start_response))

    return call


def _pieces(answer: Iterable[bytes]) -> Iterator[bytes]:
    """The answer is closed at its end, also where the browser has left: werkzeug closes none after a reset."""
    try:
        for data in answer:
            yield data[:_PIECE_BYTES]
            for start in range(_PIECE_BYTES, len(data), _PIECE_BYTES):
                yield data[start : start + _PIECE_BYTES]
    finally:
        close: Callable[[], None] = getattr(answer, "close", lambda: None)
        close()
