"""The command `slurm`, with a stand-in for sbatch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from attnsearch.cli import main
from attnsearch.store.layout import StudyLayout
from attnsearch.types import URL_VARIABLE
from tests.search.studies import build_halving

SECRET = "a-secret-of-the-test"
URL = f"postgresql://me:{SECRET}@host/birds"


@pytest.fixture
def begun(tmp_path: Path) -> StudyLayout:
    """A study in a folder whose name a shell would take apart."""
    return build_halving(tmp_path / "it's $HOME; a folder", accuracies=(0.5,))


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which a stand-in for sbatch keeps what it was given."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    lines = ["#!/bin/sh", "cat > script", 'echo "$@" > words', "printenv > environment", "echo 17"]
    program.write_text("\n".join(lines).replace("> ", f"> {tmp_path}/"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return tmp_path


def words(begun: StudyLayout, *more: str) -> list[str]:
    return ["slurm", "hunt", "--results", str(begun.root), "--workers", "3", "--storage", URL, *more]


def test_job_is_submitted_without_the_password(
    begun: StudyLayout, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(begun, "data.root=/data", "--sbatch=--account=a b", "--gpus-per-worker", "0")) == 0
    out = capsys.readouterr().out
    script = (sbatch / "script").read_text()
    assert SECRET not in out + script + (sbatch / "words").read_text()
    assert f"{URL_VARIABLE}={URL}" in (sbatch / "environment").read_text().splitlines()
    assert (sbatch / "words").read_text().split() == ["--parsable", "--export=ALL"]
    assert "job 17: 3 workers of study hunt" in out
    assert "scancel 17" in out
    assert '#SBATCH --account="a b"' in script
    assert "data.root=/data --stop-after 13800s &" in script


def test_script_is_printed_and_not_submitted(
    begun: StudyLayout, sbatch: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(begun, "--print", "--time", "2-0")) == 0
    out = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=out, text=True, check=True, capture_output=True).stderr == ""
    assert '#SBATCH --array="0-2"' in out
    assert SECRET not in out
    assert not (sbatch / "script").exists()


def test_printed_script_runs_the_worker_of_the_study(
    begun: StudyLayout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a stand-in for Python, which ends as a worker that was asked to stop."""
    assert main(words(begun, "--print")) == 0
    script = "\n".join(
        f"exec_words {line.partition(' ')[2]}" if " -m attnsearch " in line else line
        for line in capsys.readouterr().out.splitlines()
    )
    stand_in = 'exec_words() { printf "%s\\n" "$@"; exit 130; }\n'
    environment = {URL_VARIABLE: URL, "SLURM_CPUS_ON_NODE": "4", "PATH": "/bin:/usr/bin"}
    done = subprocess.run(
        ["bash", "-c", stand_in + script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 130, done.stderr
    assert done.stdout.splitlines()[:4] == ["-m", "attnsearch", "worker", str(begun.study_dir)]


def test_script_ends_where_no_database_is_named(begun: StudyLayout, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(begun, "--print")) == 0
    script = capsys.readouterr().out
    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f"{URL_VARIABLE}: set it to the URL" in done.stderr


def test_file_of_sqlite_is_refused(
    begun: StudyLayout, sbatch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(URL_VARIABLE, raising=False)
    assert main(["slurm", "hunt", "--results", str(begun.root), "--workers", "3"]) == 2
    assert "postgresql://" in capsys.readouterr().err
    assert not (sbatch / "script").exists()


def test_refusal_of_sbatch_is_one_line(begun: StudyLayout, sbatch: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (sbatch / "bin" / "sbatch").write_text("#!/bin/sh\necho 'sbatch: error: no such account' >&2\nexit 1\n")
    assert main(words(begun)) == 2
    assert capsys.readouterr().err == "error: sbatch refused the job: sbatch: error: no such account\n"
