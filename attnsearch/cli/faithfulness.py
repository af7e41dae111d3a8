"""What `faithfulness` does: the full measure of one trial's saliency, its files, its rows in the database."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli.checkpoints import kept_of
from attnsearch.cli.found import find_run
from attnsearch.config.evaluation import FULL_N_IMAGES, ScoreSettings, full_score_settings
from attnsearch.config.load import with_overrides, with_settings, without_variables
from attnsearch.errors import ConfigError
from attnsearch.metrics.registry import higher_is_better
from attnsearch.store.image_scores import has_scores, read_scores
from attnsearch.store.layout import ArchivePaths, ScorePaths, StudyLayout
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.config.experiment import ExperimentConfig
    from attnsearch.store.image_scores import ScoreTable

PREFIX = "evaluation.scores."
MAX_MASKED_SCORE = 0.3
"""Mean probability of the filled image above which the fill is no removal."""


@dataclass(frozen=True)
class ScoringTarget:
    """Whose saliency is scored: a trial, its archive, and where the scores go."""

    layout: StudyLayout
    number: int
    archive: ArchivePaths
    scores: ScorePaths
    split: Split
    is_published: bool


def find_target(name: str, trial: int | None, root: Path) -> ScoringTarget:
    """The published trial on its published split, or a named one on validation.

    Raises:
        ConfigError: no such study or run, or nothing is published yet.
    """
    from attnsearch.store.manifest import read_manifest

    layout = find_run(name, root)
    if trial is not None:
        files = layout.trial(trial)
        return ScoringTarget(layout, trial, files.archive("val"), files.scores("val"), "val", is_published=False)
    manifest = read_manifest(layout)
    if manifest is None:
        raise ConfigError(f"nothing is published of {layout.study!r} yet; name a trial with --trial")
    chosen = manifest["sets"][0]
    published = layout.published(chosen["epoch"])
    split: Split = "test" if published.archive("test").images.exists() else "val"
    scores = layout.trial(chosen["trial"]).scores(split)
    return ScoringTarget(layout, chosen["trial"], published.archive(split), scores, split, is_published=True)


def full_settings(settings: ScoreSettings, n_archived: int) -> ScoreSettings:
    """The full measure of as many images as there are, up to `FULL_N_IMAGES`; the rest as the run has it."""
    kept = settings.model_dump(include={"target", "grid", "precision", "batch_images", "fill", "protocol"})
    full = full_score_settings()
    second = full.second_fill if settings.fill != full.second_fill else full.fill
    return full.model_copy(update={**kept, "second_fill": second, "n_images": min(FULL_N_IMAGES, n_archived)})


def score_target(target: ScoringTarget, overrides: Iterable[str]) -> tuple[ExperimentConfig, ScoreTable]:
    """Scores a target, or reads the scores where they were made with the same settings.

    Args:
        overrides: `key=value`; keys of `evaluation.scores` may be written without their prefix.
    Raises:
        ConfigError, DataError, StoreError: as `score_archive`.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models.checkpoint import read_model_checkpoint
    from attnsearch.store.archive import read_archive
    from attnsearch.store.trial_store import log_test_evaluation

    kept = read_model_checkpoint(kept_of(target.layout, target.number))
    n_archived = len(read_archive(target.archive).image_ids)
    full = full_settings(kept.config.evaluation.scores, n_archived).model_dump(mode="json")
    base = with_settings(without_variables(kept.config), {f"{PREFIX}{key}": value for key, value in full.items()})
    config = with_overrides(base, _with_prefix(overrides))
    data = open_data(config.data)
    if target.split == "test":
        log_test_evaluation(target.layout, target.number, kept.epoch, target.split)
    thresholds = _thresholds(target)
    with Evaluation.open(kept, data, config=config) as evaluation:
        return config, evaluation.score(target.archive, target.scores, iou_thresholds=thresholds)


def _thresholds(target: ScoringTarget) -> dict[str, float]:
    """What the trial's validation scores chose for test images, which may not choose for themselves."""
    paths = target.layout.trial(target.number).scores("val")
    if target.split != "test" or not has_scores(paths):
        return {}
    return dict(read_scores(paths).about.get("iou_thresholds", {}))


def _with_prefix(overrides: Iterable[str]) -> list[str]:
    return [text if "." in text.partition("=")[0] else PREFIX + text for text in overrides]


def store_scores(target: ScoringTarget, table: ScoreTable, storage: str | None) -> list[str]:
    """Puts the means into the study's database and, of the published trial, the files that BR-NPA's users know.

    Args:
        storage: as `reader_url`.
    Returns:
        Paths of those files.
    """
    from attnsearch.search.study import UUID
    from attnsearch.search.trials import open_to_read, reader_url
    from attnsearch.store.br_npa_files import METRIC_OF_CURVE, write_areas
    from attnsearch.store.trial_store import opened_trial_store

    if target.layout.study_yaml.exists():
        url = reader_url(target.layout, storage)
        uuid = str(open_to_read(url, target.layout.study).user_attrs[UUID])
        with opened_trial_store(url, uuid, target.layout) as store:
            store.write_scores(target.number, table, attempt=None)
    if not target.is_published:
        return []
    curves = [curve for curve, metric in METRIC_OF_CURVE.items() if metric in table.curve_names]
    return [name for curve in curves for name in write_areas(target.layout, curve, table)]


def print_scores(target: ScoringTarget, table: ScoreTable, files: Sequence[str], *, as_json: bool) -> None:
    """The means with their settings; undefined values are counted."""
    means, undefined = table.means(), table.n_undefined()
    about = {key: table.about[key] for key in ("version", "settings", "grid", "checkpoint")}
    if as_json:
        shared = {"study": target.layout.study, "trial": target.number, "split": target.split}
        counts = {"n_images": len(table.image_ids), "scores": means, "n_undefined": undefined}
        print_json({**shared, **counts, **about, "floors": table.about.get("floors", {})})
        return
    rows, columns = table.about["grid"]
    settings = table.about["settings"]
    title = (
        f"{target.layout.study}, trial {target.number}, {len(table.image_ids)} {target.split} images, maps of "
        f"{rows}x{columns} cells, {len(table.fractions) - 1} steps, fill {settings['fill']}, metrics of version "
        f"{table.about['version']}"
    )
    lines = [
        (name, "higher" if higher_is_better(f"val/{name}") else "lower", number(mean),
         str(undefined.get(name, "")))
        for name, mean in means.items()
    ]  # fmt: skip
    print_table(("score", "better", "mean", "undefined"), lines, title=title)
    for note in _notes(table):
        print_line(f"note: {note}")
    print_line(f"one row per image: {target.scores.table}")
    for name in files:
        print_line(f"written: {target.layout.experiment_dir / name}")


def _notes(table: ScoreTable) -> Iterable[str]:
    """What the numbers should be read with."""
    means, settings = table.means(), table.about["settings"]
    if means.get("masked_score", 0.0) > MAX_MASKED_SCORE:
        yield (
            f"the classes keep a probability of {number(means['masked_score'])} when all cells are removed, so "
            f"the fill {settings['fill']!r} removes too little; see another one with fill=black or fill=blur"
        )
    if table.whole:
        floors = ", ".join(f"{number(value)} for a {name} map" for name, value in table.about["floors"].items())
        yield (
            f"part_consistency is of all {table.about['n_archived']} archived images, of which each class needs "
            f"several; it would be {floors}"
        )
    thresholds = table.about.get("iou_thresholds", {})
    missing = [f"best_{name}" for name in ("iou_in_mask", "iou_in_box") if name in means and name not in thresholds]
    if missing:
        yield (
            f"{' and '.join(missing)} must not be chosen on test images: score the trial on validation first, "
            "by naming it with --trial"
        )
    for name, threshold in thresholds.items():
        if math.isnan(means[f"best_{name}"]):
            continue
        yield f"best_{name} is at {threshold} of the map's maximum, chosen on validation"
