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

from attnsearch.config.load import LoadedStudy, starts_from
from attnsearch.data.loader import DataSource
from attnsearch.data.thumbnails import write_thumbnails
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.files import Check, atomic_path, atomic_write, disk_errors, make_folder, real_path
from attnsearch.search.choice import best_trials
from attnsearch.search.handle import StudyHandle, open_handle
from attnsearch.search.trials import best_epoch
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.epochs import read_csv, write_metrics_row
from attnsearch.store.evaluation_log import EvaluationLog, log_test_evaluation
from attnsearch.store.image_scores import best_scores, read_scores
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retention import RemovableFile, large_files
from attnsearch.store.study_files import MANIFEST_FORMAT, read_manifest
from attnsearch.store.trial_layout import PublishedLayout, TrialLayout
from attnsearch.types import Split

logger = logging.getLogger(__name__)


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

    def described(self, layout: StudyLayout) -> dict[str, Any]:
        """Its entry in the manifest."""
        folder = self.target.directory.relative_to(layout.experiment_dir).as_posix()
        return {"trial": self.number, "epoch": self.epoch, "folder": folder}

    def staged(self, layout: StudyLayout) -> TrialToPublish:
        """With the folder in which its files are made before they replace others."""
        folder = layout.staging / self.target.directory.relative_to(layout.experiment_dir)
        return replace(self, target=replace(self.target, directory=folder))


def publish_study(handle: StudyHandle, data: DataSource, *, check: Check | None = None) -> Path | None:
    """Publishes the best trial, and each Pareto trial of a study with several objectives.

    Where the right sets are published already, nothing is evaluated again; else a second publication replaces the
    first one whole. Each evaluation on the test split, one per published trial, is counted in the database.

    Args:
        check: called before published files are replaced.
    Returns:
        The manifest, or None while no feasible trial is complete, and where trials of another study are repeated:
        nothing is chosen among those.
    """
    chosen = [] if handle.loaded.study.repeats else trials_to_publish(handle)
    return publish(handle.layout, chosen, data, log=handle.store, check=check) if chosen else None


def trials_to_publish(handle: StudyHandle) -> list[TrialToPublish]:
    """The trial for the flat files first, then the Pareto trials, each with its own folder."""
    config = handle.loaded.study
    best = best_trials(handle.study, config, k=1)
    flat = [_to_publish(handle.layout, trial, is_flat=True) for trial in best[:1]]
    front = best if len(config.objectives) > 1 else []
    return [*flat, *(_to_publish(handle.layout, trial, is_flat=False) for trial in front)]


def _to_publish(layout: StudyLayout, trial: FrozenTrial, *, is_flat: bool) -> TrialToPublish:
    number, epoch = trial.number, int(best_epoch(trial.user_attrs))
    target = layout.published(epoch) if is_flat else layout.pareto(number, epoch)
    return TrialToPublish(number, epoch, layout.trial(number), target)


def publish(
    layout: StudyLayout,
    chosen: Sequence[TrialToPublish],
    data: DataSource,
    *,
    log: EvaluationLog,
    check: Check | None = None,
) -> Path:
    """Makes the published sets of some trials of one study, then replaces those before them; the manifest is last.

    Args:
        log: where evaluations on the test split are counted.
        check: as `publish_study`.
    """
    sets = [one.described(layout) for one in chosen]
    if _is_published(layout, sets):
        discard_staged(layout)
        return layout.published_json
    names = staged_names(layout, sets)
    if names is None:
        discard_staged(layout)  # what a publication that was cut off has left there
        make_folder(layout.staging)
        files = _write_sets(layout, [one.staged(layout) for one in chosen], data, log)
        names = finish_staging(layout, sets, files)
    if check is not None:
        check()
    return put_in_place(layout, names)


def _is_published(layout: StudyLayout, sets: Sequence[dict[str, Any]]) -> bool:
    """Whether these sets are published, with all their files."""
    manifest = read_manifest(layout)
    if manifest is None or manifest["sets"] != sets:
        return False
    return all((layout.experiment_dir / name).exists() for name in manifest["files"])


def _write_sets(
    layout: StudyLayout, chosen: Sequence[TrialToPublish], data: DataSource, log: EvaluationLog
) -> list[Path]:
    """The files of all sets; a trial that has two of them is evaluated once, and its second set is a copy."""
    of_trial: dict[int, list[Path]] = {}
    files: list[Path] = []
    for one in chosen:
        if one.number in of_trial:
            files += [_copy(path, one.target.directory) for path in of_trial[one.number]]
        else:
            log_test_evaluation(log, layout, one.number, one.epoch, _split_of(data))
            of_trial[one.number] = publish_trial(layout, one, data)
            files += of_trial[one.number]
    return files


def _copy(path: Path, folder: Path) -> Path:
    with atomic_path(folder / path.name) as temporary:
        shutil.copyfile(path, temporary)
    return folder / path.name


def _split_of(data: DataSource) -> Split:
    """The split that a trial is published with."""
    return "val" if data.tables.test is None else "test"


def publish_trial(layout: StudyLayout, chosen: TrialToPublish, data: DataSource) -> list[Path]:
    """Writes one published set: scores of each split, maps and index of the test images, small copies of them."""
    split = _split_of(data)
    if split == "val":
        logger.warning("%s has no test split: the published maps and scores are those of validation", layout.study)
    logger.info("publishing trial %d: %d %s images", chosen.number, len(data.tables.of(split)), split)
    archive = chosen.target.archive(split)
    with Evaluation.open(chosen.trial.best, data) as evaluation:
        scores = _of_split(evaluation.run(split, archive=archive), f"{split}/") | evaluation.floors(split)
    written = _write_scores(chosen, {split: scores})
    _write_copies(layout, chosen, data, split)
    return [*written, *(path for path in archive.all if path.exists())]


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
    of_saliency = best_scores(chosen.trial, "val")
    if of_saliency is not None:  # measured at the end of the trial, or in a race after the last one
        by_split["val"] |= read_scores(of_saliency).trial_means()
    by_split |= measured
    paths = []
    for split, scores in by_split.items():
        paths.append(chosen.target.model_csv(split))
        write_metrics_row(paths[-1], scores)
    return paths


def _of_split(scores: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in scores.items() if name.startswith(prefix)}


def removable(handle: StudyHandle) -> list[RemovableFile]:
    """What retention would delete now: weights and maps of all but the best k, published and unfinished trials.

    A trial that another study of the experiment has as its teacher, or starts from, stays as well.
    """
    study, layout, trials = handle.loaded.study, handle.layout, handle.trials()
    best = {trial.number for trial in best_trials(handle.study, study, k=study.retention.best_k)}
    manifest = read_manifest(layout)
    published = {one["trial"] for one in manifest["sets"]} if manifest is not None else set()
    used = _used_elsewhere(layout)
    others = [trial.number for trial in trials if trial.state.is_finished() and trial.number not in best | published]
    return large_files((number for number in others if real_path(layout.trial(number).best) not in used), layout)


def removable_of(loaded: LoadedStudy, layout: StudyLayout, url: str) -> list[RemovableFile]:
    """As `removable`, of a study that is not open."""
    return removable(open_handle(loaded, layout, url))


def _used_elsewhere(layout: StudyLayout) -> set[Path]:
    """The checkpoints that the other studies of the experiment start from."""
    found: set[Path] = set()
    for other in layout.shared.studies():
        if other.study != layout.study:
            found |= {real_path(Path(name)) for name in starts_from(other.study_yaml)}
    return found
