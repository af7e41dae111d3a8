"""A dry run: short trials in processes of their own, what is refused, and that nothing is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest

from attnsearch.cli.app import main
from attnsearch.config.load import LoadedStudy
from attnsearch.errors import ConfigError, OutOfMemory, StoreError
from attnsearch.search import forecast as module
from attnsearch.search.costs import TrialCost
from attnsearch.search.extremes import Setting
from attnsearch.search.forecast import forecast, require_memory
from attnsearch.search.plan import SearchPlan
from tests.conftest import TINY
from tests.search.studies import loaded_study, plan_of
from tests.search.test_costs import trial_cost


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SearchPlan:
    """A plan that needs no data, and passes for the checked one of every study."""
    planned = plan_of(loaded_study(), tmp_path / "results")
    monkeypatch.setattr(SearchPlan, "check", lambda loaded, root: planned)
    return planned


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is measured, at a known cost: the settings of each round."""
    rounds: list[list[str]] = []

    def play(_self: object, settings: Sequence[Setting], *, n_parallel: int) -> list[TrialCost]:
        rounds.append([one.description for one in settings])
        return [trial_cost(settings=one.settings) for one in settings]

    monkeypatch.setattr(module._Measurements, "_measure", play)
    return rounds


def test_largest_setting_is_measured_first_and_alone(plan: SearchPlan, asked: list[list[str]], tmp_path: Path) -> None:
    found = forecast(plan.loaded, tmp_path, n_workers=2)
    assert len(asked[0]) == 1
    assert found.largest.settings["train.optimizer.name"] == "adam"
    assert len(found.draws) == module.N_DRAWS
    assert len(asked[1]) == module.N_DRAWS  # the smallest needs as much as the largest here
    assert not plan.layout.root.exists()


def test_equal_settings_are_measured_once(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan_of(loaded_study(space={}), tmp_path)
    monkeypatch.setattr(SearchPlan, "check", lambda loaded, root: planned)
    found = forecast(planned.loaded, tmp_path, n_workers=1)
    assert asked == [["the base"]]
    assert found.draws == (found.largest,) == (found.smallest,)


def test_too_little_disk_is_refused_with_the_numbers(
    plan: SearchPlan, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "free_bytes", lambda path: 100)
    with pytest.raises(StoreError, match=r"hunt: 4 trials \(n_trials\) need up to 0\.00 GB.*0\.00 GB are free"):
        forecast(plan.loaded, tmp_path, n_workers=1)
    needed = 3 * (100 + 10 + 2 + 5 + 1) + 100 + 1 + 2 * 300  # see `BYTES`
    monkeypatch.setattr(module, "free_bytes", lambda path: needed)
    assert forecast(plan.loaded, tmp_path, n_workers=1).disk.peak == needed


def test_what_a_study_has_written_is_not_needed_again(
    plan: SearchPlan, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.layout.study_dir.mkdir(parents=True)
    (plan.layout.study_dir / "trial").write_bytes(b"x" * 1055)
    monkeypatch.setattr(module, "free_bytes", lambda path: 0)
    assert forecast(plan.loaded, tmp_path, n_workers=1).disk.peak == 1055


def test_too_little_memory_is_refused_before_the_other_settings(
    plan: SearchPlan, asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "anonymous_mb", lambda: 0.0)
    monkeypatch.setattr(module, "memory_bytes", lambda: 1999)
    with pytest.raises(ConfigError, match="n_workers: 2 workers of up to"):
        forecast(plan.loaded, tmp_path, n_workers=2)
    assert len(asked) == 1
    monkeypatch.setattr(module, "memory_bytes", lambda: 2000)
    assert forecast(plan.loaded, tmp_path, n_workers=2).memory_bytes == 1000


def test_a_gpu_that_is_too_small_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs 90\.0 GB of a GPU that has 80\.0 GB"):
        require_memory(trial_cost(gpu_bytes=90 * 10**9, gpu_total_bytes=80 * 10**9), n_workers=1)


@pytest.mark.parametrize("error", [OutOfMemory("tried 9 GB"), BrokenProcessPool("killed")])
def test_a_setting_that_runs_out_of_memory_is_named(
    error: Exception, plan: SearchPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_order: object) -> TrialCost:
        raise error

    monkeypatch.setattr(module, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(module, "measure_trial", fail)
    with pytest.raises(ConfigError, match=r"space: .*train\.optimizer\.name=adam.*lower train\.batch_size"):
        forecast(plan.loaded, tmp_path, n_workers=1)


class InThisProcess:
    """A pool that runs what it gets at once."""

    def __init__(self, n_workers: int, **settings: object) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> InThisProcess:
        return self

    def __exit__(self, *arguments: object) -> None:
        return None

    def shutdown(self, *, cancel_futures: bool) -> None:
        assert cancel_futures

    def submit(self, run: object, order: object) -> InThisProcess:
        self.run, self.order = run, order
        return self

    def result(self) -> object:
        return self.run(self.order)  # type: ignore[operator]


def tiny_study(tmp_path: Path) -> list[str]:
    return [
        *("search", "br_npa_low_res", "--profile", "demo", *TINY, "n_trials=2", "n_workers=1"),
        *("enqueue=[]", "evaluation.scores.n_images=8", "--results", str(tmp_path / "results")),
    ]


@pytest.mark.slow
def test_dry_run_measures_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_study(tmp_path), "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "results").exists()
    assert (found["study"], found["n_trials"], found["n_workers"], len(found["draws"])) == ("br_npa_low_res", 2, 1, 4)
    assert found["largest"]["epochs"] == 2
    assert set(found["total"]) == {"seconds", "processor_seconds"}
    assert 0 < found["trial"]["processor_seconds"] < found["total"]["processor_seconds"]
    assert found["memory_bytes"] > 10**8
    disk = found["disk"]
    assert disk["peak"] > disk["left"] > disk["weights"] > 10**5
    assert min(disk.values()) > 0


def test_a_refused_study_is_one_line(
    plan: SearchPlan, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "memory_bytes", lambda: 1)
    assert main(["search", "br_npa_low_res", "--profile", "demo", "--dry-run"]) == 2
    assert "\nerror: n_workers: 1 workers" in capsys.readouterr().err


def test_trials_of_a_repeated_study_are_measured_at_its_settings(
    asked: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [{"train.batch_size": 4}, {"train.batch_size": 8}]
    repeat = {"name": "repeat", "trials": [3, 5], "settings": settings}
    loaded: LoadedStudy = loaded_study(space={}, sampler=repeat, n_trials=4)
    planned = plan_of(loaded, tmp_path)
    monkeypatch.setattr(SearchPlan, "check", lambda loaded, root: planned)
    found = forecast(loaded, tmp_path, n_workers=1)
    assert [one.settings for one in found.draws] == settings
    assert (found.largest.settings, found.smallest.settings) == (settings[1], settings[0])
    assert replace(found).disk.published == 0
