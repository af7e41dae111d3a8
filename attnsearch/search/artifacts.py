"""Attaches what optuna-dashboard shows of a trial: overlays, curves and the per-epoch table."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact

from attnsearch.search.session import Session
from attnsearch.store.files import make_folder


def attach_files(session: Session, trial: optuna.Trial, paths: list[Path]) -> None:
    """Copies files into the experiment's artifacts and links them to a trial that has not ended yet."""
    store = FileSystemArtifactStore(str(make_folder(session.layout.artifacts)))
    for path in paths:
        upload_artifact(
            artifact_store=store, file_path=str(path), study_or_trial=trial, storage=session.database.storage
        )
