"""A logger that is slow, silent or broken costs a trial nothing but a sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from attnsearch.loggers import process
from attnsearch.loggers.base import LoggedRun
from attnsearch.loggers.process import LoggedSoFar, LoggerProcess, log_all, serve

RUN = LoggedRun("here", "hunt", 3, "0a1b2c3d-00003", {"seed": 1})
HANGING = "import time; time.sleep(600)"


def logger_that(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> LoggerProcess:
    """A logger whose process runs some code."""

    def start(self: LoggerProcess) -> subprocess.Popen[str]:
        streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": self._errors}
        return subprocess.Popen([sys.executable, "-c", code], text=True, **streams)

    monkeypatch.setattr(LoggerProcess, "_start", start)
    return LoggerProcess("mlflow", folder)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (HANGING, "it did not end within 1 s and was killed"),
        ("import sys; print('OSError: no space left', file=sys.stderr); sys.exit(1)", "OSError: no space left"),
        ("import os; os._exit(7)", "it ended with exit code 7"),
    ],
    ids=["hangs", "fails", "dies"],
)
def test_what_fails_becomes_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, problem: str
) -> None:
    logger = logger_that(monkeypatch, tmp_path, code)
    logger.start_run(RUN)
    for epoch in range(1, 100):
        logger.log_epoch(epoch, {"val/accuracy": 0.5})
    patience_s = 1 if code == HANGING else 60
    assert problem in logger.close(patience_s=patience_s)


def test_slow_logger_drops_messages_and_nobody_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "MAX_WAITING", 5)
    logger = logger_that(monkeypatch, tmp_path, HANGING)
    many = {f"val/metric_{index}": 0.5 for index in range(10_000)}  # more than a pipe holds
    for epoch in range(1, 51):
        logger.log_epoch(epoch, many)
    assert "messages were dropped, as it is slow" in logger.close(patience_s=1)


def test_folder_that_cannot_be_made_and_missing_package_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    blocked = LoggerProcess("mlflow", tmp_path / "file" / "mlflow")
    blocked.start_run(RUN)
    assert "StoreError" in blocked.close(patience_s=60)
    monkeypatch.setattr("attnsearch.loggers.base.find_spec", lambda _name: None)
    missing = LoggerProcess("mlflow", tmp_path / "mlflow")
    assert "pip install 'attnsearch[mlflow]'" in missing.close(patience_s=60)


class FakeWriter:
    """Writes down what it hears; fails at some epochs."""

    heard: list[Any]

    def __init__(self, fails_at: int | None = None) -> None:
        self.heard, self._fails_at = [], fails_at

    def log_epoch(self, epoch: int, values: dict[str, float]) -> None:
        if epoch == self._fails_at:
            raise OSError("no space left\nat all")
        self.heard.append((epoch, values))

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        self.heard.append((name, png, epoch))

    def end(self, state: str, values: dict[str, float], *, epoch: int) -> None:
        self.heard.append((state, values, epoch))

    def close(self) -> None:
        self.heard.append("closed")


def messages(n_epochs: int, *, number: int = 3) -> list[dict[str, Any]]:
    run = {"experiment": "here", "study": "hunt", "number": number, "key": "k", "settings": {}}
    epochs = [{"epoch": epoch, "values": {"val/accuracy": epoch / 4}} for epoch in range(1, n_epochs + 1)]
    return [{"run": run}, *epochs]


END = {"end": "complete", "values": {"val/accuracy": 0.5}, "epoch": 2, "images": {"overlays": "aGk="}}


def test_runs_are_written_one_after_the_other_and_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened: list[FakeWriter] = []

    def open_fake(*_arguments: object) -> FakeWriter:
        opened.append(FakeWriter())
        return opened[-1]

    monkeypatch.setattr(process, "writer_for", open_fake)
    log_all("mlflow", tmp_path, messages(1))
    log_all("mlflow", tmp_path, [*messages(2), END, *messages(1, number=4)])
    log_all("mlflow", tmp_path, [*messages(3), END])  # has ended: not even opened
    assert [writer.heard for writer in opened] == [
        [(1, {"val/accuracy": 0.25}), "closed"],
        [(2, {"val/accuracy": 0.5}), ("overlays", b"hi", 2), ("complete", {"val/accuracy": 0.5}, 2), "closed"],
        [(1, {"val/accuracy": 0.25}), "closed"],
    ]


def test_error_of_a_package_is_the_last_line_and_what_was_logged_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(process, "writer_for", lambda *_arguments: FakeWriter(fails_at=2))
    with tempfile.TemporaryFile("w+") as file:
        file.write("\n".join(map(json.dumps, messages(3))))
        file.seek(0)
        monkeypatch.setattr(sys, "stdin", file)
        assert serve("mlflow", str(tmp_path)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "OSError: no space left"
    assert LoggedSoFar(tmp_path, 3).epoch == 1
