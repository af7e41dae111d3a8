"""Several trials on one GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnsearch.config.experiment import RuntimeSettings
from attnsearch.config.load import LoadedStudy
from attnsearch.device import ASSIGNED_GPU
from attnsearch.errors import ConfigError
from attnsearch.search import slots
from attnsearch.search.context import ClaimedTrial, Worker
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers.process import worker_name
from attnsearch.search.launchers.standby import n_asked
from attnsearch.search.queue import claim_next, return_to_queue
from attnsearch.search.slots import describe_sharing, gpu_groups, gpu_of, has_mps, n_slots, workers_per_gpu
from attnsearch.types import EpochRecord

Open = Callable[..., StudyHandle]


@pytest.mark.parametrize(
    ("peaks_mb", "gpu_mb", "n_trials"),
    [
        ([], 80_000, 1),  # nothing is known before an epoch has ended
        ([0.0], 80_000, 1),
        ([2000.0], 16_000, 4),  # 15,200 MB for trials of 1.25 * 2,000 + 700 = 3,200 MB
        ([2000.0, 2440.0, 900.0], 16_000, 4),  # the largest counts: 3,750 MB
        ([2000.0, 2500.0], 16_000, 3),
        ([100.0], 80_000, 8),  # the limit
        ([70_000.0], 80_000, 1),  # the one that runs runs
    ],
)
def test_as_many_trials_fit_as_the_largest_peak_allows(peaks_mb: list[float], gpu_mb: float, n_trials: int) -> None:
    assert n_slots(peaks_mb, gpu_mb=gpu_mb) == n_trials


def test_each_worker_of_a_gpu_has_a_core() -> None:
    assert [workers_per_gpu("auto", n_cores=cores, n_gpus=2) for cores in (1, 5, 8, 64)] == [1, 2, 4, 8]
    assert workers_per_gpu(6, n_cores=1, n_gpus=1) == 6


def test_the_name_of_a_worker_tells_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASSIGNED_GPU, raising=False)
    assert gpu_of(worker_name()) is None
    monkeypatch.setenv(ASSIGNED_GPU, "MIG-GPU-1a/1/0")
    mine = gpu_of(worker_name())
    assert mine is not None
    assert mine[1] == "MIG-GPU-1a/1/0"
    assert gpu_of("a:1:ff@0") == ("a", "0") != gpu_of("b:1:ff@0")


def sharing(loaded: LoadedStudy, setting: Any) -> LoadedStudy:
    runtime = loaded.experiment.runtime.model_copy(update={"trials_per_device": setting})
    return replace(loaded, experiment=loaded.experiment.model_copy(update={"runtime": runtime}))


def claimed(handle: StudyHandle, name: str) -> ClaimedTrial:
    claim = claim_next(handle, Worker(name, None))
    assert isinstance(claim, ClaimedTrial)
    return claim


def is_refused(handle: StudyHandle, name: str) -> bool:
    return claim_next(handle, Worker(name, None)) == "wait"


def epoch_with_peak(peak_mb: float) -> EpochRecord:
    return EpochRecord(1, "train", 8, 1.0, {}, {}, 0.1, 1.0, 8.0, peak_mb)


def test_workers_claim_slots_of_their_own_gpu(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=9)
    handle = replace(handle, loaded=sharing(handle.loaded, 2))
    first = claimed(handle, "here:1:a@0")
    claimed(handle, "here:2:b@0")
    assert is_refused(handle, "here:3:c@0")
    claimed(handle, "here:4:d@1")
    claimed(handle, "there:3:e@0")
    claimed(handle, "here:5:f")  # on a processor
    return_to_queue(handle, first)
    assert claimed(handle, "here:3:c@0").trial.number == first.trial.number


def test_worker_killed_before_it_gave_up_a_waiting_trial_takes_no_slot(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=9)
    handle = replace(handle, loaded=sharing(handle.loaded, 2))
    for claim in [claimed(handle, name) for name in ("here:1:a@0", "here:2:b@0")]:
        handle.return_to_waiting(claim.trial)
    assert {lease.worker for lease in handle.store.leases.held()} == {"here:1:a@0", "here:2:b@0"}
    claimed(handle, "here:3:c@0")


def test_auto_lets_more_in_once_a_peak_is_known(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_gpu_mb", lambda _device: 16_000.0)
    handle = open_tiny(n_trials=9)
    handle = replace(handle, loaded=sharing(handle.loaded, "auto"))
    first = claimed(handle, "here:1:a@0")
    assert is_refused(handle, "here:2:b@0")
    handle.store.write_epochs(first.trial.number, [epoch_with_peak(2500.0)], attempt=first.attempt)
    claimed(handle, "here:2:b@0")
    claimed(handle, "here:3:c@0")
    assert is_refused(handle, "here:4:d@0")  # 15,200 MB for three trials of 3,825 MB


def test_one_trial_per_device_takes_the_number_of_workers_at_its_word(open_tiny: Open) -> None:
    handle = open_tiny(n_trials=9)
    assert handle.loaded.experiment.runtime.trials_per_device == 1
    for name in ("here:1:a@0", "here:2:b@0"):
        claimed(handle, name)


def test_workers_are_started_for_the_trials_of_each_gpu(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    module = "attnsearch.search.launchers.standby"
    monkeypatch.setattr(f"{module}.n_cores", lambda: 8)
    loaded = replace_workers(open_tiny(n_trials=9).loaded, None)
    monkeypatch.setattr("attnsearch.search.slots.worker_gpus", lambda _device: ())
    assert n_asked(sharing(loaded, 4), None) == 1
    monkeypatch.setattr("attnsearch.search.slots.worker_gpus", lambda _device: ("0", "1"))
    assert [n_asked(sharing(loaded, setting), None) for setting in (1, 3, "auto")] == [2, 6, 8]
    assert n_asked(sharing(loaded, 3), 5) == 5
    assert n_asked(sharing(replace_workers(loaded, 4), 3), None) == 4


def replace_workers(loaded: LoadedStudy, n_workers: int | None) -> LoadedStudy:
    return replace(loaded, study=loaded.study.model_copy(update={"n_workers": n_workers}))


def test_mps_is_seen_by_its_pipe_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert not has_mps()
    assert "in turns, as no MPS runs" in describe_sharing(4)
    (tmp_path / "control").touch()
    assert has_mps()
    assert describe_sharing("auto") == "runtime.trials_per_device auto: their kernels run side by side under MPS"


@pytest.mark.parametrize(
    ("n_gpus", "n_devices", "groups"),
    [(0, 2, ()), (4, 2, ("0,1", "2,3")), (5, 2, ("0,1", "2,3")), (3, 1, ("0", "1", "2"))],
)
def test_each_worker_has_the_gpus_of_one_trial(
    monkeypatch: pytest.MonkeyPatch, n_gpus: int, n_devices: int, groups: tuple[str, ...]
) -> None:
    monkeypatch.setattr(slots, "worker_gpus", lambda _device: tuple(map(str, range(n_gpus))))
    assert gpu_groups(RuntimeSettings(devices_per_trial=n_devices)) == groups


def test_fewer_gpus_than_a_trial_asks_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "worker_gpus", lambda _device: ("0",))
    with pytest.raises(ConfigError, match=r"devices_per_trial is 2, and runtime\.device 'auto' has 1 GPUs here"):
        gpu_groups(RuntimeSettings(devices_per_trial=2))
