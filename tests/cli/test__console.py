"""What commands print and log, and what Ctrl-C and SIGTERM do to them from their first moment on."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from attnsearch import __main__ as entry
from attnsearch.cli import list as listing
from attnsearch.cli import main
from attnsearch.cli._console import (
    StopRequest,
    interruptible,
    libraries_to_stderr,
    logging_to_stderr,
    number,
    print_json,
    print_line,
    print_table,
    signals_to,
    size,
)
from attnsearch.errors import INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]
MODULE = (sys.executable, "-m", "attnsearch")
SCRIPT = (sys.executable, "-c", "import sys; from attnsearch.__main__ import main; sys.exit(main())")


def test_what_libraries_print_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with libraries_to_stderr():
        print("`Eva` has no attribute `q_bias`")
        print_json({"loss": float("nan")})
        print_table(("metric",), [("accuracy",)])
    print_line("afterwards")
    shown = capsys.readouterr()
    assert shown.err == "`Eva` has no attribute `q_bias`\n"
    assert [line.strip() for line in shown.out.split("\n") if line.strip("\u2500 ")] == [
        '{"loss": null}',
        "metric",
        "accuracy",
        "afterwards",
    ]


def test_json_lines_of_a_verb_stay_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def known_files() -> list[dict[str, str]]:
        print("a line of timm")
        return [{"name": "cnn", "kind": "config", "file": "cnn.yaml"}]

    monkeypatch.setattr(listing, "known_files", known_files)
    assert main(["list", "--results", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == ["cnn"]
    assert "a line of timm" in shown.err


class FullDisk(io.StringIO):
    """The log of a worker whose disk is full."""

    refused = ""

    def write(self, text: str) -> int:
        self.refused += text
        raise OSError(errno.ENOSPC, "No space left on device")


def test_log_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FullDisk()
    monkeypatch.setattr(sys, "stderr", log)
    with logging_to_stderr():
        logging.getLogger("attnsearch.search").warning("trial 3 returns to the queue")
    assert "trial 3 returns to the queue" in log.refused


def test_log_is_lines_with_utc_times(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        logging.getLogger("attnsearch.search").info("trial %d ended", 3)
    time, level, rest = capsys.readouterr().err.split(maxsplit=2)
    assert time.endswith("Z")
    assert (level, rest) == ("INFO", "trial 3 ended\n")


CASES: list[tuple[Callable[[Any], str], float | None, str]] = [
    (number, 0.123456, "0.1235"),
    (number, float("nan"), "-"),
    (number, None, "-"),
    (size, 1500, "1.5 KB"),
    (size, 2_500_000, "2.5 MB"),
    (size, 3_210_000_000, "3.21 GB"),
]


@pytest.mark.parametrize(("form", "value", "text"), CASES)
def test_numbers_are_short(form: Callable[[Any], str], value: float | None, text: str) -> None:
    assert form(value) == text


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_first_signal_asks_and_second_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    stop = StopRequest("stopping: wait", clock=clock)
    assert not stop.is_asked()
    with signals_to(stop.take):
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_asked()
        assert stop.is_asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert caplog.messages == ["stopping: wait"]


@pytest.mark.parametrize("polled_s_ago", [6.0, None])
def test_signal_ends_at_once_while_nobody_can_stop_cleanly(polled_s_ago: float | None) -> None:
    clock = Clock()
    stop = StopRequest("stopping", clock=clock)
    if polled_s_ago is not None:
        stop.is_asked()
        clock.now += polled_s_ago
    with signals_to(stop.take), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals_to(StopRequest("stopping").take):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_both_modules_end_with_the_same_code() -> None:
    assert entry._INTERRUPTED == INTERRUPTED


def test_the_installed_command_is_the_entry_that_heeds_signals_first() -> None:
    assert "attnsearch = attnsearch.__main__:main" in (ROOT / "setup.cfg").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_verb_with_one_line(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "known_files", lambda: signal.raise_signal(number))
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert main(["list", "--results", str(tmp_path)]) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_signal_that_a_script_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def heeds_signals(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells when a process heeds signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("start", "after_s"), [(MODULE, 0.0), (MODULE, 0.1), (SCRIPT, 0.2), (SCRIPT, 0.4), (MODULE, 0.6), (SCRIPT, 0.9)]
)
def test_a_signal_in_the_first_second_ends_it_in_plain_words(
    start: tuple[str, ...], after_s: float, number: signal.Signals, tmp_path: Path
) -> None:
    """The time counts from when Python runs the first line of the package; before it nothing can be heeded."""
    command = [*start, "train", "cnn", "--profile", "demo"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not heeds_signals(process.pid):
            assert process.poll() is None
        with suppress(subprocess.TimeoutExpired):
            process.wait(after_s)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    lines = [line for line in said.splitlines() if not line.startswith("checking cnn, data synthetic")]
    assert (process.returncode, lines[0]) == (INTERRUPTED, "interrupted")
    assert lines[1:] in ([], ["to continue: attnsearch train cnn --profile demo"])  # none before the command is read
    assert list(tmp_path.iterdir()) == []
