"""Publishes the chosen trial of a study: scores it on the test split, once, and writes the files that users know."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from optuna.trial import FrozenTrial

from attnsearch.config.load import load_stored_study
from attnsearch.data.loader import DataSource
from attnsearch.evaluation.collect import collect
from attnsearch.evaluation.thumbnails import write_thumbnails
from attnsearch.models.kept import read_kept
from attnsearch.search.session import Session
from attnsearch.search.staging import discard_staged, finish_staging, put_in_place, staged, staged_names, start_staging
from attnsearch.search.study import best_trials
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.files import atomic_path, atomic_write, disk_errors, locked, real_path
from attnsearch.store.layout import ExperimentLayout, PublishedLayout, StudyLayout, TrialLayout
from attnsearch.store.manifest import read_manifest
from attnsearch.store.records import read_csv, write_scores
from attnsearch.store.retention import RemovableFile, plan_removal
from attnsearch.store.scores import has_scores, read_scores
from attnsearch.types import Split

logger = logging.getLogger(__name__)

LOOKS_TIMEOUT_S = 60


@dataclass(frozen=True)
class Chosen:
    """A trial whose kept checkpoint is worth publishing."""

    number: int
    epoch: int
    trial: TrialLayout
    target: PublishedLayout


def publish_study(session: Session, data: DataSource) -> Path | None:
    """Publishes the best trial, and each Pareto trial of a study with several objectives.

    Where the right sets are published already, nothing is evaluated again; else a second publication replaces the
    first one whole. Each look at the test split, one per chosen trial, is a line of `test_looks.csv`.

    Returns:
        The manifest, or None while no feasible trial is complete.
    """
    chosen = choose(session)
    if not chosen:
        return None
    return publish(session.layout, chosen, data)


def choose(session: Session) -> list[Chosen]:
    """The trial for the flat files first, then the Pareto trials, each with its own folder."""
    config, layout = session.loaded.study, session.layout
    best = best_trials(session.study, config, k=1)
    if not best:
        return []
    flat = _chosen(layout, best[0], layout.published(_kept_epoch(best[0])))
    front = best if len(config.objectives) > 1 else []
    return [flat, *(_chosen(layout, t, layout.pareto(t.number, _kept_epoch(t))) for t in front)]


def _kept_epoch(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["kept_epoch"])


def _chosen(layout: StudyLayout, trial: FrozenTrial, target: PublishedLayout) -> Chosen:
    return Chosen(trial.number, _kept_epoch(trial), layout.trial(trial.number), target)


def publish(layout: StudyLayout, chosen: Sequence[Chosen], data: DataSource) -> Path:
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


def _write_sets(layout: StudyLayout, chosen: Sequence[Chosen], data: DataSource) -> list[Path]:
    """The files of all sets; a trial that has two of them is looked at once, and its second set is a copy."""
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


def publish_trial(layout: StudyLayout, chosen: Chosen, data: DataSource) -> list[Path]:
    """Writes one published set: scores of each split, maps and index of the test images, small copies of them."""
    split: Split = "val" if data.tables.test is None else "test"
    if split == "val":
        logger.warning("%s has no test split: the published maps and scores are those of validation", layout.study)
    logger.info("publishing trial %d: %d %s images", chosen.number, len(data.tables.of(split)), split)
    note_look(layout, chosen.number, chosen.epoch, split)
    config = read_kept(chosen.trial.kept).config
    archive = chosen.target.archive(split)
    scores = collect(config, chosen.trial.kept, data, split, archive=archive)
    written = _write_scores(chosen, {split: _of_split(scores, f"{split}/")})
    _write_copies(layout, chosen, data, split)
    return [*written, *(path for path in (*archive.arrays.values(), archive.about, archive.images) if path.exists())]


def _write_copies(layout: StudyLayout, chosen: Chosen, data: DataSource, split: Split) -> None:
    """Small copies of all pictures whose maps lie in the results: the published ones, and those of validation."""
    table = data.tables.of(split)
    write_thumbnails(table, table.image_ids, layout.thumbnail)
    kept = chosen.trial.archive("val")
    if has_archive(kept):  # the same images in all trials of a study
        write_thumbnails(data.tables.val, read_archive(kept, index_only=True).image_ids, layout.thumbnail)


def _write_scores(chosen: Chosen, measured: dict[Split, dict[str, float]]) -> list[Path]:
    """`model<study>_epoch<E>_<split>.csv`: one row each; train and val of the kept epoch, val with scores."""
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
        write_scores(paths[-1], scores)
    return paths


def _score_means(chosen: Chosen) -> dict[str, float]:
    """What was measured of the saliency at the end of the trial; nothing where it was not scored."""
    paths = chosen.trial.scores("val")
    if not has_scores(paths):
        return {}
    return read_scores(paths).trial_means()


def _of_split(scores: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in scores.items() if name.startswith(prefix)}


def note_look(layout: StudyLayout, number: int, epoch: int, split: Split) -> None:
    """Adds a line to `test_looks.csv` before the split is opened, so that no look goes unseen.

    Raises:
        StoreError: the disk refuses, or another process never ends its line.
    """
    path = layout.test_looks
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with locked(layout.looks_lock, timeout_s=LOOKS_TIMEOUT_S):
        with disk_errors(path):
            before = path.read_text(encoding="utf-8") if path.exists() else "time,trial,epoch,split\n"
        atomic_write(path, f"{before}{now},{number},{epoch},{split}\n")


def _relative(path: Path, layout: StudyLayout) -> str:
    return path.relative_to(layout.experiment_dir).as_posix()


def removable(session: Session) -> list[RemovableFile]:
    """What retention would delete now: weights and maps of all but the best k, published and unfinished trials.

    A trial that another study of the experiment has as its teacher, or starts from, stays as well.
    """
    config = session.loaded.study
    trials = session.trials()
    best = {trial.number for trial in best_trials(session.study, config, k=config.retention.best_k)}
    manifest = read_manifest(session.layout)
    published = {one["trial"] for one in manifest["sets"]} if manifest is not None else set()
    unfinished = {trial.number for trial in trials if not trial.state.is_finished()}
    numbers = [trial.number for trial in trials]
    used = _used_elsewhere(session.layout)
    sources = {number for number in numbers if real_path(session.layout.trial(number).kept) in used}
    stay = best | published | sources
    return plan_removal(numbers, best_numbers=stay, unfinished_numbers=unfinished, layout=session.layout)


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
