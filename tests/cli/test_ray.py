"""The command `ray`, with a played cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from attnsearch.cli import main
from attnsearch.errors import SearchStopped
from attnsearch.search.launchers import ray as launcher
from attnsearch.search.launchers.ray import RayRequest
from attnsearch.store.layout import StudyLayout
from attnsearch.types import URL_VARIABLE
from tests.search.studies import build_halving


@pytest.fixture
def begun(tmp_path: Path) -> StudyLayout:
    return build_halving(tmp_path / "results", accuracies=(0.5,))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a cluster was asked for, in place of one."""
    found: dict[str, Any] = {}

    @contextmanager
    def connect(address: str | None) -> Iterator[None]:
        found["address"] = address
        yield

    def run(request: RayRequest, *, should_stop: Callable[[], bool], tick: Callable[[object], None]) -> None:
        found["request"] = request
        assert not should_stop()
        if "error" in found:
            raise found["error"]

    for name in (URL_VARIABLE, "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launcher, "connected", connect)
    monkeypatch.setattr(launcher, "run_on_ray", run)
    return found


def words(begun: StudyLayout, *more: str) -> list[str]:
    return ["ray", "hunt", "--results", str(begun.root), "--workers", "3", *more]


def test_parts_of_gpus_are_asked_for(
    begun: StudyLayout, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    url = "postgresql://host/birds"
    more = ("--gpus-per-worker", "0.5", "--cpus-per-worker", "2", "--address", "head:6379", "--storage", url)
    assert main(words(begun, "data.root=/data", *more)) == 0
    command = ("-m", "attnsearch", "worker", str(begun.study_dir), "data.root=/data")
    assert asked == {"address": "head:6379", "request": RayRequest(begun, command, url, 3, 0.5, 2.0)}
    assert f"attnsearch show {begun.study_dir}" in capsys.readouterr().out


def test_one_machine_needs_no_server(begun: StudyLayout, asked: dict[str, Any]) -> None:
    assert main(words(begun)) == 0
    assert asked["address"] is None
    assert asked["request"].storage is None


def test_a_cluster_needs_one(
    begun: StudyLayout, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert main(words(begun)) == 2
    assert "postgresql://" in capsys.readouterr().err
    assert asked == {}


def test_error_of_the_workers_is_one_line(
    begun: StudyLayout, asked: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked["error"] = SearchStopped("all workers ended with an error")
    assert main(words(begun)) == 1
    assert capsys.readouterr().err == "error: all workers ended with an error\n"
