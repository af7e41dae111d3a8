"""How many connections the server keeps, and for how long one may send nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import pytest

from attnsearch.explorer.connections import Server
from attnsearch.explorer.server import bind

WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = WHOLE[:-2]


def answer(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "200000")])
    return [b"a" * 200000]


@contextmanager
def serving(app: Any, **settings: Any) -> Iterator[Callable[..., socket.socket]]:
    """Serves an app; the result connects and sends some bytes."""
    with bind("127.0.0.1", 0) as listener:
        server = Server(listener, app, **settings)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    with ExitStack() as clients:

        def connect(data: bytes) -> socket.socket:
            client = clients.enter_context(closing(socket.create_connection(server.server_address, timeout=20)))
            client.sendall(data)
            return client

        try:
            yield connect
        finally:
            server.shutdown()
            thread.join()


def received(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    return b"".join(iter(lambda: client.recv(2**16), b""))


def trickle(client: socket.socket) -> None:
    """Sends a byte at a time for much longer than any limit of these tests."""
    for _ in range(1000):
        client.sendall(b"a")
        threading.Event().wait(0.01)


def test_a_long_answer_arrives_whole() -> None:
    with serving(answer) as connect:
        assert received(connect(WHOLE)).endswith(b"\r\n\r\n" + b"a" * 200000)


@pytest.mark.parametrize("data", [b"", HALF])
def test_a_half_sent_request_is_closed(data: bytes) -> None:
    with serving(answer, request_s=0.1) as connect:
        assert received(connect(data)) == b""


def test_a_request_that_comes_byte_by_byte_is_closed_as_well() -> None:
    """Its bytes never pause for as long as the limit."""
    with serving(answer, request_s=0.3) as connect, pytest.raises(ConnectionError):
        trickle(connect(HALF))


def test_a_body_that_never_comes_is_closed() -> None:
    def read(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["wsgi.input"].read(100)
        return answer(environ, start_response)

    with serving(read, request_s=0.1) as connect:
        head = WHOLE.replace(b"GET", b"POST").replace(b"Host", b"Content-Length: 100\r\nHost")
        assert received(connect(head + b"only this")) == b""


def test_connections_beyond_the_limit_wait_for_their_turn() -> None:
    inside, peaks, free = [0], [0], threading.Event()

    def slow(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        inside[0] += 1
        peaks.append(inside[0])
        free.wait(0.1)
        inside[0] -= 1
        return answer(environ, start_response)

    with serving(slow, max_connections=2) as connect:
        clients = [connect(WHOLE) for _ in range(6)]
        assert [len(received(client)) > 200000 for client in clients] == [True] * 6
    assert max(peaks) == 2


def test_a_page_is_answered_after_all_places_were_held() -> None:
    with serving(answer, max_connections=2, request_s=0.1) as connect:
        held = [connect(HALF) for _ in range(5)]
        assert len(received(connect(WHOLE))) > 200000
        assert [received(client) for client in held] == [b""] * 5
