"""What a process of torchrun knows of itself."""

from __future__ import annotations

import os

import pytest
import torch

from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS
from attnsearch.search.launchers.torchrun import TorchrunPlace


@pytest.fixture
def in_torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The second of two processes."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    for name in (VISIBLE_GPUS, ASSIGNED_GPU):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_other_processes_have_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as Slurm and others set it
    assert TorchrunPlace.take() == TorchrunPlace(0, 1, 0)
    assert TorchrunPlace.take().overrides == ()


@pytest.mark.parametrize(("listed", "own"), [(None, "1"), ("3, 5", "5"), ("3", "")])
def test_each_process_sees_a_gpu_of_its_own(in_torchrun: pytest.MonkeyPatch, listed: str | None, own: str) -> None:
    if listed is not None:
        in_torchrun.setenv(VISIBLE_GPUS, listed)
    place = TorchrunPlace.take()
    assert place == TorchrunPlace(1, 2, 1)
    assert place.overrides == ("runtime.devices_per_trial=2",)
    assert (os.environ[VISIBLE_GPUS], os.environ[ASSIGNED_GPU]) == (own, own)
