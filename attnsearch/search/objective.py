"""What happens between the last epoch of a trial and its end: maps, scores, artifacts, objective values."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import AttnSearchError, OutOfMemory
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.figures.plots import draw_curves, write_contact_sheet
from attnsearch.files import disk_errors, make_folder
from attnsearch.search.handle import StudyHandle
from attnsearch.store.archive import read_archive
from attnsearch.store.epochs import read_csv
from attnsearch.store.file_records import describe_file
from attnsearch.store.image_scores import ScoreTable, has_scores, read_scores
from attnsearch.store.retrieval import n_explained
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.types import Spread, TrialContext, TrialResult

logger = logging.getLogger(__name__)

SETTINGS = "scores"
"""The user attribute that holds how a trial's scores were measured."""
IMAGES_AT_RUNGS = (16, 32)
"""Images that are scored at the first rung and at later ones, where a score is an objective."""


def score_trial(
    evaluation: Evaluation, layout: TrialLayout, *, check: Callable[[], None], n_images: int | None = None
) -> dict[str, float]:
    """Scores the archived saliency of a best checkpoint on validation: `val/metric` -> mean over the scored images.

    A score that is undefined for some images, or for all, fails no trial: there it counts as that of an uninformative
    map, see `ScoreTable.trial_means`.

    Args:
        n_images: that are scored, at most; None scores as many as the settings say.
    Returns:
        Nothing where the settings ask for nothing, or where the model makes no saliency.
    Raises:
        ConfigError, DataError, StoreError: as `score_archive`.
    """
    archive = layout.archive("val")
    settings = evaluation.config.evaluation.scores
    if not settings.families or not archive.saliency.exists():
        return {}
    if n_images is not None:
        n_images = min(n_images, settings.n_images or n_images, n_explained(read_archive(archive)))
        settings = settings.model_copy(update={"n_images": n_images})
    table = evaluation.score(archive, layout.scores("val"), settings=settings, check=check)
    _warn_of_undefined(table, layout)
    return {f"val/{name}": mean for name, mean in table.trial_means().items()}


def _warn_of_undefined(table: ScoreTable, layout: TrialLayout) -> None:
    """One line for the scores that no image has, since the trial's numbers do not show it."""
    reasons, n_images = table.undefined_gains(), len(table.image_ids)
    for name, reason in reasons.items():
        logger.warning("%s: %s is undefined and counts as 0; %s", layout.directory.name, name, reason)
    names = [name for name in table.never_defined() if name not in {**reasons, **table.reasons}]
    if names:
        logger.warning(
            "%s: %s undefined for all %d scored images: the maps are flat, or nothing is annotated; it counts as "
            "uninformative",
            layout.directory.name,
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}",
            n_images,
        )


def list_scores(handle: StudyHandle, trial: optuna.Trial, attempt: int) -> None:
    """Puts the scores of a running trial into the database, with how they were measured."""
    paths = handle.layout.trial(trial.number).scores("val")
    if not has_scores(paths):
        return
    table = read_scores(paths)
    handle.store.write_scores(trial.number, table, attempt=attempt)
    about = {key: table.about[key] for key in ("version", "settings", "grid", "images", "digest", "n_correct")}
    measured = {
        "n_images": len(table.image_ids),
        "n_undefined": table.n_undefined(),
        "standard_errors": _without_nan(table.standard_errors()),
        "mean_drops": {name: table.mean_drop(name) for name in table.gains()},
    }
    trial.set_user_attr(SETTINGS, {**about, **measured})


def _without_nan(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are defined, as an attribute of a trial is JSON."""
    return {name: value for name, value in values.items() if not math.isnan(value)}


def evaluate_best(
    config: ExperimentConfig,
    result: TrialResult,
    context: TrialContext,
    data: DataSource,
    *,
    spread: Spread | None = None,
    n_images: int | None = None,
) -> TrialResult:
    """Archives the maps of the best checkpoint on validation, scores them, and adds these scores.

    What the record of the best epoch holds stays as it is: the objective is the number that the CSV shows.

    Args:
        spread: over which processes the scores are measured; the maps are archived here alone.
        n_images: as in `score_trial`.
    Raises:
        OutOfMemory: the maps do not fit, which is an error of the setting.
        DeviceError: the device failed, or other processes fill it.
        ConfigError, DataError, StoreError: as `Evaluation`.
    """
    try:
        layout, check = TrialLayout(context.directory), context.check
        with Evaluation.open(layout.best, data, config=config) as opened:
            evaluation = replace(opened, spread=spread)
            measured = evaluation.run("val", archive=layout.archive("val"), check=check)
            measured |= score_trial(evaluation, layout, check=check, n_images=n_images)
    except OutOfMemory as error:
        raise OutOfMemory(
            f"out of memory while the best checkpoint was evaluated ({error}); use a smaller "
            "evaluation.scores.batch_images or a larger train.accumulation"
        ) from error
    return replace(result, metrics={**measured, **result.metrics})


def list_files(handle: StudyHandle, number: int, attempt: int) -> None:
    """Puts the large files of a trial, with sizes and checksums, into the database."""
    layout = handle.layout.trial(number)
    archive = layout.archive("val")
    named = {"best": layout.best, "maps": archive.maps, "norms": archive.norms, "saliency": archive.saliency}
    files = {kind: describe_file(path, handle.layout.experiment_dir) for kind, path in named.items() if path.exists()}
    handle.store.write_artifacts(number, files, attempt=attempt)


def attach_images(
    handle: StudyHandle, trial: optuna.Trial, data: DataSource, *, check: Callable[[], None] = lambda: None
) -> None:
    """Gives optuna-dashboard a sheet of overlays, the curves and the per-epoch table of a trial that still runs.

    Each is there once: what an attempt that was killed has left, whole or not, is written again under the same link.

    Raises:
        StoreError: the disk refuses. Whatever `check`, asked before each file, raises.
    """
    layout = handle.layout.trial(trial.number)
    with tempfile.TemporaryDirectory() as folder:
        for path in (*_draw_images(layout, data, Path(folder)), layout.epochs_csv):
            check()
            _attach(handle, trial, path)


def _draw_images(layout: TrialLayout, data: DataSource, folder: Path) -> list[Path]:
    """The overlays and the curves of a trial as files; one that cannot be drawn costs no trained trial."""
    archived, epochs = read_archive(layout.archive("val")), read_csv(layout.epochs_csv)
    paths = [folder / "overlays.png", folder / "curves.png"]
    try:
        write_contact_sheet(archived, data.tables.val, paths[0])
        draw_curves(epochs, paths[1])
    except (AttnSearchError, OSError):
        raise
    except Exception:
        logger.warning("%s: an image for optuna-dashboard cannot be drawn", layout.directory, exc_info=True)
    return [path for path in paths if path.exists()]


def _attach(handle: StudyHandle, trial: optuna.Trial, path: Path) -> None:
    storage = handle.database.storage
    store = FileSystemArtifactStore(str(make_folder(handle.layout.artifacts)))
    linked = [meta.artifact_id for meta in get_all_artifact_meta(trial, storage=storage) if meta.filename == path.name]
    with disk_errors(handle.layout.artifacts):
        if not linked:
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial, storage=storage)
        for artifact_id in linked:
            with path.open("rb") as content:
                store.write(artifact_id, content)
