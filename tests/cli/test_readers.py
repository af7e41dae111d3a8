"""Looking at a foreign results folder: no reader connects to what it names, or expands a variable in it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from werkzeug.serving import BaseWSGIServer
from werkzeug.test import Client

from attnsearch.cli.app import app, main
from attnsearch.config.load import load_experiment
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
from attnsearch.store import urls
from attnsearch.tasks.classification import LinearHeads
from tests.explorer.built import CLASSES, Built, build
from tests.test_docs import verbs

SECRET = "hunter2-token-of-the-reader"
STARTING = {
    "demo",
    "search",
    "confirm",
    "train",
    "worker",
    "slurm",
    "ray",
    "extend",
    "validate",
    "data make",
    "data check",
    "data organize",
    "data cache",
    "weights import",
}
"""They read what the person who runs them has written, or continue a study of theirs, and no results of others."""
READERS: Mapping[str, tuple[str, ...]] = {
    "list": ("list --json", "list"),
    "show": ("show hunt", "show hunt --json"),
    "status": ("status hunt", "status hunt --json"),
    "evaluate": ("evaluate hunt", "evaluate hunt --trial 0", "evaluate here/hunt/trials/00000/best.safetensors"),
    "faithfulness": ("faithfulness hunt --trial 0",),
    "leakage": ("leakage hunt --trial 0",),
    "confusion": ("confusion hunt", "confusion hunt --trial 0"),
    "retrieval": ("retrieval hunt", "retrieval here/hunt/trials/00000/best.safetensors"),
    "compare": ("compare hunt:0,1",),
    "visualize": ("visualize hunt", "visualize hunt:0 --kind parts"),
    "log": ("log hunt --to tensorboard",),
    "report": ("report --to report.html .",),
    "dashboard": ("dashboard --port 0 .", "dashboard --port 0 --allow-edit ."),
    "export": ("export here --to copy.zip",),
    "prune-files": ("prune-files hunt --yes",),
    "weights export": ("weights export intr hunt out.pth",),
}
PAGES = (
    "/attention/",
    "/attention/study/here/hunt",
    "/attention/api/study/here/hunt",
    "/attention/trial/here/hunt/0",
    "/attention/image/here/hunt/0/0",
    "/attention/picture/here/hunt/0/val/0?px=0",
    "/api/studies",
    "/api/studies/1",
)


@dataclass
class Watch:
    """What was tried while a command ran.

    Attributes:
        asked: names of variables whose values were asked for.
        connections: addresses, and databases other than SQLite.
    """

    asked: set[str] = field(default_factory=set)
    connections: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)


class WatchedEnvironment(dict[str, str]):
    """An environment that notes which names were looked up."""

    def __init__(self, values: Mapping[str, str], asked: set[str]) -> None:
        super().__init__(values)
        self.asked = asked

    def __getitem__(self, name: str) -> str:
        self.asked.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary."""
        self.asked.add(name)
        return super().get(name, default)


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """A server on a free port of this machine that notes who comes, and answers nobody."""
    with closing(socket.create_server(("127.0.0.1", 0))) as one:
        one.setblocking(False)
        yield one


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory, listener: socket.socket) -> Built:
    """Results of somebody else, whose files name a server and variables wherever they can."""
    built = build(tmp_path_factory.mktemp("foreign"))
    port = listener.getsockname()[1]
    storage = f"postgresql://${{MY_SECRET_TOKEN}}:x@127.0.0.1:{port}/${{HOME}}"
    change(built.layout.study_yaml, "storage: null", f"storage: {storage}")
    for number in range(3):
        change(built.layout.trial(number).config, str(built.data_root), "$MY_SECRET_TOKEN/${HOME}")
    change(built.layout.study_yaml, str(built.data_root), "$MY_SECRET_TOKEN/${HOME}")
    config = load_experiment(str(built.layout.trial(0).config))
    model = build_model(config.model, LinearHeads(len(CLASSES)), load_weights=False)
    kept = {"class_names": CLASSES, "epoch": 3, "accumulation": 1, "val_hash": "split-a"}
    for number in range(3):
        write_model_checkpoint(
            ModelCheckpoint(built.layout.trial(number).best, config=config, **kept, state=model.state_dict())  # type: ignore[arg-type]
        )
    return built


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watched = Watch()

    def connect(_socket: socket.socket, address: object) -> None:
        watched.connections.append(str(address))
        raise ConnectionRefusedError(str(address))

    def do_connect(dialect: Any, _record: object, arguments: Any, settings: Any) -> None:
        if dialect.name != "sqlite":
            watched.connections.append(f"{dialect.name} {arguments} {settings}")

    def serve(server: BaseWSGIServer, poll_interval: float = 0.5) -> None:
        client = Client(server.app)
        for page in PAGES:
            answer = client.get(page, headers={"Host": "localhost"})
            watched.pages.append(answer.headers.get("Content-Type", "") + answer.get_data().decode(errors="replace"))

    monkeypatch.setenv("MY_SECRET_TOKEN", SECRET)
    monkeypatch.setattr(os, "environ", WatchedEnvironment(os.environ, watched.asked))
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(BaseWSGIServer, "serve_forever", serve)
    monkeypatch.setattr(urls, "_hidden", {})
    event.listen(Engine, "do_connect", do_connect)
    yield watched
    event.remove(Engine, "do_connect", do_connect)


def has_come(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def test_every_command_is_known_to_read_results_or_not() -> None:
    """A new command must be added to one of the two lists of this file."""
    assert set(verbs(app)) == STARTING | set(READERS)


@pytest.mark.slow
@pytest.mark.parametrize("words", [words for reader in READERS.values() for words in reader])
def test_reader_connects_nowhere_and_expands_nothing(
    words: str,
    foreign: Built,
    listener: socket.socket,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(foreign.root)
    caplog.set_level(logging.DEBUG)
    takes_folder = words.split()[0] not in ("report", "dashboard")
    main([*words.split(), *(["--results", "."] if takes_folder else [])])
    shown = capsys.readouterr()
    assert "unexpected" not in shown.err
    assert not has_come(listener)
    assert watch.connections == []
    assert "MY_SECRET_TOKEN" not in watch.asked
    texts = [shown.out, shown.err, caplog.text, *watch.pages]
    texts += [path.read_text(errors="replace") for path in Path().rglob("*") if path.is_file()]
    assert not [text for text in texts if SECRET in text]
    assert bool(watch.pages) == words.startswith("dashboard")
