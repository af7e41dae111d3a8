"""Loggers hear of each epoch after database and CSV, once, and no problem of theirs touches a trial."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from attnsearch.config.load import LoadedStudy, load_study
from attnsearch.metrics.registry import is_score
from attnsearch.results.reader import load_study as read_study
from attnsearch.results.trial import TrialReader
from attnsearch.search import logs
from attnsearch.search.context import SearchContext, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.logs import TrialLog
from attnsearch.search.plan import layout_of
from attnsearch.search.queue import claim_next
from attnsearch.search.run import run_study
from attnsearch.search.space import trial_experiment
from attnsearch.testing.store_contract import epoch_record
from tests.loggers.reading import read_back
from tests.loggers.test_logger_contract import single
from tests.search.studies import EXPERIMENT, SPACE


class FakeProcess:
    """Stands for the process of a logger, and writes down what it hears and how far database and CSV are then."""

    started: list[FakeProcess]
    is_broken = False
    problem = ""
    look: Callable[[int], Any] = staticmethod(lambda _number: None)

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.heard: list[Any] = []
        self.started.append(self)

    def start_run(self, run: Any) -> None:
        self.run = run

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        if self.is_broken:
            raise RuntimeError("no server")
        self.heard.append((epoch, dict(values), type(self).look(self.run.number)))

    def end_run(self, state: str, values: Mapping[str, float], *, epoch: int, images: Mapping[str, bytes]) -> None:
        self.heard.append((state, dict(values), epoch, sorted(images)))

    def close(self, *, patience_s: float | None) -> str:
        return self.problem


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeProcess]:
    class Fake(FakeProcess):
        started: ClassVar = []

    monkeypatch.setattr(logs, "LoggerProcess", Fake)
    return Fake


def study_with(*names: str, **fields: Any) -> LoadedStudy:
    base = {**EXPERIMENT, "runtime": {"loggers": list(names)}}
    return load_study({"name": "hunt", "base": base, "space": SPACE, "n_trials": 2, **fields})


def searched(root: Path, loaded: LoadedStudy, **settings: Any) -> Any:
    run_study(loaded, root=root, n_workers=0, **settings)
    return read_study(layout_of(loaded, root).study_dir)


def measured_in(trial: TrialReader) -> dict[int, dict[str, float]]:
    """What training has measured of each epoch, by the database; scores are added to the best epoch at the end."""
    rows = trial.epochs.T.to_dict().items()
    return {
        int(str(epoch)): {str(key): value for key, value in row.items() if not is_score(str(key).partition("/")[2])}
        for epoch, row in rows
    }


def without(names: tuple[str, ...], values: list[list[Any]]) -> list[list[Any]]:
    return [one for one in values if not one[1].endswith(names)]


def test_loggers_hear_the_numbers_of_the_database_after_it_and_the_csv(fake: type[FakeProcess], tmp_path: Path) -> None:
    loaded = study_with("mlflow", "wandb")
    layout = layout_of(loaded, tmp_path)

    def epochs_there(number: int) -> tuple[int, int]:
        in_csv = len(layout.trial(number).epochs_csv.read_text().splitlines()) - 1
        return len(read_study(layout.study_dir).trial(number).epochs), in_csv

    fake.look = staticmethod(epochs_there)
    study = searched(tmp_path, loaded)
    assert [(one.name, one.run.number) for one in fake.started] == [
        ("mlflow", 0), ("wandb", 0), ("mlflow", 1), ("wandb", 1),
    ]  # fmt: skip
    assert fake.started[1].folder == layout.study_dir / "logs/wandb"
    for process in fake.started:
        trial = study.trial(process.run.number)
        stored = measured_in(trial)
        *epochs, end = process.heard
        assert {epoch: values for epoch, values, _ in epochs} == stored
        assert [there for _, _, there in epochs] == [(1, 1), (2, 2)]
        assert end == ("complete", dict(trial.row.metrics), trial.row.best_epoch, ["overlays"])
        assert process.run.settings["train.optimizer.lr"] == trial.params["train.optimizer.lr"]


def test_problems_of_loggers_are_one_warning_for_each_trial(
    fake: type[FakeProcess], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.problem = "it did not end within 60 s and was killed"
    with caplog.at_level(logging.WARNING):
        study = searched(tmp_path, study_with("mlflow"))
    assert [row.state for row in study.rows.trials] == ["complete", "complete"]
    warnings = [record.getMessage() for record in caplog.records if "logged" in record.getMessage()]
    assert warnings == [f"trial {number}: not all of it was logged by mlflow: {fake.problem}" for number in (0, 1)]


def test_exception_in_a_logger_ends_no_trial(
    fake: type[FakeProcess], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake.is_broken = True
    with caplog.at_level(logging.WARNING):
        study = searched(tmp_path, study_with("mlflow", n_trials=1))
    assert [row.state for row in study.rows.trials] == ["complete"]
    assert [record.getMessage() for record in caplog.records if "loggers" in record.getMessage()] == [
        "trial 0: loggers cannot hear of an epoch: no server"
    ]


def test_study_without_loggers_starts_none_and_is_the_same_study(fake: type[FakeProcess], tmp_path: Path) -> None:
    searched(tmp_path, study_with(n_trials=1))
    assert fake.started == []
    assert study_with("mlflow").experiment.digest() == study_with().experiment.digest()
    run_study(study_with("mlflow", n_trials=1), root=tmp_path, n_workers=0)  # is not refused as another one


def test_attempt_that_continues_a_trial_and_a_server_that_is_away(
    open_tiny: Callable[..., StudyHandle], fake: type[FakeProcess]
) -> None:
    """What waits for the server is heard once it is written; a trial that has not ended is not said to have."""
    handle = open_tiny()
    claim = claim_next(handle, Worker("here:1:a", None))
    assert not isinstance(claim, str)
    config = trial_experiment(claim.trial, handle.loaded)
    runtime = config.runtime.model_copy(update={"loggers": ("mlflow",)})
    log = TrialLog(handle, claim.trial)
    context = SearchContext(handle, Worker("here:1:a", None), claim, seed=1, log=log)
    context.begin(config.model_copy(update={"runtime": runtime}))
    records = [epoch_record(1, "val", accuracy=0.5), epoch_record(2, "val", accuracy=0.75)]
    for n_epochs in (1, 2):
        context.record(records[:n_epochs])
        context.report(records[n_epochs - 1].metrics["accuracy"], n_epochs)
    context.flush()
    context.close()
    log.close()
    assert [(epoch, values["val/accuracy"]) for epoch, values, _ in fake.started[0].heard] == [(1, 0.5), (2, 0.75)]


def test_interrupted_search_is_logged_once_by_the_package_itself(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    loaded = study_with("tensorboard", n_trials=1)
    layout = layout_of(loaded, tmp_path)
    run_study(loaded, root=tmp_path, n_workers=0, should_stop=lambda: layout.trial(0).epochs_csv.exists())
    n_before = len(read_study(layout.study_dir).trial(0).epochs)
    study = searched(tmp_path, loaded)
    assert n_before >= 1
    found = read_back("tensorboard", layout.logged("tensorboard"), number=0, key="")
    wanted = [
        [epoch, key, single(value)] for epoch, row in measured_in(study.trial(0)).items() for key, value in row.items()
    ]
    assert [one[:2] for one in found["epochs"]] == [one[:2] for one in sorted(wanted)]
    times = ("seconds", "images_per_s", "peak_memory_mb")  # an epoch may have been trained twice
    assert without(times, found["epochs"]) == without(times, sorted(wanted))
    assert (found["state"], found["n_images"]) == ("complete", 1)
    assert found["best"] == {key: single(value) for key, value in study.trial(0).row.metrics.items()}
