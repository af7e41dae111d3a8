"""Which studies workers can be placed for."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.cli import main


@pytest.mark.parametrize("command", ["slurm", "ray"])
def test_study_that_was_not_begun_names_the_command_that_begins_it(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "birds", "--workers", "2", "--results", str(tmp_path)]) == 2
    assert "search STUDY --create-only" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["slurm", "ray"])
def test_run_of_version_0_1_has_no_workers(command: str, old_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "here/one", "--workers", "2", "--results", str(old_results)]) == 2
    assert "version 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["slurm", "ray"])
def test_number_of_workers_is_checked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "birds"]) == 2
    assert main([command, "birds", "--workers", "0"]) == 2
    assert "--workers must be" in capsys.readouterr().err
