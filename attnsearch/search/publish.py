"""Publishes the chosen trial of a study: scores it on the test split, once, and writes the files that users know."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from attnsearch.config.load import load_stored_study
from attnsearch.data.images import write_thumbnails
from attnsearch.data.loader import DataSource
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.files import atomic_path, atomic_write, disk_errors, make_folder, real_path
from attnsearch.search.handle import StudyHandle
from attnsearch.search.trials import best_epoch, best_trials
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.epochs import read_csv, write_metrics_row
from attnsearch.store.image_scores import has_scores, read_scores
from attnsearch.store.layout import ExperimentLayout, PublishedLayout, StudyLayout, TrialLayout
from attnsearch.store.retention import RemovableFile, plan_removal
from attnsearch.store.study_files import MANIFEST_FORMAT, log_test_evaluation, read_manifest
from attnsearch.types import Split

logger = logging.getLogger(__name__)


def staged(layout: StudyLayout, target: PublishedLayout) -> PublishedLayout:
    """Where the files of a set are made."""
    return replace(target, directory=layout.staging / target.directory.relative_to(layout.experiment_dir))


def start_staging(layout: StudyLayout) -> None:
    """An empty folder for the files of a publication, without what one that was cut off has left there."""
    discard_staged(layout)
    make_folder(layout.staging)


def finish_staging(layout: StudyLayout, sets: Sequence[dict[str, Any]], files: Sequence[Path]) -> list[str]:
    """Writes the manifest of complete files; from here on a publication that is cut off needs no second evaluation.

    Returns:
        The names of the files in the experiment's folder.
    """
    names = [path.relative_to(layout.staging).as_posix() for path in files]
    about = {"format": MANIFEST_FORMAT, "study": layout.study, "sets": list(sets), "files": names}
    atomic_write(layout.staged_json, json.dumps(about, indent=1) + "\n")
    return names


def staged_names(layout: StudyLayout, sets: Sequence[dict[str, Any]]) -> list[str] | None:
    """What `finish_staging` returned for these sets, where they were not put in place yet; else None."""
    try:
        about = json.loads(layout.staged_json.read_text(encoding="utf-8"))
        return list(about["files"]) if about["sets"] == list(sets) else None
    except (OSError, ValueError, LookupError, TypeError):  # none, or damaged: they are made again
        return None


def put_in_place(layout: StudyLayout, names: Sequence[str]) -> Path:
    """Replaces the published files of a study by the staged ones, the manifest last; a second call continues the first.

    Raises:
        StoreError: the disk refuses; nothing is lost, and the next publication continues here.
    """
    staying = {layout.experiment_dir / name for name in names}
    with disk_errors(layout.experiment_dir):
        layout.published_json.unlink(missing_ok=True)
        for path in layout.staged_files():
            target = layout.experiment_dir / path.relative_to(layout.staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)  # noqa: PTH105 (as in files.py)
        for path in layout.published_files():
            if path not in staying:
                path.unlink()
        atomic_write(layout.published_json, layout.staged_json.read_bytes())
    discard_staged(layout)
    return layout.published_json


def discard_staged(layout: StudyLayout) -> None:
    """Removes the folder of a publication, if there is one."""
    with disk_errors(layout.staging):
        if layout.staging.exists():
            shutil.rmtree(layout.staging)


@dataclass(frozen=True)
class TrialToPublish:
    """A trial whose best checkpoint is worth publishing."""

    number: int
    epoch: int
    trial: TrialLayout
    target: PublishedLayout


def publish_study(handle: StudyHandle, data: DataSource) -> Path | None:
    """Publishes the best trial, and each Pareto trial of a study with several objectives.

    Where the right sets are published already, nothing is evaluated again; else a second publication replaces the
    first one whole. Each evaluation on the test split, one per published trial, is a line of `test_evaluations.csv`.

    Returns:
        The manifest, or None while no feasible trial is complete.
    """
    chosen = trials_to_publish(handle)
    if not chosen:
        return None
    return publish(handle.layout, chosen, data)


def trials_to_publish(handle: StudyHandle) -> list[TrialToPublish]:
    """The trial for the flat files first, then the Pareto trials, each with its own folder."""
    config, layout = handle.loaded.study, handle.layout
    best = best_trials(handle.study, config, k=1)
    if not best:
        return []
    flat = _chosen(layout, best[0], layout.published(_best_epoch(best[0])))
    front = best if len(config.objectives) > 1 else []
    return [flat, *(_chosen(layout, t, layout.pareto(t.number, _best_epoch(t))) for t in front)]


def _best_epoch(trial: FrozenTrial) -> int:
    return int(best_epoch(trial.user_attrs))


def _chosen(layout: StudyLayout, trial: FrozenTrial, target: PublishedLayout) -> TrialToPublish:
    return TrialToPublish(trial.number, _best_epoch(trial), layout.trial(trial.number), target)


def publish(layout: StudyLayout, chosen: Sequence[TrialToPublish], data: DataSource) -> Path:
    """Makes the published sets of some trials of one study, then replaces those before them; the manifest is last."""
    manifest = layout.published_json
    wanted = [{"trial": c.number, "epoch": c.epoch, "folder": _relative(c.target.directory, layout)} for c in chosen]
    known = read_manifest(layout)
    if (
        known is not None
        and known["sets"] == wanted
        and all((layout.experiment_dir / name).exists() for name in known["files"])
    ):
        discard_staged(layout)
        return manifest
    names = staged_names(layout, wanted)
    if names is None:
        start_staging(layout)
        apart = [replace(one, target=staged(layout, one.target)) for one in chosen]
        names = finish_staging(layout, wanted, _write_sets(layout, apart, data))
    return put_in_place(layout, names)


def _write_sets(layout: StudyLayout, chosen: Sequence[TrialToPublish], data: DataSource) -> list[Path]:
    """The files of all sets; a trial that has two of them is evaluated once, and its second set is a copy."""
    of_trial: dict[int, list[Path]] = {}
    files: list[Path] = []
    for one in chosen:
        if one.number in of_trial:
            files += [_copy(path, one.target.directory) for path in of_trial[one.number]]
        else:
            of_trial[one.number] = publish_trial(layout, one, data)
            files += of_trial[one.number]
    return files


def _copy(path: Path, folder: Path) -> Path:
    with atomic_path(folder / path.name) as temporary:
        shutil.copyfile(path, temporary)
    return folder / path.name


def publish_trial(layout: StudyLayout, chosen: TrialToPublish, data: DataSource) -> list[Path]:
    """Writes one published set: scores of each split, maps and index of the test images, small copies of them."""
    split: Split = "val" if data.tables.test is None else "test"
    if split == "val":
        logger.warning("%s has no test split: the published maps and scores are those of validation", layout.study)
    logger.info("publishing trial %d: %d %s images", chosen.number, len(data.tables.of(split)), split)
    log_test_evaluation(layout, chosen.number, chosen.epoch, split)
    archive = chosen.target.archive(split)
    with Evaluation.open(chosen.trial.best, data) as evaluation:
        scores = evaluation.run(split, archive=archive)
    written = _write_scores(chosen, {split: _of_split(scores, f"{split}/")})
    _write_copies(layout, chosen, data, split)
    return [*written, *(path for path in (*archive.arrays.values(), archive.about, archive.images) if path.exists())]


def _write_copies(layout: StudyLayout, chosen: TrialToPublish, data: DataSource, split: Split) -> None:
    """Small copies of all images whose maps lie in the results: the published ones, and those of validation."""
    table = data.tables.of(split)
    write_thumbnails(table, table.image_ids, layout.thumbnail)
    paths = chosen.trial.archive("val")
    if has_archive(paths):  # the same images in all trials of a study
        write_thumbnails(data.tables.val, read_archive(paths, index_only=True).image_ids, layout.thumbnail)


def _write_scores(chosen: TrialToPublish, measured: dict[Split, dict[str, float]]) -> list[Path]:
    """`model<study>_epoch<E>_<split>.csv`: one row each; train and val of the best epoch, val with scores."""
    recorded = read_csv(chosen.trial.epochs_csv)
    row = recorded.loc[recorded["epoch"] == chosen.epoch].iloc[0]
    by_split: dict[Split, dict[str, float]] = {
        split: _of_split({str(name): float(row[name]) for name in recorded.columns}, f"{split}_")
        for split in ("train", "val")
    }
    by_split["val"] |= _score_means(chosen)
    by_split |= measured
    paths = []
    for split, scores in by_split.items():
        paths.append(chosen.target.model_csv(split))
        write_metrics_row(paths[-1], scores)
    return paths


def _score_means(chosen: TrialToPublish) -> dict[str, float]:
    """What was measured of the saliency at the end of the trial; nothing where it was not scored."""
    paths = chosen.trial.scores("val")
    if not has_scores(paths):
        return {}
    return read_scores(paths).trial_means()


def _of_split(scores: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in scores.items() if name.startswith(prefix)}


def _relative(path: Path, layout: StudyLayout) -> str:
    return path.relative_to(layout.experiment_dir).as_posix()


def removable(handle: StudyHandle) -> list[RemovableFile]:
    """What retention would delete now: weights and maps of all but the best k, published and unfinished trials.

    A trial that another study of the experiment has as its teacher, or starts from, stays as well.
    """
    config = handle.loaded.study
    trials = handle.trials()
    best = {trial.number for trial in best_trials(handle.study, config, k=config.retention.best_k)}
    manifest = read_manifest(handle.layout)
    published = {one["trial"] for one in manifest["sets"]} if manifest is not None else set()
    unfinished = {trial.number for trial in trials if not trial.state.is_finished()}
    numbers = [trial.number for trial in trials]
    used = _used_elsewhere(handle.layout)
    sources = {number for number in numbers if real_path(handle.layout.trial(number).best) in used}
    stay = best | published | sources
    return plan_removal(numbers, best_numbers=stay, unfinished_numbers=unfinished, layout=handle.layout)


def _used_elsewhere(layout: StudyLayout) -> set[Path]:
    """The checkpoints that the other studies of the experiment start from."""
    found: set[Path] = set()
    for other in ExperimentLayout(layout.root, layout.experiment).studies():
        if other.study != layout.study:
            experiment = load_stored_study(other.study_yaml).experiment
            teacher = experiment.train.teacher
            named = (experiment.model.weights, teacher.checkpoint if teacher else "")
            found |= {real_path(Path(name)) for name in named}
    return found
