"""What the page of a study is told: of trials that run, of the best one, of what was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.files import atomic_write
from attnsearch.results.databases import StudyDatabases
from attnsearch.results.reader import find_experiments
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from attnsearch.search.queue import claim_next
from attnsearch.store.layout import StudyLayout
from attnsearch.types import EpochRecord
from tests.explorer.built import Built
from tests.search.conftest import backend, empty_database, make_database, open_tiny

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

STUDY = "/attention/api/study/here/hunt"


def ask(client: Client, path: str = STUDY) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text)


def validation(epoch: int, accuracy: float) -> EpochRecord:
    return EpochRecord(epoch, "val", 4, 0.7, {}, {"accuracy": accuracy}, 0.01, 1.0, 4.0, 10.0)


@pytest.fixture
def running(open_tiny: Callable[..., StudyHandle]) -> tuple[Client, StudyHandle]:
    """A worker has trained the first of three trials for two epochs."""
    handle = open_tiny(n_trials=3)
    atomic_write(handle.layout.study_yaml, study_file(handle.loaded))
    claim = claim_next(handle, Worker("here:1:a", None))
    assert not isinstance(claim, str)
    records = [validation(1, 0.75), validation(2, 0.5)]
    handle.store.write_epochs(claim.trial.number, records, attempt=claim.attempt)
    url = str(handle.database.url) if handle.database.url.startswith("postgresql") else None
    return Client(build_app(find_experiments(handle.layout.root), storage=url)[0]), handle


def test_a_trial_that_runs_has_epoch_and_best_so_far(running: tuple[Client, StudyHandle]) -> None:
    live = ask(running[0])["live"]
    (trial,) = live["trials"]
    assert trial.pop("seconds") >= 0
    assert trial == {"number": 0, "state": "running", "epoch": 2, "n_epochs": 2, "value": 0.75, "best_epoch": 1}
    assert (live["state"], live["n_done"], live["n_trials"], live["best"]) == ("running", 0, 3, None)
    assert [worker["trial"] for worker in live["workers"]] == [0]
    assert live["seconds_left"] > 0


def test_each_poll_sees_new_epochs_and_reads_them_once(
    running: tuple[Client, StudyHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, handle = running
    assert ask(client)["live"]["trials"][0]["epoch"] == 2
    handle.store.write_epochs(0, [validation(epoch, 0.5 + epoch / 10) for epoch in (1, 2, 3)], attempt=None)
    asked: list[Any] = []
    read = StudyDatabases.epochs

    def noting(self: StudyDatabases, layout: StudyLayout, numbers: Any = None) -> Any:
        asked.append(numbers)
        return read(self, layout, numbers)

    monkeypatch.setattr(StudyDatabases, "epochs", noting)
    (trial,) = ask(client)["live"]["trials"]
    assert (trial["epoch"], trial["value"], trial["best_epoch"]) == (3, 0.8, 3)
    assert asked == [[0]]


def test_a_finished_study_names_its_best_trial_and_reads_no_epochs(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(StudyDatabases, "epochs")
    live = ask(client)["live"]
    assert (live["n_done"], live["n_trials"], live["best"]) == (3, 3, 2)
    assert (live["trials"], live["workers"], live["seconds_left"]) == ([], [], None)
    assert [one["name"] for one in live["quality"]] == ["accuracy"]


def test_what_was_trained_stands_on_top(client: Client) -> None:
    study = ask(client)
    assert (study["facts"]["model"], study["facts"]["data"]) == ("br_npa", "folder (pictures), 32 px")
    assert study["facts"]["from"] <= study["facts"]["to"]
    assert study["about"]["accuracy"]["group"] == "classification"


def test_a_model_that_is_not_known_here_leaves_what_was_measured(copied: Built) -> None:
    path = copied.layout.study_yaml
    path.write_text(path.read_text(encoding="utf-8").replace("name: br_npa", "name: nosuch"), encoding="utf-8")
    study = ask(Client(build_app(find_experiments(copied.root))[0]))
    assert study["facts"].keys() == {"from", "to"}
    assert study["live"]["best"] == 2


def test_importances_need_some_trials(client: Client) -> None:
    found = ask(client, "/attention/api/importances/here/hunt")
    assert all(0 <= one <= 1 for of in found.values() for one in of.values())
