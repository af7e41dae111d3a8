"""The commands that search, apart from what `tests/test_cli_search.py` runs in processes of its own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from attnsearch.cli import _console, main
from attnsearch.config.load import load_study
from tests.conftest import TINY

SMALL = ("--n-trials", "1", "evaluation.n_images=null", "evaluation.scores.n_images=4", "train.epochs=2")


@pytest.mark.slow
def test_demo_ends_with_a_image_and_the_address_of_the_explorer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], private_cache: Path
) -> None:
    assert main(["demo", *TINY, *SMALL, "--workers", "1", "--results", str(tmp_path)]) == 0
    *_, image, explorer, _ = capsys.readouterr().out.splitlines()
    path = Path(image.split()[1])
    assert path == tmp_path / "demo/overview.png"
    with Image.open(path) as image:
        assert image.width > 600
    assert explorer == "  explorer   http://127.0.0.1:8080/attention/study/demo/first_search"


def test_study_of_the_demo_has_two_objectives_and_fine_maps() -> None:
    loaded = load_study("first_search", profile="demo")
    assert set(loaded.study.objectives) == {"val/accuracy", "val/relevance_gain"}
    assert (loaded.experiment.experiment, loaded.experiment.data.name) == ("demo", "synthetic")


@pytest.mark.parametrize("command", ["search", "train", "validate"])
def test_an_option_is_another_way_to_write_its_setting(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    main([command, "cnn", "--profile", "demo", "--seed", "-3"])
    by_option = capsys.readouterr().err
    main([command, "cnn", "--profile", "demo", "seed=-3"])
    assert "seed: " in by_option
    assert capsys.readouterr().err == by_option


def test_commands_to_copy_start_this_python_where_the_shell_finds_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_console.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert _console.program() == ".venv/bin/python -m attnsearch"
    monkeypatch.setattr(sys, "executable", "/opt/my python/bin/python")
    assert _console.program() == "'/opt/my python/bin/python' -m attnsearch"
    monkeypatch.setattr(_console.shutil, "which", lambda name: "/usr/bin/attnsearch")
    assert re.fullmatch("attnsearch", _console.program())
