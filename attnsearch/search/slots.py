"""How many trials train on one GPU at a time, and whether a worker may start another one there."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.experiment import RuntimeSettings
from attnsearch.device import ASSIGNED_GPU, device_bytes, pick_device, worker_gpus
from attnsearch.errors import ConfigError
from attnsearch.search.handle import StudyHandle

MOST_PER_GPU = 8
"""Trials that `auto` lets train on one GPU: more of them gain nothing that a larger batch would not."""
_MARGIN, PROCESS_MB, _KEPT_FREE = 1.25, 700.0, 0.05
"""What fragments of memory add to a measured peak, what CUDA takes for each process, and what nobody gets."""
_RECENT_TRIALS = 64
_MPS_VARIABLE, _MPS_DEFAULT = "CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"  # NVIDIA's own

TrialsPerDevice = Literal["auto"] | int


def n_slots(peaks_mb: Collection[float], *, gpu_mb: float) -> int:
    """Trials that may train on one GPU at a time under `auto`.

    Each takes what the hungriest trial of the study has taken, with a margin; before one has finished an epoch, they
    come one by one.

    Args:
        peaks_mb: megabytes that trials of the study took at most; those of trials that measured nothing are left out.
        gpu_mb: memory of the GPU.
    """
    largest = max(peaks_mb, default=0.0)
    if not largest > 0:
        return 1
    fitting = gpu_mb * (1 - _KEPT_FREE) // (_MARGIN * largest + PROCESS_MB)
    return max(1, min(MOST_PER_GPU, int(fitting)))


def workers_per_gpu(setting: TrialsPerDevice, *, n_cores: int, n_gpus: int) -> int:
    """Worker processes to start for each GPU; with `auto` as many as may ever train there, if each has a core."""
    return setting if setting != "auto" else max(1, min(MOST_PER_GPU, n_cores // n_gpus))


def gpu_groups(runtime: RuntimeSettings) -> tuple[str, ...]:
    """The GPUs that workers are spread over, none on a processor; those of one worker are separated by commas.

    Raises:
        ConfigError: a GPU that this machine does not have, or fewer of them than a trial asks for.
    """
    gpus, n_devices = worker_gpus(runtime.device), runtime.devices_per_trial
    if 0 < len(gpus) < n_devices:
        raise ConfigError(
            f"runtime.devices_per_trial is {n_devices}, and runtime.device {runtime.device!r} has {len(gpus)} GPUs "
            "here; lower it, or set runtime.device=auto or cpu"
        )
    starts = range(0, len(gpus) - n_devices + 1, n_devices)
    return tuple(",".join(gpus[start : start + n_devices]) for start in starts)


def name_on_gpu(name: str) -> str:
    """The name of a worker of this process in the leases, which tells on which GPU it is if it has one of its own."""
    gpu = os.environ.get(ASSIGNED_GPU)
    return f"{name}@{gpu}" if gpu else name


def gpu_of(worker: str) -> tuple[str, str] | None:
    """Host and GPU of a worker by its name `host:process:random@gpu`, None for one without a GPU of its own."""
    process, separator, gpu = worker.partition("@")
    return (process.rsplit(":", 2)[0], gpu) if separator else None


def has_slot(handle: StudyHandle, worker: str, *, trials: Sequence[FrozenTrial]) -> bool:
    """Whether a worker may start a trial on its GPU now; needs `handle.store.exclusive`.

    Other studies on the same GPU are not counted. With one trial per device, a study that asks for more workers than
    GPUs gets them.

    Args:
        trials: of the study. A worker that was killed between two writes may hold a trial that runs no more; peaks are
            those of the last ones.
    """
    runtime, gpu = handle.loaded.experiment.runtime, gpu_of(worker)
    setting: TrialsPerDevice = runtime.trials_per_device
    if setting == 1 or gpu is None:
        return True
    running = {trial.number for trial in trials if trial.state == TrialState.RUNNING}
    held = [lease for lease in handle.store.leases.held() if lease.number in running]
    n_held = sum(gpu_of(lease.worker) == gpu for lease in held)
    if n_held == 0:
        return True
    if setting != "auto":
        return n_held < setting
    epochs = handle.store.read_epochs([trial.number for trial in trials[-_RECENT_TRIALS:]])
    columns = [name for name in epochs.columns if name.endswith("/peak_memory_mb")]
    peaks = epochs[columns].max(axis=1).dropna().tolist()
    return n_held < n_slots(peaks, gpu_mb=_gpu_mb(runtime.device))


@cache
def _gpu_mb(device: str) -> float:
    return device_bytes(pick_device(device)) / 1e6


def has_mps() -> bool:
    """Whether NVIDIA's Multi-Process Service runs here, with which kernels of several processes run side by side."""
    return (Path(os.environ.get(_MPS_VARIABLE) or _MPS_DEFAULT) / "control").exists()


def describe_sharing(setting: TrialsPerDevice) -> str:
    """One line on trials that have a GPU in common, for the log of a search."""
    how = "side by side under MPS" if has_mps() else "in turns, as no MPS runs (start nvidia-cuda-mps-control -d first)"
    return f"runtime.trials_per_device {setting}: their kernels run {how}"
