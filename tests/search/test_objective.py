"""What happens between the last epoch of a trial and its end."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta

import attnsearch.search.objective as module
from attnsearch.errors import OutOfMemory
from attnsearch.files import atomic_write
from attnsearch.search.handle import StudyHandle
from attnsearch.search.objective import attach_pictures, evaluate_best
from attnsearch.store.layout import TrialLayout
from tests.search.studies import loaded_study


def test_evaluation_that_runs_out_of_memory_is_a_fault_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_evaluation(*arguments: Any, **named: Any) -> Any:
        raise OutOfMemory("CUDA error: out of memory, 7 GB wanted")

    monkeypatch.setattr(module.Evaluation, "open", open_evaluation)
    unused: Any = None
    with pytest.raises(OutOfMemory, match=r"7 GB wanted.*larger train\.accumulation"):
        evaluate_best(loaded_study().experiment, unused, TrialLayout(tmp_path), unused, check=lambda: None)


class Killed(BaseException):
    """Ends an attempt at once."""


def test_pictures_of_a_killed_attempt_are_replaced_and_not_doubled(
    open_tiny: Callable[..., StudyHandle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(store: FileSystemArtifactStore, artifact_id: str, content: io.BufferedReader) -> None:
        if content.name.endswith("curves.png"):  # its link is written already
            raise Killed
        write(store, artifact_id, content)

    handle, write = open_tiny(), FileSystemArtifactStore.write
    trial = handle.study.ask()
    atomic_write(handle.layout.trial(0).epochs_csv, "epoch\n1\n")
    monkeypatch.setattr(module, "read_archive", lambda _paths: None)
    monkeypatch.setattr(module, "write_contact_sheet", lambda _archive, _table, path: path.write_text("sheet"))
    monkeypatch.setattr(module, "draw_curves", lambda _epochs, path: path.write_text("curves"))
    data: Any = SimpleNamespace(tables=SimpleNamespace(val=None))
    with monkeypatch.context() as killing:
        killing.setattr(FileSystemArtifactStore, "write", cut_off)
        with pytest.raises(Killed):
            attach_pictures(handle, trial, data)
    attach_pictures(handle, trial, data)
    found = get_all_artifact_meta(trial, storage=handle.database.storage)
    assert sorted(meta.filename for meta in found) == ["curves.png", "epochs.csv", "overlays.png"]
    sizes = {meta.filename: (handle.layout.artifacts / meta.artifact_id).stat().st_size for meta in found}
    assert (sizes["curves.png"], sizes["epochs.csv"]) == (6, 8)
    assert len(list(handle.layout.artifacts.iterdir())) == 3
