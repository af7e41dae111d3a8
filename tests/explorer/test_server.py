"""optuna-dashboard and the explorer behind one address; how many connections it keeps, and for how long."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import struct
import threading
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import optuna
import pytest
from optuna.exceptions import ExperimentalWarning
from werkzeug.test import Client

from attnsearch.errors import ConfigError
from attnsearch.explorer.server import RunningServer, Server, bind, build_app, open_server
from attnsearch.report.page import build_report
from attnsearch.results.reader import find_experiments
from attnsearch.search.handle import open_database
from attnsearch.search.study import IDENTITY
from attnsearch.store.urls import default_url, sqlite_url
from tests.explorer.built import Built

WHOLE = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = WHOLE[:-2]
LOCAL = {"Host": "localhost", "Origin": "http://localhost"}


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


def test_dashboard_stands_at_the_root_with_metric_names_and_columns(client: Client) -> None:
    (summary,) = json.loads(client.get("/api/studies").text)["study_summaries"]
    study = json.loads(client.get(f"/api/studies/{summary['study_id']}").text)
    assert study["name"] == "hunt"
    assert study["objective_names"] == ["val/accuracy", "val/sparsity"]
    assert "val/loss" in [column["key"] for column in study["union_user_attrs"]]
    assert len(study["trials"]) == 3


def test_notes_hold_the_settings(client: Client) -> None:
    study = json.loads(client.get("/api/studies/1").text)
    assert study["note"]["body"].startswith("[Study in the attention explorer](/attention/study/here/hunt)")
    body = study["trials"][1]["note"]["body"]
    assert body.startswith("[Trial in the attention explorer](/attention/trial/here/hunt/1)")
    assert "```yaml" in body
    assert len(body.splitlines()) < 25


def test_study_of_another_experiment_gets_no_notes_of_one_of_the_same_name(copied: Built) -> None:
    """Two experiments with a study `hunt` each are shown one storage, which belongs to the other one."""
    database = open_database(default_url(copied.layout))
    study = optuna.load_study(study_name="hunt", storage=database.storage)
    study.set_user_attr(IDENTITY, {"experiment": {"experiment": "elsewhere"}})
    database.close()
    shown = json.loads(Client(build_app(find_experiments(copied.root))[0]).get("/api/studies/1").text)
    assert [one["note"]["body"] for one in (shown, *shown["trials"])] == [""] * 4


def test_dashboard_knows_which_trials_break_a_constraint(copied: Built) -> None:
    database = open_database(default_url(copied.layout))
    study = optuna.load_study(study_name="hunt", storage=database.storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        trial = study.ask()
        trial.set_constraint("train/seconds", 2.5)
    study.tell(trial, [0.9, 0.1])
    database.close()
    app, _ = build_app(find_experiments(copied.root))
    trials = json.loads(Client(app).get("/api/studies/1").text)["trials"]
    assert [one["constraints"] for one in trials] == [[], [], [], [2.5]]


def test_config_that_is_a_link_out_of_the_experiment_is_no_note(copied: Built) -> None:
    config = copied.layout.trial(0).config
    outside = copied.root / "outside"
    outside.write_text("secret of this machine")
    config.unlink()
    config.symlink_to(outside)
    app, _ = build_app(find_experiments(copied.root))
    answer = Client(app).get("/api/studies/1").text
    assert "secret of this machine" not in answer
    assert "hunt" in answer


def test_password_of_a_storage_is_shown_nowhere(copied: Built) -> None:
    """Neither on pages, nor as a note, nor in the report, even if somebody wrote it into the file of the study."""
    file = copied.layout.study_yaml
    plain = "\n".join(line for line in file.read_text(encoding="utf-8").splitlines() if not line.startswith("storage:"))
    notes = Client(build_app(find_experiments(copied.root))[0])
    file.write_text(f"storage: postgresql://me:hush@nowhere.invalid/x\n{plain}\n", encoding="utf-8")
    client = Client(build_app(find_experiments(copied.root))[0])
    pages = [
        "/attention/",
        "/attention/study/here/hunt",
        "/attention/api/study/here/hunt",
        "/attention/trial/here/hunt/0",
    ]
    texts = [client.get(path, headers=LOCAL).text for path in pages] + [notes.get("/api/studies/1").text]
    assert "postgresql://***:***@nowhere.invalid" in texts[-1]
    assert "hush" not in "".join([*texts, build_report(copied.root).html])


def test_results_deleted_while_open_are_named(copied: Built) -> None:
    client = Client(build_app(find_experiments(copied.root))[0])
    shutil.rmtree(copied.root)
    assert "here are no longer there" in client.get("/api/studies", headers=LOCAL).text
    assert client.get("/attention/", headers=LOCAL).status_code == 200
    for path in ("study/here/hunt", "trial/here/hunt/0", "image/here/hunt/0/0", "picture/here/hunt/0/val/0"):
        answer = client.get(f"/attention/{path}", headers=LOCAL)
        assert answer.status_code == 404
        assert "no study" in answer.text


def test_root_shows_the_database_of_the_experiment_whatever_its_first_study_names(copied: Built) -> None:
    other = copied.root / "other.db"
    open_database(sqlite_url(other), create=True).close()
    first = copied.layout.shared.study("a_first").study_yaml
    first.parent.mkdir()
    text = copied.layout.study_yaml.read_text(encoding="utf-8")
    first.write_text(text.replace("storage: null", f"storage: {sqlite_url(other)}"), encoding="utf-8")
    app, dashboard_of = build_app(find_experiments(copied.root))
    assert dashboard_of == "here"
    (summary,) = json.loads(Client(app).get("/api/studies").text)["study_summaries"]
    assert summary["study_name"] == "hunt"


def test_named_database_is_shown_instead(copied: Built) -> None:
    moved = copied.layout.database.rename(copied.root / "moved.db")
    app, dashboard_of = build_app(find_experiments(copied.root), storage=sqlite_url(moved))
    assert dashboard_of == "here"
    assert len(json.loads(Client(app).get("/api/studies").text)["study_summaries"]) == 1
    assert "Best trial" in build_report(copied.root, storage=sqlite_url(moved)).html


def test_study_whose_server_is_away_is_one_line_of_page_and_report(copied: Built) -> None:
    away = "postgresql://me:hush@127.0.0.1:1/x"
    client = Client(build_app(find_experiments(copied.root), storage=away)[0])
    page, report = client.get("/attention/", headers=LOCAL).text, build_report(copied.root, storage=away).html
    for text in (page, report):
        assert "postgresql://***:***@127.0.0.1:1/x" in text
        assert "hush" not in text


def test_database_of_another_program_is_named(copied: Built) -> None:
    copied.layout.database.unlink()
    with closing(sqlite3.connect(copied.layout.database)) as other:
        other.execute("create table other (x)")
    client = Client(build_app(find_experiments(copied.root))[0])
    assert "another program" in client.get("/attention/study/here/hunt", headers=LOCAL).text
    assert client.get("/", headers=LOCAL).headers["Location"].endswith("/attention/")


def test_server_answers_on_its_port(served: RunningServer) -> None:
    with urllib.request.urlopen(served.url) as answer:
        assert b"Studies" in answer.read()
    assert served.dashboard_of == "here"
    assert served.url.startswith("http://127.0.0.1:")


def test_taken_port_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--port {port} is taken on 127\.0\.0\.1"):
            bind("127.0.0.1", port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_port_is_named(port: int) -> None:
    with pytest.raises(ConfigError, match=str(port)):
        bind("127.0.0.1", port)


def test_address_of_another_machine_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"203\.0\.113\.1"):
        bind("203.0.113.1", 0)


def test_other_host_gets_a_token(built: Built) -> None:
    one = open_server(find_experiments(built.root), host="0.0.0.0", port=0)
    try:
        assert one.token is not None
        assert one.url.endswith(f"?token={one.token}")
    finally:
        one.server.server_close()


def test_server_listens_on_the_loopback_only_by_default(built: Built) -> None:
    one = open_server(find_experiments(built.root), port=0)
    try:
        assert one.token is None
        assert one.server.socket.getsockname()[0] == "127.0.0.1"
        assert one.server.socket.family == socket.AF_INET
    finally:
        one.server.server_close()


def test_a_long_answer_arrives_whole() -> None:
    with serving(answer) as connect:
        assert received(connect(WHOLE)).endswith(b"\r\n\r\n" + b"a" * 200000)


class ClosedBody:
    """An answer that ends once the browser has left."""

    def __init__(self) -> None:
        self.is_under_way, self.has_left, self.is_closed = threading.Event(), threading.Event(), threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        yield b"a"
        self.is_under_way.set()
        self.has_left.wait(20)

    def close(self) -> None:
        self.is_closed.set()


def test_an_answer_is_closed_where_the_browser_resets_the_connection() -> None:
    body = ClosedBody()

    def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "1")])
        return body

    with serving(app) as connect:
        client = connect(WHOLE)
        assert body.is_under_way.wait(20)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a close is now a reset
        client.close()
        body.has_left.set()
        assert body.is_closed.wait(20)


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
