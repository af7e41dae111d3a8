"""Who works on a study, how fast, and what is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from attnsearch.files import atomic_write
from attnsearch.processes import ProcessName
from attnsearch.results.reader import load_study
from attnsearch.results.status import StudyStatus, status_of
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.plan import study_file
from attnsearch.search.queue import claim_next
from attnsearch.store.evaluation_log import log_test_evaluation
from attnsearch.store.leases import PUBLICATION
from attnsearch.testing.store_contract import epoch_record
from tests.search.conftest import backend, empty_database, make_database, open_tiny
from tests.search.studies import HALVING, play_leg

__all__ = ["backend", "empty_database", "make_database", "open_tiny"]

Open = Callable[..., StudyHandle]


def look(handle: StudyHandle) -> StudyStatus:
    atomic_write(handle.layout.study_yaml, study_file(handle.loaded))
    return status_of(load_study(handle.layout.study_dir))


def claim(handle: StudyHandle, name: str, *, lease_s: float = 60.0, epoch: int = 0) -> None:
    """A trial in the hands of a worker, which has trained it for some epochs."""
    claim = claim_next(handle, Worker(name, None))
    assert not isinstance(claim, str)
    number = claim.trial.number
    handle.store.leases.renew(number, claim.attempt, duration_s=lease_s, epoch=epoch)
    handle.store.write_epochs(number, [epoch_record(one + 1, "val") for one in range(epoch)], attempt=None)


def test_a_study_that_nobody_works_on(open_tiny: Open) -> None:
    found = look(open_tiny(n_trials=3))
    assert (found.study, found.state, found.n_done, found.n_trials) == ("here/hunt", "stopped", 0, 3)
    assert (found.workers, found.machines, found.epochs_per_hour, found.seconds_left) == ((), (), None, None)
    assert (found.worker_seconds, found.n_test_evaluations) == (0, 0)


def test_workers_are_listed_with_machine_process_gpu_and_trial(open_tiny: Open) -> None:
    handle, own = open_tiny(), ProcessName.of_this_process()
    claim(handle, f"b:{own}:01@GPU-7", lease_s=60.0, epoch=1)
    claim(handle, "a:17:02")
    found = look(handle)
    assert found.state == "running"
    assert found.machines == ("a", "b")
    first, second = found.workers
    assert (first.machine, first.pid, first.gpu, first.trial, first.epoch, first.n_epochs) == ("a", None, None, 1, 0, 2)
    assert (second.machine, second.pid, second.gpu) == ("b", own.pid, "GPU-7")
    assert (second.trial, second.epoch, second.n_epochs) == (0, 1, 2)
    assert 0 < second.lease_s <= 60


def test_time_left_is_of_the_workers_that_are_heard_of(open_tiny: Open) -> None:
    """Two trials of two epochs are done, in two seconds each; one runs after an epoch, one is left."""
    handle = open_tiny(n_trials=4)
    for accuracy in (0.5, 0.6):
        play_leg(handle, {"val/accuracy": accuracy})
    claim(handle, "a:1:x", epoch=1)
    found = look(handle)
    assert found.epochs_per_hour is not None
    assert found.seconds_left is not None
    assert found.epochs_per_hour == pytest.approx(3600)  # of the trials that have ended
    assert found.seconds_left == pytest.approx(3, abs=0.5)  # and no time worth mentioning at the end of a trial
    handle.store.leases.renew(2, 1, duration_s=-1)
    silent = look(handle)
    assert silent.workers[0].lease_s < 0
    assert silent.seconds_left is None


def test_paused_trials_and_the_epochs_that_halving_saves_are_known(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=4, **HALVING)
    for accuracy in (0.5, 0.75):
        play_leg(handle, {"val/accuracy": accuracy})
    claim(handle, "a:1:x")
    found = look(handle)
    assert (found.n_paused, found.n_done) == (2, 0)
    assert found.epochs_per_hour is not None
    assert found.seconds_left is not None
    assert found.seconds_left * found.epochs_per_hour / 3600 == pytest.approx(4)  # 2 to the rung, 2 beyond it


def test_a_publication_and_test_evaluations_are_shown(open_tiny: Open) -> None:
    handle = open_tiny()
    handle.store.leases.claim(PUBLICATION, "a:1:x", duration_s=60)
    log_test_evaluation(handle.store, handle.layout, 0, 2, "test")
    found = look(handle)
    assert [worker.trial for worker in found.workers] == [None]
    assert found.n_test_evaluations == 1
