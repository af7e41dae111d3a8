"""The scripts: short, without surprises, and true to their usage lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from attnsearch.config.yaml_reader import list_names

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


@pytest.mark.parametrize(
    "words",
    [
        "train.sh --demo, or bash shell/train.sh NAME",
        "get_dauc_scores.sh NAME",
        "get_iauc_scores.sh NAME",
        "process_results.sh EXP",
    ],
)
def test_scripts_without_a_name_show_their_usage(tmp_path: Path, words: str) -> None:
    done = run(ROOT / "shell" / words.split()[0], cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: bash shell/{words}")


def test_missing_environment_is_named(tmp_path: Path) -> None:
    done = run(ROOT / "shell/test.sh", cwd=tmp_path, ATTNSEARCH_VENV="/no/such/venv")
    assert done.returncode == 2
    assert done.stderr == "error: ATTNSEARCH_VENV has no bin/python: /no/such/venv\n"


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--demo"]])
def test_unknown_name_lists_the_known_ones(tmp_path: Path, options: list[str]) -> None:
    done = run(ROOT / "shell/train.sh", "xyzzy", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: unknown name 'xyzzy'; known: {', '.join(list_names('studies'))}\n"


@pytest.mark.slow
def test_an_environment_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    folder = Path(sys.prefix)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("lib/python*/site-packages/*"))
    done = run(ROOT / "shell/test.sh", "--collect-only", "-q", str(ROOT / "tests/test_geometry.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / ".venv").exists()
    after = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("lib/python*/site-packages/*"))
    assert [name for name, _ in before] == [name for name, _ in after]


FAKE_PYTHON = """\
#!/usr/bin/env bash
echo "$0 $*" >>"$LOG"
if [[ "$1 $2" == "-m venv" ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


def test_first_use_sets_up_and_the_second_is_quick(tmp_path: Path) -> None:
    """A stand-in for Python writes down what it is asked."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/python3"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)
    checkout, log = tmp_path / "checkout", tmp_path / "log"
    shutil.copytree(ROOT / "shell", checkout / "shell")
    (checkout / "setup.cfg").write_text("[metadata]\n")
    settings = {"PATH": f"{fake.parent}:{os.environ['PATH']}", "LOG": str(log), "ATTNSEARCH_VENV": ""}

    def asked(script: str = "train.sh", *words: str) -> list[str]:
        log.write_text("")
        words = words or ("cnn", "--demo", "n_trials=1")
        done = run(checkout / "shell" / script, *words, cwd=tmp_path, **settings)
        assert done.returncode == 0, done.stderr
        return [" ".join(line.split()[1:]) for line in log.read_text().splitlines()]

    search = "-m attnsearch search cnn --profile demo n_trials=1"
    install = "-m pip install --disable-pip-version-check --editable ."
    assert asked() == ["-m venv .venv", install, search]
    assert asked() == [search]
    (checkout / "setup.cfg").write_text("[metadata]\nname = changed\n")
    assert asked() == ["-m venv .venv", install, search]
    assert asked("train.sh", "--demo") == ["-m attnsearch demo"]
    assert asked("train.sh", "--demo", "n_trials=1", "--json") == ["-m attnsearch demo n_trials=1 --json"]
    assert asked("train.sh", "--demo", "cnn") == ["-m attnsearch search --profile demo cnn"]
    tests = asked("test.sh", "-q")
    assert tests[:2] == ["-m venv .venv", f"{install}[test]"]
    assert asked("test.sh", "-q") == tests[2:]
