"""The full measure of one trial's saliency: its files, its rows in the database, baseline maps beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.evaluation import FULL_N_IMAGES, ScoreSettings, full_score_settings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_settings
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write, csv_text
from attnsearch.results.checkpoints import open_evaluation
from attnsearch.results.reader import find_study
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.search.study import UUID
from attnsearch.search.trials import open_to_read, reader_url
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import (
    METRIC_OF_CURVE,
    ScoreTable,
    has_scores,
    read_scores,
    remove_journal,
    write_areas,
)
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retrieval import n_explained
from attnsearch.store.trial_layout import ArchivePaths, ScorePaths
from attnsearch.store.trial_store import opened_trial_store
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.evaluation import Evaluation

PREFIX = "evaluation.scores."
MAX_MASKED_SCORE = 0.3
"""Mean probability of the filled image above which the fill is no removal."""
GAIN = "relevance_gain"
"""Of which a table by class is made."""
PART_CHECKS = ("csdc", "preservation_check", "deletion_check", "distractibility")
"""Scores of the family `parts` that have one threshold."""
OWN = "own map"
"""The model's saliency, beside baseline maps."""


@dataclass(frozen=True)
class ScoringTarget:
    """Whose saliency is scored: a trial, its archive, and where the scores go."""

    trial: TrialReader
    archive: ArchivePaths
    scores: ScorePaths
    split: Split
    is_published: bool

    @property
    def layout(self) -> StudyLayout:
        """Of the study."""
        return self.trial.study.layout

    @property
    def number(self) -> int:
        """Of the trial."""
        return self.trial.number


def find_target(name: str, trial: int | None, root: Path) -> ScoringTarget:
    """The published trial on its published split, or a named one on validation.

    Raises:
        ConfigError: no such study, or nothing is published yet.
    """
    return target_of(find_study(name, root), trial)


def target_of(study: StudyReader, trial: int | None) -> ScoringTarget:
    """As `find_target`, of an open study.

    Raises:
        ConfigError: nothing is published yet.
    """
    if trial is not None:
        files = study.layout.trial(trial)
        return ScoringTarget(study.trial(trial), files.archive("val"), files.scores("val"), "val", is_published=False)
    first = study.first_published()
    if first is None:
        raise ConfigError(f"nothing is published of {study.layout.study!r} yet; name a trial with --trial")
    published = study.layout.published(first["epoch"])
    split: Split = "test" if published.archive("test").images.exists() else "val"
    scores = study.layout.trial(first["trial"]).scores(split)
    return ScoringTarget(study.trial(first["trial"]), published.archive(split), scores, split, is_published=True)


def full_settings(settings: ScoreSettings, n_archived: int, task: str) -> ScoreSettings:
    """The full measure of as many images as there are, up to `FULL_N_IMAGES`; the rest as the run has it.

    Args:
        n_archived: images, or queries with a match, whose maps are archived.
    """
    own = settings.model_dump(include={"target", "grid", "precision", "batch_images", "fill", "protocol"})
    full = full_score_settings(task)
    second = full.second_fill if settings.fill != full.second_fill else full.fill
    return full.model_copy(update={**own, "second_fill": second, "n_images": min(FULL_N_IMAGES, n_archived)})


def open_target(target: ScoringTarget, overrides: Iterable[str]) -> Evaluation:
    """The checkpoint of a target under the settings of the full measure; a test evaluation is logged.

    Args:
        overrides: `key=value`; keys of `evaluation.scores` may be written without their prefix.
    Raises:
        ConfigError, DataError, StoreError: as `open_evaluation` and `read_archive`.
    """
    n_archived = n_explained(read_archive(target.archive))

    def settle(config: ExperimentConfig) -> ExperimentConfig:
        full = full_settings(config.evaluation.scores, n_archived, config.task.name).model_dump(mode="json")
        return with_settings(config, {f"{PREFIX}{key}": value for key, value in full.items()})

    return open_evaluation(target.trial, target.split, _with_prefix(overrides), settle=settle)


def score_target(evaluation: Evaluation, target: ScoringTarget) -> ScoreTable:
    """Scores a target, or reads the scores where they were made with the same settings.

    Raises:
        ConfigError, DataError, StoreError: as `score_archive`.
    """
    table = evaluation.score(target.archive, target.scores, of_validation=_of_validation(target))
    remove_journal(target.scores)
    return table


def _of_validation(target: ScoringTarget) -> ScoreTable | None:
    """The trial's scores of validation, by which test images are scored; None for other images or without such."""
    paths = target.trial.files.scores("val")
    return read_scores(paths) if target.split == "test" and has_scores(paths) else None


def _with_prefix(overrides: Iterable[str]) -> list[str]:
    return [text if "." in text.partition("=")[0] else PREFIX + text for text in overrides]


def is_right_answer(target: ScoringTarget, table: ScoreTable) -> NDArray[np.bool_]:
    """(N,) whether the answer for each scored image is right: its class, or who is on the nearest gallery image.

    Raises:
        StoreError: the archive is damaged.
    """
    images = target.trial.images(target.split)
    return images.loc[list(table.image_ids), "is_correct"].to_numpy(dtype=bool)


@dataclass(frozen=True)
class ClassScores:
    """The relevance gain of the images that follow one class, and what is left of the class when all is removed.

    Attributes:
        untouched, filled: mean probability of the class, before and after all cells are removed.
        gain: NaN where the class loses too little, and its standard error.
    """

    name: str
    n_images: int
    untouched: float
    filled: float
    gain: float
    error: float


def scores_by_class(target: ScoringTarget, table: ScoreTable) -> list[ClassScores]:
    """The gain by the class that was followed, which is the predicted one by default; empty in re-identification.

    Raises:
        StoreError: the archive is damaged.
    """
    if target.trial.config.task.name != "classification" or not table.is_gain(GAIN):
        return []
    images = target.trial.images(target.split).loc[list(table.image_ids)]
    column = "true_class" if table.about["settings"].get("target") == "label" else "predicted_class"
    followed = images[column].to_numpy(dtype=str)
    return [_class_scores(str(name), table.among(followed == name)) for name in np.unique(followed)]


def _class_scores(name: str, table: ScoreTable) -> ClassScores:
    untouched, filled = (float(table.terms[f"{GAIN}.{end}"].mean()) for end in ("untouched", "filled"))
    gain, error = table.means()[GAIN], table.standard_errors()[GAIN]
    return ClassScores(name, len(table.image_ids), untouched, filled, gain, error)


def resembled_note(classes: Sequence[ClassScores]) -> str | None:
    """Which classes the filled images look like to the model; None where it sees none in them."""
    names = [one.name for one in classes if one.filled > MAX_MASKED_SCORE]
    if not names:
        return None
    return (
        f"images without any cell are still taken for {', '.join(names)}, with a mean probability above "
        f"{MAX_MASKED_SCORE}, so the gain of these images says least"
    )


def store_scores(target: ScoringTarget, table: ScoreTable, storage: str | None) -> list[str]:
    """Puts the means into the study's database and, of the published trial, the files that BR-NPA's users know.

    Args:
        storage: as `reader_url`.
    Returns:
        Paths of those files.
    """
    if target.layout.study_yaml.exists():
        url = reader_url(target.layout, storage)
        uuid = str(open_to_read(url, target.layout).user_attrs[UUID])
        with opened_trial_store(url, uuid, target.layout) as store:
            store.write_scores(target.number, table, attempt=None)
    if not target.is_published:
        return []
    curves = [curve for curve, metric in METRIC_OF_CURVE.items() if metric in table.curve_names]
    return [name for curve in curves for name in write_areas(target.layout, curve, table)]


def score_notes(table: ScoreTable, config: ExperimentConfig) -> Iterator[str]:
    """What the numbers of a run should be read with, a line each."""
    means, settings = table.means(), table.about["settings"]
    if config.task.name == "classification" and means.get("masked_score", 0.0) > MAX_MASKED_SCORE:
        yield (
            f"the classes keep a probability of {means['masked_score']:.4g} when all cells are removed, so "
            f"the fill {settings['fill']!r} removes too little; see another one with fill=black or fill=blur"
        )
    if table.whole:
        floors = ", ".join(
            f"{'-' if value is None else f'{value:.4g}'} for a {name} map"
            for name, value in table.about["floors"].items()
        )
        yield (
            f"part_consistency is of all {table.about['n_archived']} archived images, of which each class needs "
            f"several; it would be {floors}"
        )
    yield from _threshold_notes(means, table.about.get("iou_thresholds", {}))
    if "sd_swap" in means:
        yield from _part_notes(table, config)


def _part_notes(table: ScoreTable, config: ExperimentConfig) -> Iterator[str]:
    """What the scores of the family `parts` should be read with."""
    threshold = table.about.get("iou_thresholds", {}).get(PART_CHECKS[0])
    checks = f"{', '.join(PART_CHECKS)} and completeness"
    if threshold is None:
        yield (
            f"{checks} need a threshold that must not be chosen on test images: score the trial on validation first, "
            "by naming it with --trial"
        )
    else:
        yield f"{checks} hold a part important that has more than {threshold} of the map's sum, chosen on validation"
    if not getattr(config.data, "missing_parts", 0.0):
        yield (
            "sd, target_sensitivity, distractibility and the checks remove parts, which no training image lacks; read "
            "sd_swap and flip_rate, or train with data.missing_parts=0.5"
        )
    yield from (f"{name} is undefined, {reason}" for name, reason in table.reasons.items())


def _threshold_notes(means: Mapping[str, float], thresholds: Mapping[str, float]) -> Iterator[str]:
    """At which threshold each best IoU is, or that there is none."""
    missing = [f"best_{name}" for name in ("iou_in_mask", "iou_in_box") if name in means and name not in thresholds]
    if missing:
        yield (
            f"{' and '.join(missing)} must not be chosen on test images: score the trial on validation first, "
            "by naming it with --trial"
        )
    for name, threshold in thresholds.items():
        if math.isnan(means.get(f"best_{name}", math.nan)):
            continue
        yield f"best_{name} is at {threshold} of the map's maximum, chosen on validation"


def check_baselines(names: Sequence[str]) -> None:
    """Checks the names of baseline maps.

    Raises:
        ConfigError: one is unknown.
    """
    from attnsearch.evaluation.baselines import check_names  # imports torch

    check_names(names)


def score_baseline_maps(
    evaluation: Evaluation, target: ScoringTarget, own: ScoreTable, names: Sequence[str]
) -> tuple[dict[str, ScoreTable], Path]:
    """Scores baseline maps beside the model's own map, and writes their table.

    Returns:
        Name -> scores, the own map first, and the file.
    Raises:
        ConfigError: a baseline that this model or data set cannot have.
    """
    tables = {OWN: own, **evaluation.baselines(target.archive, names)}
    path = target.trial.files.baselines_csv(target.split)
    atomic_write(path, _to_csv(tables))
    return tables, path


def _to_csv(tables: Mapping[str, ScoreTable]) -> str:
    """A row per map; metrics that some map lacks on some images have a second column with their number."""
    metrics = list(tables[OWN].means())
    counts = {name: table.n_undefined() for name, table in tables.items()}
    counted = [metric for metric in metrics if any(metric in undefined for undefined in counts.values())]
    rows: list[list[object]] = [["map", *metrics, *(f"{metric}_undefined" for metric in counted)]]
    for name, table in tables.items():
        means = table.means()
        cells = (means.get(metric, float("nan")) for metric in metrics)
        numbers = (counts[name].get(metric, 0) for metric in counted)
        rows.append([name, *("" if value != value else repr(float(value)) for value in cells), *numbers])
    return csv_text(rows)
