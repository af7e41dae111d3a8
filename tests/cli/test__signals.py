"""What Ctrl-C and SIGTERM do to a command, from its first moment on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from attnsearch import __main__ as entry
from attnsearch.cli import list as listing
from attnsearch.cli import main
from attnsearch.cli._signals import interruptible
from attnsearch.errors import INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]
MODULE = (sys.executable, "-m", "attnsearch")
SCRIPT = (sys.executable, "-c", "import sys; from attnsearch.__main__ import main; sys.exit(main())")


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
def test_a_signal_in_the_first_second_ends_it_with_one_line(
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
    assert (process.returncode, said) == (INTERRUPTED, "interrupted\n")
    assert list(tmp_path.iterdir()) == []
