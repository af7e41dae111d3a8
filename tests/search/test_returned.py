"""Trials that a real run had to return, and what the next attempt still has to do."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from optuna.trial import TrialState

from attnsearch.data.loader import open_data
from attnsearch.errors import StoreError
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.worker import run_worker
from attnsearch.training import trainer as training


@pytest.mark.slow
def test_trial_whose_maps_found_a_full_disk_is_finished_without_training(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[int] = []
    train_epoch, run = training.train_epoch, Evaluation.run

    def count(setup: Any, epoch: int, **settings: Any) -> Any:
        trained.append(epoch)
        return train_epoch(setup, epoch, **settings)

    def fill_disk(*arguments: Any, archive: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(archive.maps))

    monkeypatch.setattr(training, "train_epoch", count)
    handle = open_tiny(n_trials=1)
    monkeypatch.setattr(Evaluation, "run", fill_disk)
    with pytest.raises(StoreError, match=r"attMaps_val\.npy: No space left on device; .* prune-files"):
        run_worker(handle, Worker("here:1:a", None), open_data(handle.loaded.experiment.data), started_at=0.0)
    assert (handle.trials()[0].state, trained) == (TrialState.WAITING, [1, 2])

    monkeypatch.setattr(Evaluation, "run", run)
    run_worker(handle, Worker("here:2:b", None), open_data(handle.loaded.experiment.data), started_at=0.0)
    assert (handle.trials()[0].state, trained) == (TrialState.COMPLETE, [1, 2])
    assert handle.store.read_epochs()["epoch"].tolist() == [1, 2]
    assert not handle.layout.trial(0).resumes()
