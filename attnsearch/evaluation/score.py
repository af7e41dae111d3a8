"""Scores the saliency of an archive, image by image, against the checkpoint that made it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.scores import DEFAULT_N_IMAGES, VERSION, ScoreSettings
from attnsearch.data.loader import BatchLoader, DataSource
from attnsearch.data.progress import with_bar
from attnsearch.data.table import ImageTable
from attnsearch.device import device_errors, set_threads
from attnsearch.errors import ConfigError, DataError
from attnsearch.evaluation.archive_checks import refuse_mismatch, refuse_other_pictures
from attnsearch.evaluation.best_iou import with_best_iou
from attnsearch.evaluation.collect import archived_rows, load_model, open_loader
from attnsearch.evaluation.consistency import METRIC, consistency_of
from attnsearch.evaluation.ground_truth import ground_truth
from attnsearch.evaluation.measure import Measure
from attnsearch.evaluation.references import PARTS
from attnsearch.evaluation.sanity import SanityStep, randomise_downwards
from attnsearch.models.kept import KeptCheckpoint, read_kept
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import ArchivePaths, ScorePaths
from attnsearch.store.scores import (
    ImageScore,
    ScoreJournal,
    ScoreTable,
    has_scores,
    make_table,
    read_scores,
    write_scores,
)
from attnsearch.types import AttentionArchive, Split

logger = logging.getLogger(__name__)

CHUNK_IMAGES = 8
"""Images whose scores are written at once; a kill loses at most so many."""


@device_errors()
def score_archive(
    config: ExperimentConfig,
    checkpoint: Path,
    data: DataSource,
    archive: ArchivePaths,
    scores: ScorePaths,
    *,
    settings: ScoreSettings | None = None,
    iou_thresholds: Mapping[str, float] | None = None,
    check: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> ScoreTable:
    """Scores the saliency of an archive on a fixed share of its images, and writes the files of `scores`.

    The images are those of `archived_rows`: the same for all trials, stratified by class, and more of them include the
    fewer. A scoring that was cut off goes on after its last chunk; one with the same digest is read, not repeated.

    Args:
        config: of the run; its folders and runtime settings may differ from those of the checkpoint.
        settings: None takes `config.evaluation.scores`.
        iou_thresholds: those that were chosen on validation, from `about["iou_thresholds"]` of its scores; without them
            they are chosen on these images, or, on test, the best IoU is left out.
        check: called between chunks and before each file gets its name.
        progress: shows a bar with the time left on stderr; without it there is one only if stderr is a terminal.
    Returns:
        The scores, as they lie on the disk. An image whose map has NaN is undefined in all of them.
    Raises:
        ConfigError: the archive is of another checkpoint or has no saliency, or more images are asked for than it has.
        DataError: the data set has other images or classes, or cannot be read.
        StoreError: files are missing, or the disk refuses.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    settings = config.evaluation.scores if settings is None else settings
    kept, archived = read_kept(checkpoint), read_archive(archive)
    table = data.tables.of(archived.split)
    refuse_mismatch(config, archived, kept, table, archive)
    ids = scored_ids(archived, table, settings.n_images)
    about = _about(kept, archived, settings, ids, iou_thresholds)
    if has_scores(scores) and (known := read_scores(scores)).digest == about["digest"]:
        return known
    set_threads(config.runtime.n_threads)
    job = _Job(config, data, archived, Measure.of(config, kept, settings))
    journal = ScoreJournal(scores.journal, about["digest"])
    done = _score_rest(job, ids, journal, check=check, progress=progress)
    _warn_of_nan(archived, ids, archive)
    measured, thresholds = with_best_iou([done[image_id] for image_id in ids], archived.split, iou_thresholds or {})
    whole = _of_whole(archived, table, settings, config.data.image_size_px)
    fractions = job.measure.fractions(grid_of(archived, settings))
    found = make_table(measured, fractions, {**about, "iou_thresholds": thresholds, **whole})
    write_scores(scores, found, check=check)
    journal.remove()
    return found


def score_references(
    config: ExperimentConfig,
    checkpoint: Path,
    data: DataSource,
    archive: ArchivePaths,
    names: Sequence[str],
    *,
    settings: ScoreSettings | None = None,
    progress: bool = False,
) -> dict[str, ScoreTable]:
    """Scores reference maps on the images, the model and the grid of an archive; nothing is written.

    Args:
        names: of `references.REFERENCES`.
    Raises:
        ConfigError: as `score_archive` and `reference_saliency`.
        DataError, StoreError: as `score_archive`.
    """
    settings = config.evaluation.scores if settings is None else settings
    kept, archived = read_kept(checkpoint), read_archive(archive)
    table = data.tables.of(archived.split)
    refuse_mismatch(config, archived, kept, table, archive)
    assert archived.saliency is not None
    ids = scored_ids(archived, table, settings.n_images)
    set_threads(config.runtime.n_threads)
    job = _Job(config, data, archived, Measure.of(config, kept, settings))
    fractions, about = job.measure.fractions(grid_of(archived, settings)), _about(kept, archived, settings, ids)
    found = {}
    for name in names:  # one that this model cannot have is known at once, and not after the others
        job.score(ids[:1], reference=name)
    for name in names:
        steps = with_bar(_chunks(ids), f"Scoring {name}", n_steps=len(_chunks(ids)), force=progress)
        scores = [score for chunk in steps for score in job.score(chunk, reference=name)]
        scores, thresholds = with_best_iou(scores, archived.split, {})
        found[name] = make_table(scores, fractions, {**about, "reference": name, "iou_thresholds": thresholds})
    return found


def sanity_steps(
    config: ExperimentConfig, checkpoint: Path, data: DataSource, split: Split, ids: Sequence[str]
) -> list[SanityStep]:
    """How similar the saliency of some images stays while the weights are drawn anew, see `randomise_downwards`."""
    kept = read_kept(checkpoint)
    set_threads(config.runtime.n_threads)
    model, arithmetic = load_model(config, kept)
    loader = open_loader(config, kept, _only(data, split, ids), split, model=model, device=arithmetic.device)
    return randomise_downwards(model, [arithmetic.place_images(batch) for batch in loader.epoch(kept.epoch)])


def scored_ids(archived: AttentionArchive, table: ImageTable, n_images: int | None) -> tuple[str, ...]:
    """The images that are scored, in the order of their split.

    Raises:
        ConfigError: more are asked for than the archive holds; the message says how many those are.
        DataError: the split has other images than the archive was made of.
    """
    n_archived = len(archived.image_ids)
    if n_images is not None and n_images > n_archived:
        raise ConfigError(
            f"evaluation.scores.n_images must be at most the {n_archived} archived {archived.split} images, "
            f"got {n_images}; lower it, or raise evaluation.n_images"
        )
    rows = archived_rows(table, min(n_images or DEFAULT_N_IMAGES, n_archived))
    ids = tuple(table.image_ids[row] for row in rows)
    if missing := sorted(set(ids) - set(archived.image_ids)):
        raise DataError(
            f"the {table.split} split has {len(missing)} images to score that the archive lacks, the first is "
            f"{missing[0]!r}; use the data set that the trial was trained on, or archive the checkpoint again"
        )
    return ids


def _about(
    kept: KeptCheckpoint,
    archived: AttentionArchive,
    settings: ScoreSettings,
    ids: Sequence[str],
    iou_thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What the numbers were measured with; the digest is of all of it, and of the images and their saliency."""
    assert archived.saliency is not None
    chosen = np.isin(archived.image_ids, ids)
    about = {
        "version": VERSION,
        "settings": settings.identity(),
        "split": archived.split,
        "grid": list(grid_of(archived, settings)),
        "iou_thresholds": dict(iou_thresholds or {}),
        "n_archived": len(archived.image_ids),
        "checkpoint": {"epoch": kept.epoch, "config": kept.config.digest()},
        "images": hashlib.sha256("\n".join(ids).encode(errors="surrogateescape")).hexdigest(),
        "saliency": hashlib.sha256(np.ascontiguousarray(archived.saliency[chosen]).tobytes()).hexdigest(),
    }
    return {**about, "digest": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def _of_whole(
    archived: AttentionArchive, table: ImageTable, settings: ScoreSettings, side_px: int
) -> dict[str, dict[str, float | None]]:
    """What is measured of all archived images at once, under `whole`, and of blind maps of them, under `floors`."""
    if "localisation" not in settings.families or table.points is None:
        return {}
    found = consistency_of(archived, table, side_px)
    plain = {name: None if math.isnan(value) else value for name, value in found.items()}
    return {"whole": {METRIC: plain.pop(METRIC)}, "floors": plain}


def grid_of(archived: AttentionArchive, settings: ScoreSettings) -> tuple[int, int]:
    """Rows and columns of the maps that are scored."""
    assert archived.saliency is not None
    rows, columns = archived.saliency.shape[1:]
    return (rows, columns) if settings.grid is None else (min(rows, settings.grid), min(columns, settings.grid))


def _warn_of_nan(archived: AttentionArchive, ids: Sequence[str], paths: ArchivePaths) -> None:
    assert archived.saliency is not None
    chosen = archived.saliency[np.isin(archived.image_ids, ids)]
    n_broken = int((~np.isfinite(chosen).all(axis=(1, 2))).sum())
    if n_broken:
        logger.warning(
            "%s: %d of %d maps are not finite; their scores are undefined", paths.saliency, n_broken, len(ids)
        )


class _Job:
    """One scoring: the model, the images of the split, and their saliency.

    Attributes:
        saliency_of: (rows of the archive, batch) -> (B, h, w); the archive's own where it is None.
    """

    def __init__(
        self, config: ExperimentConfig, data: DataSource, archived: AttentionArchive, measure: Measure
    ) -> None:
        self._config, self._data, self._archived = config, data, archived
        self._row_of = {image_id: row for row, image_id in enumerate(archived.image_ids)}
        self.measure = measure

    def score(self, ids: Sequence[str], *, reference: str | None = None) -> list[ImageScore]:
        """The scores of some images, of the archive's saliency or of a reference."""
        split = self._archived.split
        source = _only(self._data, split, ids)
        table = source.tables.of(split)
        loader = BatchLoader(
            source,
            split,
            self._config.data,
            batch_size=len(ids),
            device=self.measure.device,
            training=False,
            seed=self._config.seed,
            with_masks=table.mask_paths is not None and (self.measure.needs_masks or reference == PARTS),
        )
        (batch,) = loader.epoch(1)
        rows = [self._row_of[image_id] for image_id in table.image_ids]
        truth = ground_truth(batch, table, self._archived.crop_boxes[rows])
        assert self._archived.saliency is not None
        saliency = torch.from_numpy(np.array(self._archived.saliency[rows]))
        predictions = torch.from_numpy(self._archived.predictions[rows])
        found = self.measure.score(batch, saliency, predictions, truth, reference=reference)
        if self.measure.settings.target == "predicted":
            refuse_other_pictures(found, self._archived.confidences[rows], split)
        return found


def _only(data: DataSource, split: Split, ids: Sequence[str]) -> DataSource:
    """The data set with some images of one split, in their order there."""
    table = data.tables.of(split)
    wanted = set(ids)
    rows = [row for row, image_id in enumerate(table.image_ids) if image_id in wanted]
    chosen = replace(
        table,
        image_ids=tuple(table.image_ids[row] for row in rows),
        paths=tuple(table.paths[row] for row in rows),
        labels=table.labels[rows],
        mask_paths=None if table.mask_paths is None else tuple(table.mask_paths[row] for row in rows),
        boxes=None if table.boxes is None else table.boxes[rows],
        points=None if table.points is None else table.points[rows],
    )
    changed: dict[str, Any] = {split: chosen}
    return replace(data, tables=replace(data.tables, **changed))


def _chunks(ids: Sequence[str]) -> list[tuple[str, ...]]:
    """The same however often the scoring was cut off, so that each image meets the same company."""
    return [tuple(ids[start : start + CHUNK_IMAGES]) for start in range(0, len(ids), CHUNK_IMAGES)]


def _score_rest(
    job: _Job, ids: Sequence[str], journal: ScoreJournal, *, check: Callable[[], None], progress: bool
) -> dict[str, ImageScore]:
    """Image id -> score of all images; those that the journal lacks are measured and added to it."""
    done = journal.read()
    missing = [chunk for chunk in _chunks(ids) if not done.keys() >= set(chunk)]
    for chunk in with_bar(missing, "Scoring the saliency", n_steps=len(missing), force=progress):
        check()
        found = job.score(chunk)
        journal.append(found)
        done |= {score.image_id: score for score in found}
    return done
