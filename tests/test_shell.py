"""The scripts: short, without surprises, and true to their usage lines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnsearch.config.load import names

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = [*sorted((ROOT / "shell").rglob("*.sh")), ROOT / ".ci/run"]


def run(*words: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script with this test's own Python environment."""
    settings = {**os.environ, "ATTNSEARCH_VENV": sys.prefix, **environment}
    return subprocess.run(["bash", *words], cwd=cwd, env=settings, capture_output=True, text=True, check=False)


def test_scripts_are_found() -> None:
    assert {path.name for path in SCRIPTS} >= {"train.sh", "test.sh", "check.sh", "setup.sh", "run"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_script_parses_is_short_and_stops_at_errors(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert lines[1].startswith("# ")
    assert "set -euo pipefail" in lines
    assert len(lines) <= 30


def test_scripts_without_a_name_show_their_usage(tmp_path: Path) -> None:
    done = run(ROOT / "shell/train.sh", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: bash shell/train.sh NAME")


def test_missing_environment_is_named(tmp_path: Path) -> None:
    done = run(ROOT / "shell/test.sh", cwd=tmp_path, ATTNSEARCH_VENV="/no/such/venv")
    assert done.returncode == 2
    assert done.stderr == "error: ATTNSEARCH_VENV has no bin/python: /no/such/venv\n"


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--demo"]])
def test_unknown_name_lists_the_known_ones(tmp_path: Path, options: list[str]) -> None:
    done = run(ROOT / "shell/train.sh", "xyzzy", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: unknown name 'xyzzy'; known: {', '.join(names('studies'))}\n"


@pytest.mark.slow
def test_an_environment_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    folder = Path(sys.prefix)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("lib/python*/site-packages/*"))
    done = run(ROOT / "shell/test.sh", "--collect-only", "-q", str(ROOT / "tests/test_geometry.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".venv").exists()
    after = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("lib/python*/site-packages/*"))
    assert [name for name, _ in before] == [name for name, _ in after]
