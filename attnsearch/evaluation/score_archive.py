"""Scores the saliency of an archive, image by image, against the checkpoint that made it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from attnsearch.config.evaluation import DEFAULT_N_IMAGES, VERSION, ScoreSettings
from attnsearch.data.fixed_rows import explained_rows, fixed_subset
from attnsearch.data.tables import ImageTable, places_of
from attnsearch.device import device_errors
from attnsearch.errors import ConfigError, DataError
from attnsearch.evaluation.archive_checks import RANKED, check_compatible, check_same_images
from attnsearch.evaluation.base import ModelOnData
from attnsearch.evaluation.final_scores import finish_scores
from attnsearch.evaluation.scorer import SaliencyScorer, archive_scores, ground_truth
from attnsearch.metrics.registry import BUILT_IN, score_metrics
from attnsearch.metrics.removal import curve_fractions
from attnsearch.progress import with_bar
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable, has_scores, make_table, read_scores, write_score_files
from attnsearch.store.score_journal import ImageScore, ScoreJournal
from attnsearch.store.trial_layout import ArchivePaths, ScorePaths
from attnsearch.tasks.base import Target
from attnsearch.types import AttentionArchive, Batch, GroundTruth

logger = logging.getLogger(__name__)

CHUNK_IMAGES = 8
"""Images whose scores are written at once; a kill loses at most so many."""


@device_errors()
def score_archive(
    opened: ModelOnData,
    archive: ArchivePaths,
    scores: ScorePaths,
    *,
    settings: ScoreSettings | None = None,
    of_validation: ScoreTable | None = None,
    check: Callable[[], None] = lambda: None,
) -> ScoreTable:
    """Scores the saliency of an archive on a fixed fraction of its images, and writes the files of `scores`.

    The images are those of `fixed_subset`: the same for all trials, stratified by class, and more of them include the
    fewer. A scoring that was cut off continues after its last chunk, one of more images after those that its journal
    holds; one with the same digest is read, not repeated. The journal stays until the caller removes it.

    Args:
        opened: the checkpoint that made the archive, on the data set of the archive.
        settings: None takes `config.evaluation.scores`.
        of_validation: the scores of validation images, whose thresholds and temperature are taken; without them
            thresholds are chosen on these images, or, on test, the best IoU and the calibrated gain are left out.
        check: called between chunks and before each file gets its name.
    Returns:
        The scores, as they lie on the disk. An image whose map has NaN is undefined in all of them.
    Raises:
        ConfigError: the archive is of another checkpoint or has no saliency, or more images are asked for than it has.
        DataError: the data set has other images or classes, or cannot be read.
        StoreError: files are missing, or the disk refuses.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    validated: Mapping[str, Any] = {} if of_validation is None else of_validation.about
    chosen = validated.get("iou_thresholds", {})
    scoring = ArchiveScoring.start(opened, archive, settings, validated.get("temperature"))
    about = scoring.about(chosen)
    if has_scores(scores) and (stored := read_scores(scores)).digest == about["digest"]:
        return stored
    journal = ScoreJournal(scores.journal, _row_digest(about))
    done = _score_rest(scoring, journal, check=check)
    n_broken = int((~np.isfinite(scoring.saliency).all(axis=(1, 2))).sum())
    if n_broken:
        logger.warning(
            "%s: %d of %d maps are not finite; their scores are undefined", archive.saliency, n_broken, len(scoring.ids)
        )
    rows = [done[image_id] for image_id in scoring.ids]
    rows, thresholds = finish_scores(rows, scoring.archived.split, chosen)
    whole = archive_scores(scoring.archived, scoring.table, scoring.settings, opened.config)
    table = make_table(rows, scoring.fractions, {**about, "iou_thresholds": thresholds, **_without_nan(whole)})
    table = replace(table, about={**table.about, **scoring.undefined_reasons(table)})
    write_score_files(scores, table, check=check)
    return table


@device_errors()
def score_image(
    opened: ModelOnData, archive: ArchivePaths, image_id: str, *, settings: ScoreSettings, stored: Mapping[str, Any]
) -> ScoreTable:
    """Scores the saliency of one archived image as `score_archive` does; nothing is written.

    Args:
        stored: what the scores beside it were measured with, whose thresholds and temperature are taken; without
            thresholds the best IoU is left out, since a threshold of one image would flatter it.
    Raises:
        ConfigError, DataError, StoreError, OutOfMemory, DeviceError: as `score_archive`.
    """
    scoring = ArchiveScoring.start(opened, archive, settings, stored.get("temperature"), image_ids=(image_id,))
    rows, thresholds = finish_scores(scoring.score(slice(1)), "test", stored.get("iou_thresholds", {}))
    return make_table(rows, scoring.fractions, {**scoring.about(), "iou_thresholds": thresholds})


@device_errors()
def score_baselines(
    opened: ModelOnData,
    archive: ArchivePaths,
    names: Sequence[str],
    *,
    settings: ScoreSettings | None = None,
) -> dict[str, ScoreTable]:
    """Scores baseline maps on the images, the model and the grid of an archive; nothing is written.

    Args:
        names: of `baselines.BASELINES`.
    Raises:
        ConfigError: as `score_archive` and `baseline_saliency`.
        DataError, StoreError: as `score_archive`.
    """
    scoring = ArchiveScoring.start(opened, archive, settings)
    for name in names:  # a baseline that this model cannot have fails at once, and not after the others
        scoring.score(slice(1), baseline=name)
    return {name: score_baseline(scoring, name) for name in names}


def score_baseline(scoring: ArchiveScoring, name: str) -> ScoreTable:
    """The scores of a baseline map on the images of a scoring."""
    steps = with_bar(scoring.chunks, f"Scoring {name}", n_steps=len(scoring.chunks), force=False)
    rows = [score for chunk in steps for score in scoring.score(chunk, baseline=name)]
    rows, thresholds = finish_scores(rows, scoring.archived.split, {})
    return make_table(rows, scoring.fractions, {**scoring.about(), "reference": name, "iou_thresholds": thresholds})


def scored_ids(archived: AttentionArchive, table: ImageTable, n_images: int | None) -> tuple[str, ...]:
    """The images that are scored, in the order of their split; in re-identification queries that have a match.

    Raises:
        ConfigError: more are asked for than the archive holds; the message says how many those are.
        DataError: the split has other images than the archive was made of.
    """
    queries, what = None, "images"
    if table.is_query is not None:
        kept = np.flatnonzero(np.isin(table.image_ids, archived.image_ids))
        queries, what = explained_rows(table, kept), "queries with a match"
    n_archived = len(archived.image_ids if queries is None else queries)
    if not n_archived or (n_images is not None and n_images > n_archived):
        raise ConfigError(
            f"evaluation.scores.n_images must be at most the {n_archived} archived {archived.split} {what}, "
            f"got {n_images}; lower it, or raise evaluation.n_images"
        )
    n_scored = min(n_images or DEFAULT_N_IMAGES, n_archived)
    rows = fixed_subset(table, n_scored) if queries is None else np.sort(queries[:n_scored])
    ids = tuple(table.image_ids[row] for row in rows)
    if missing := sorted(set(ids) - set(archived.image_ids)):
        raise DataError(
            f"the {table.split} split has {len(missing)} images to score that the archive lacks, the first is "
            f"{missing[0]!r}; use the data set that the trial was trained on, or archive the checkpoint again"
        )
    return ids


def _other_versions(settings: ScoreSettings, task: str) -> dict[str, dict[str, int]]:
    """Versions of the selected metrics that `VERSION` does not stand for: those of plugins, and changed ones."""
    versions = {
        metric.name: metric.version
        for metric in score_metrics()
        if metric.group in settings.families and metric.is_of(task) and (metric.version > 1 or metric not in BUILT_IN)
    }
    return {"metrics": versions} if versions else {}


def _row_digest(about: Mapping[str, Any]) -> str:
    """Of what the numbers of an image are measured with, whichever others are scored; `about` is of the scoring."""
    of_set = {"digest", "images", "saliency", "n_correct"}
    settings = {key: value for key, value in about["settings"].items() if key != "n_images"}
    row = {**{key: value for key, value in about.items() if key not in of_set}, "settings": settings}
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def _without_nan(parts: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """The same values for JSON, in which an undefined one is null."""
    return {
        part: {name: None if math.isnan(value) else value for name, value in values.items()}
        for part, values in parts.items()
    }


@dataclass(frozen=True, eq=False)
class ArchiveScoring:
    """One scoring of n images: the model on its data, and an archive of them.

    Attributes:
        ids: of the images, in the order of the split.
        rows, places: (n,) where they stand in the split and in the archive.
    """

    opened: ModelOnData
    archived: AttentionArchive
    scorer: SaliencyScorer
    ids: tuple[str, ...]
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    temperature: float | None

    @classmethod
    def start(
        cls,
        opened: ModelOnData,
        archive: ArchivePaths,
        settings: ScoreSettings | None,
        temperature: float | None = None,
        *,
        image_ids: tuple[str, ...] | None = None,
    ) -> ArchiveScoring:
        """Of an archive that fits the checkpoint and its data; one of validation has its own temperature.

        Args:
            image_ids: archived ones; None takes `scored_ids`.
        Raises:
            DataError: the data set lacks one of them.
        """
        settings = opened.config.evaluation.scores if settings is None else settings
        archived = read_archive(archive)
        check_compatible(opened, archived, archive)
        scorer = SaliencyScorer(opened, settings)
        table = opened.table(archived.split)
        ids = scored_ids(archived, table, settings.n_images) if image_ids is None else image_ids
        if missing := set(ids) - set(table.image_ids):
            raise DataError(f"the {table.split} split has no image {min(missing)!r}; use the data set of the training")
        rows, places = places_of(ids, table.image_ids), places_of(ids, archived.image_ids)
        fitted = archived.temperature if archived.split == "val" else temperature
        return cls(opened, archived, scorer, ids, rows, places, fitted)

    @property
    def settings(self) -> ScoreSettings:
        return self.scorer.settings

    @property
    def table(self) -> ImageTable:
        return self.opened.table(self.archived.split)

    @cached_property
    def saliency(self) -> NDArray[np.float32]:
        """(n, h, w) of the images, in the order of the archive."""
        assert self.archived.saliency is not None
        return self.archived.saliency[np.sort(self.places)]

    @cached_property
    def target(self) -> Target:
        """What is explained of the n images, on the device; a gallery is there once for all chunks."""
        target = self.opened.task.archived_target(
            self.archived, self.places, choice=self.settings.target, temperature=self.temperature
        )
        return target.to(self.opened.device)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the maps that are scored."""
        rows, columns = self.saliency.shape[1:]
        limit = self.settings.grid
        return (rows, columns) if limit is None else (min(rows, limit), min(columns, limit))

    @property
    def fractions(self) -> tuple[float, ...]:
        """Fractions of removed cells at the points of the curves."""
        return tuple(curve_fractions(torch.zeros(1, *self.grid), self.settings.n_steps).tolist())

    def about(self, iou_thresholds: Mapping[str, float] | None = None) -> dict[str, Any]:
        """What the numbers are measured with; the digest is of all of it, and of the images and their saliency."""
        checkpoint = self.opened.checkpoint
        about = {
            "version": VERSION,
            "settings": self.settings.identity(),
            "split": self.archived.split,
            "grid": list(self.grid),
            "iou_thresholds": dict(iou_thresholds or {}),
            "temperature": self.temperature,
            "n_correct": int((self.archived.labels == self.archived.predictions)[self.places].sum()),
            "n_archived": len(self.archived.image_ids),
            "checkpoint": {"epoch": checkpoint.epoch, "config": checkpoint.config.digest()},
            "images": hashlib.sha256("\n".join(self.ids).encode(errors="surrogateescape")).hexdigest(),
            "saliency": hashlib.sha256(np.ascontiguousarray(self.saliency).tobytes()).hexdigest(),
            **_other_versions(self.settings, self.opened.config.task.name),
        }
        return {**about, "digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}

    @property
    def chunks(self) -> list[slice]:
        """The same however often the scoring was cut off, so that each image is in the same batch again."""
        return [slice(start, start + CHUNK_IMAGES) for start in range(0, len(self.ids), CHUNK_IMAGES)]

    def undefined_reasons(self, table: ScoreTable) -> dict[str, dict[str, str]]:
        """Why scores that no image has are undefined, where that is known; nothing where it is of none."""
        missing = table.never_defined()
        if not missing:
            return {}
        reasons = self.scorer.undefined_reasons(self.opened.loader(self.archived.split).batch(self.rows[:1]))
        known = {name: reasons[name] for name in missing if name in reasons}
        return {"reasons": known} if known else {}

    def images(self, chunk: slice, *, with_masks: bool) -> tuple[Batch, GroundTruth]:
        """A range of the images (B) with the ground truth of their parts."""
        rows, has_masks = self.rows[chunk], self.table.mask_paths is not None
        batch = self.opened.loader(self.archived.split).batch(rows, with_masks=with_masks and has_masks)
        return batch, ground_truth(batch, self.table, self.archived.crop_boxes[self.places[chunk]])

    def score(self, chunk: slice, *, baseline: str | None = None) -> list[ImageScore]:
        """The scores of a range of the images (B), of the archive's saliency or of a baseline."""
        rows, places = self.rows[chunk], self.places[chunk]
        batch, truth = self.images(chunk, with_masks=self.scorer.needs_masks(baseline))
        assert self.archived.saliency is not None
        saliency = torch.from_numpy(np.array(self.archived.saliency[places]))  # (B, h, w)
        scores = self.scorer.score(batch, saliency, self.target.take(chunk), truth, baseline=baseline)
        retrieval = self.archived.retrieval
        if retrieval is not None:
            queries = np.cumsum(retrieval.is_query)[rows] - 1
            check_same_images(scores, retrieval.average_precision[queries], self.archived.split, column=RANKED)
        elif self.settings.target == "predicted":
            check_same_images(scores, self.archived.confidences[places], self.archived.split)
        return scores


def _score_rest(scoring: ArchiveScoring, journal: ScoreJournal, *, check: Callable[[], None]) -> dict[str, ImageScore]:
    """Image id -> score of all images; those that the journal lacks are measured and added to it."""
    done = journal.read()
    missing = [chunk for chunk in scoring.chunks if not done.keys() >= set(scoring.ids[chunk])]

    def score(chunk: slice) -> list[ImageScore]:
        check()
        return scoring.score(chunk)

    def keep(scores: list[ImageScore]) -> None:
        journal.append(scores)
        done.update({score.image_id: score for score in scores})

    spread = scoring.opened.spread
    if spread is not None and missing:
        spread(score, missing, keep, scoring.settings)
        return done
    for chunk in with_bar(missing, "Scoring the saliency", n_steps=len(missing), force=False):
        keep(score(chunk))
    return done
