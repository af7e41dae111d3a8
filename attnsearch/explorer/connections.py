"""The HTTP server under both apps: so many connections at a time, each with so long to send its request."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
from werkzeug.wsgi import ClosingIterator

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 64
MAX_WAITING = 1024
"""Connections that the system holds until one of those before them ends."""
REQUEST_S = 10.0
"""Seconds until the head of a request must have arrived, and for which a connection may stand still after it."""
_WAIT_S = 0.25
_PIECE_BYTES = 2**16


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
    """Sends a long answer in pieces: the time that a connection may stand still is that of one write."""

    def call(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = app(environ, start_response)
        close: Callable[[], None] = getattr(answer, "close", lambda: None)
        return ClosingIterator(_pieces(answer), close)

    return call


def _pieces(answer: Iterable[bytes]) -> Iterator[bytes]:
    for data in answer:
        yield data[:_PIECE_BYTES]
        for start in range(_PIECE_BYTES, len(data), _PIECE_BYTES):
            yield data[start : start + _PIECE_BYTES]
