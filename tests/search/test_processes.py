"""What a worker process is given."""

from __future__ import annotations

import pytest
import torch

from attnsearch.config.variables import URL_VARIABLE
from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS, pick_device, worker_gpus
from attnsearch.search.launchers.local import worker_environment


def assigned(n_workers: int, gpus: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
    environments = [
        worker_environment(None, index, n_workers=n_workers, gpus=gpus, n_threads=1) for index in range(n_workers)
    ]
    return [(environment.get(VISIBLE_GPUS), environment.get(ASSIGNED_GPU)) for environment in environments]


def test_workers_take_the_gpus_in_turn_and_see_their_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "4,GPU-8f3c")
    assert assigned(3, ("4", "GPU-8f3c")) == [("4", "4"), ("GPU-8f3c", "GPU-8f3c"), ("4", "4")]
    assert assigned(2, ("GPU-8f3c",)) == [("GPU-8f3c", "GPU-8f3c")] * 2


def test_workers_of_the_processor_keep_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "")
    assert assigned(1, ()) == [("", None)]


def test_a_search_on_the_third_gpu_runs_on_the_third_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv(VISIBLE_GPUS, "5,6,7")
    environment = worker_environment(None, 1, n_workers=2, gpus=worker_gpus("cuda:2"), n_threads=None)
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert environment[VISIBLE_GPUS] == "7"
    assert pick_device("cuda:2") == torch.device("cuda", 0)


def test_worker_gets_the_database_as_it_was_written_and_never_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(URL_VARIABLE, "sqlite:///other.db")
    written = "postgresql://$NAME:$WORD@host/x"
    for storage, expected in ((written, written), (None, "")):
        assert worker_environment(storage, 0, n_workers=1, gpus=(), n_threads=1)[URL_VARIABLE] == expected
