"""The small files in the folder of a study."""

from __future__ import annotations

import csv
import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import attnsearch
from attnsearch.errors import StoreError
from attnsearch.store.layout import StudyLayout
from attnsearch.store.study_files import (
    describe_environment,
    git_state,
    read_manifest,
    write_classes,
)

SETS = [{"trial": 1, "epoch": 3, "folder": "."}]


def write(layout: StudyLayout, **changes: Any) -> None:
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, "study": "hunt", "sets": SETS, "files": ["a.csv"], **changes}
    layout.published_json.write_text(json.dumps(about), encoding="utf-8")


def test_manifest_is_read_and_none_where_there_is_none(layout: StudyLayout) -> None:
    assert read_manifest(layout) is None
    write(layout)
    found = read_manifest(layout)
    assert found is not None
    assert (found["sets"], found["files"]) == (SETS, ["a.csv"])


@pytest.mark.parametrize(
    "changes",
    [
        {"sets": []},
        {"sets": 3},
        {"sets": [None]},
        {"sets": [{**SETS[0], "trial": "1"}]},
        {"sets": [{**SETS[0], "folder": "../.."}]},
        {"files": ["/etc/passwd"]},
        {"files": None},
    ],
)
def test_damaged_manifest_is_named_with_its_fix(layout: StudyLayout, changes: dict[str, Any]) -> None:
    write(layout, **changes)
    with pytest.raises(StoreError, match=r"published\.json cannot be read \((sets|files).*\), delete it; .*search"):
        read_manifest(layout)


def test_class_names_keep_their_order_and_spelling(tmp_path: Path) -> None:
    names = ("tern, common", "Müller's gull", '"x"', "001")
    write_classes(tmp_path / "classes.csv", names)
    text = (tmp_path / "classes.csv").read_text(encoding="utf-8")
    assert text.startswith('label,class_name\n0,"tern, common"\n')
    assert [row["class_name"] for row in csv.DictReader(text.splitlines())] == list(names)


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package at the top of a clean checkout."""
    folder = tmp_path / "checkout" / "attnsearch"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "-q")
    git(folder.parent, "add", ".")
    git(folder.parent, "commit", "-q", "-m", "x")
    return folder


def test_environment_is_a_whitelist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret-token")
    environment = describe_environment(["NVIDIA H200"])
    text = json.dumps(environment)

    assert set(environment) == {"attnsearch", "python", "system", "packages", "devices", "git"}
    assert environment["attnsearch"] == attnsearch.__version__
    assert environment["python"] == platform.python_version()
    assert environment["devices"] == ["NVIDIA H200"]
    assert "s3cret-token" not in text
    assert os.fspath(Path.cwd()) not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text


def test_package_versions_are_those_installed() -> None:
    import numpy as np
    import optuna

    packages = describe_environment()["packages"]

    assert (packages["numpy"], packages["optuna"]) == (np.__version__, optuna.__version__)


@needs_git
def test_clean_and_dirty_checkouts_are_told_apart(package: Path) -> None:
    commit = git(package, "rev-parse", "HEAD")
    assert git_state(package) == {"commit": commit, "dirty": False}
    (package / "new.py").touch()

    assert git_state(package) == {"commit": commit, "dirty": True}


@needs_git
def test_package_installed_inside_another_checkout_has_no_git_state(package: Path) -> None:
    installed = package.parent / "venv" / "attnsearch"
    installed.mkdir(parents=True)

    assert git_state(installed) is None


def test_folder_outside_any_checkout_has_no_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path / "missing") is None


def test_machine_without_git_has_no_git_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")

    assert describe_environment()["git"] is None
