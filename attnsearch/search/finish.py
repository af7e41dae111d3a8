"""What happens to a trial between its last epoch and its end: maps, list of files, pictures for the dashboard."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import OutOfMemory
from attnsearch.evaluation.collect import collect
from attnsearch.evaluation.curves import draw_curves
from attnsearch.evaluation.overlay import draw_contact_sheet
from attnsearch.search.scoring import score_trial
from attnsearch.search.session import Session
from attnsearch.store.archive import read_archive
from attnsearch.store.artifacts import describe_file, write_artifacts
from attnsearch.store.files import disk_errors, make_folder
from attnsearch.store.layout import TrialLayout
from attnsearch.store.records import read_csv
from attnsearch.types import TrialResult


def evaluate_kept(
    config: ExperimentConfig, result: TrialResult, layout: TrialLayout, data: DataSource, *, check: Callable[[], None]
) -> TrialResult:
    """Archives the maps of the kept checkpoint on validation, scores them, and adds what only the archive tells.

    What the record of the kept epoch holds stays as it is: the objective is the number that the CSV shows.

    Raises:
        OutOfMemory: the maps do not fit, which is a fault of the setting.
        DeviceError: the device failed, or other processes fill it.
        ConfigError, DataError, StoreError: as `collect` and `score_archive`.
    """
    try:
        measured = collect(config, layout.kept, data, "val", archive=layout.archive("val"), check=check)
        measured |= score_trial(config, layout, data, check=check)
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory while the kept checkpoint was evaluated ({error}); use a larger train.accumulation"
        ) from error
    return replace(result, metrics={**measured, **result.metrics})


def list_files(session: Session, number: int, attempt: int) -> None:
    """Puts the large files of a trial, with sizes and checksums, into the database."""
    layout = session.layout.trial(number)
    archive = layout.archive("val")
    named = {"kept": layout.kept, "maps": archive.maps, "norms": archive.norms, "saliency": archive.saliency}
    files = {kind: describe_file(path, session.layout.experiment_dir) for kind, path in named.items() if path.exists()}
    write_artifacts(session.database.engine, session.uuid, number, attempt=attempt, files=files)


def attach_pictures(
    session: Session, trial: optuna.Trial, data: DataSource, *, check: Callable[[], None] = lambda: None
) -> None:
    """Gives optuna-dashboard a sheet of overlays, the curves and the per-epoch table of a trial that still runs.

    Each is there once: what an attempt that was killed has left, whole or not, is written anew under the same link.

    Raises:
        StoreError: the disk refuses. Whatever `check`, asked before each file, raises.
    """
    layout = session.layout.trial(trial.number)
    with tempfile.TemporaryDirectory() as folder:
        overlays, curves = Path(folder, "overlays.png"), Path(folder, "curves.png")
        draw_contact_sheet(read_archive(layout.archive("val")), data.tables.val).save(overlays, compress_level=1)
        draw_curves(read_csv(layout.epochs_csv), curves)
        for path in (overlays, curves, layout.epochs_csv):
            check()
            _attach(session, trial, path)


def _attach(session: Session, trial: optuna.Trial, path: Path) -> None:
    storage = session.database.storage
    store = FileSystemArtifactStore(str(make_folder(session.layout.artifacts)))
    linked = [meta.artifact_id for meta in get_all_artifact_meta(trial, storage=storage) if meta.filename == path.name]
    with disk_errors(session.layout.artifacts):
        if not linked:
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial, storage=storage)
        for artifact_id in linked:
            with path.open("rb") as content:
                store.write(artifact_id, content)
