"""The command `dashboard`: where it listens, what it says, how it refuses."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.explorer.server import bind
from tests.explorer.built import build


def test_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path / "absent")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "absent is not a folder" in line


@pytest.mark.parametrize("verb", ["dashboard", "report"])
def test_no_results_here_is_one_line(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([verb]) == 2
    assert (
        capsys.readouterr().err
        == f"error: there is no folder {tmp_path}/results; go to where you searched, or name it\n"
    )


def test_a_name_is_an_experiment_before_it_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(tmp_path, n_trials=1)
    monkeypatch.chdir(tmp_path)
    (experiment,) = {path.parent.parent.name for path in built.root.glob("*/*/trials")}
    Path(experiment).mkdir()  # such as the images that an experiment is named after
    assert main(["report", experiment]) == 0
    assert (built.root / experiment / "report.html").is_file()


def test_folder_without_studies_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path)]) == 1
    assert "holds no study and no run" in capsys.readouterr().err


def test_taken_port_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = build(tmp_path, n_trials=1)
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main(["dashboard", str(built.root), "--port", str(port)]) == 2
    assert f"--port {port} is taken" in capsys.readouterr().err


@pytest.mark.slow
def test_it_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1)
    command = [sys.executable, "-m", "attnsearch", "dashboard", str(built.root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[-1]
        with urllib.request.urlopen(url) as answer:
            assert b"hunt" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0  # Ctrl-C is how a server is meant to end


@pytest.mark.slow
def test_another_host_is_warned_about_and_asks_for_a_token(tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1)
    command = [sys.executable, "-m", "attnsearch", "dashboard", str(built.root), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        warning, address = process.stdout.readline(), process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert warning.startswith("warning: 0.0.0.0 can be reached from other machines")
    assert "?token=" in address
