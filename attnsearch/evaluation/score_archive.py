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
from numpy.typing import NDArray

from attnsearch.config.data import SyntheticData
from attnsearch.config.evaluation import DEFAULT_N_IMAGES, VERSION, ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import BatchLoader, DataSource
from attnsearch.data.synthetic.dataset import DRAWN_BY
from attnsearch.data.tables import ImageTable
from attnsearch.device import device_errors, set_threads
from attnsearch.errors import ConfigError, DataError
from attnsearch.evaluation.baselines import PARTS
from attnsearch.evaluation.evaluation import fixed_subset, load_model, open_loader
from attnsearch.evaluation.ground_truth import ground_truth
from attnsearch.evaluation.sanity import SanityStep, randomise_downwards
from attnsearch.evaluation.scorer import METRIC, SaliencyScorer, consistency_of, with_best_iou
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint
from attnsearch.models.weights import check_class_names
from attnsearch.progress import with_bar
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import (
    ImageScore,
    ScoreJournal,
    ScoreTable,
    has_scores,
    make_table,
    read_scores,
    write_score_files,
)
from attnsearch.store.layout import ArchivePaths, ScorePaths
from attnsearch.types import AttentionArchive, Split

logger = logging.getLogger(__name__)

VIEW = ("image_size_px", "crop_ratio", "resize")
"""Settings of the data that say what a model sees of a picture."""
UNTOUCHED = "random_deletion"
"""A curve that each image with a finite map has, and that starts with the untouched image."""
MAX_GAP = 0.25
"""Between the probability of an untouched image and that of the archive, for the same picture at any precision."""


def check_compatible(
    config: ExperimentConfig, archived: AttentionArchive, kept: ModelCheckpoint, table: ImageTable, paths: ArchivePaths
) -> None:
    """Checks that an archive is of a checkpoint, and that both are of this split of the data.

    Raises:
        ConfigError: it is of another checkpoint, has no saliency, or was made of other crops or other drawn birds.
        DataError: the split has other images or other classes.
    """
    check_class_names(table.class_names, kept.class_names, str(kept.path))
    digest = kept.config.digest()
    if (archived.epoch, archived.config_digest) != (kept.epoch, digest):
        raise ConfigError(
            f"{paths.about} is of epoch {archived.epoch} of the settings {archived.config_digest[:8]}, and "
            f"{kept.path} of epoch {kept.epoch} of {digest[:8]}; archive the checkpoint again"
        )
    if archived.saliency is None:
        raise ConfigError(f"{paths.about} has no saliency, which is what is scored; the model makes no maps")
    _refuse_other_view(config, kept, paths)
    _refuse_other_images(archived, table, paths)


def _refuse_other_view(config: ExperimentConfig, kept: ModelCheckpoint, paths: ArchivePaths) -> None:
    """Maps lie where the crop of the training put them, and drawn birds have the same names whatever they look like."""
    ours, theirs = config.data, kept.config.data
    is_drawn = isinstance(ours, SyntheticData) and isinstance(theirs, SyntheticData)
    drawn = [key for key in DRAWN_BY if not key.endswith("_per_class")]  # how many there are, their names show
    for key in (*VIEW, *(drawn if is_drawn else ())):
        if getattr(ours, key) != getattr(theirs, key):
            raise ConfigError(
                f"data.{key}: is {getattr(ours, key)}, and {paths.about} was made with {getattr(theirs, key)}; "
                "leave it as the trial was trained"
            )


def _refuse_other_images(archived: AttentionArchive, table: ImageTable, paths: ArchivePaths) -> None:
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    if missing := sorted(set(archived.image_ids) - row_of.keys()):
        raise DataError(
            f"{paths.images} has {len(missing)} images that the {table.split} split lacks, the first is "
            f"{missing[0]!r}; use the data set that the trial was trained on"
        )
    labels = table.labels[[row_of[image_id] for image_id in archived.image_ids]]
    if len(other := np.flatnonzero(labels != archived.labels)):
        image_id, names = archived.image_ids[other[0]], table.class_names
        raise DataError(
            f"{paths.images} has {len(other)} images of other classes than the {table.split} split, the first is "
            f"{image_id!r}, {names[archived.labels[other[0]]]!r} there and {names[labels[other[0]]]!r} here; use the "
            "data set that the trial was trained on"
        )


def check_same_images(scores: Sequence[ImageScore], confidences: NDArray[np.float32], split: Split) -> None:
    """Untouched images must get the probability that the archive has; arithmetic moves it far less than the limit.

    Raises:
        DataError: most of these images get another one, so their pictures are not those of the archive.
    """
    untouched = [score.curves[UNTOUCHED][0] for score in scores if UNTOUCHED in score.curves]
    gaps = [abs(p - q) for p, q in zip(untouched, confidences, strict=False) if math.isfinite(p)]
    if gaps and float(np.median(gaps)) > MAX_GAP:
        raise DataError(
            f"{split} images such as {scores[0].image_id!r} get other probabilities than in the archive (median gap "
            f"{np.median(gaps):.2f}), so their pictures differ; use the data set that the trial was trained on"
        )


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

    The images are those of `fixed_subset`: the same for all trials, stratified by class, and more of them include the
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
    kept, archived = read_model_checkpoint(checkpoint), read_archive(archive)
    table = data.tables.of(archived.split)
    check_compatible(config, archived, kept, table, archive)
    ids = scored_ids(archived, table, settings.n_images)
    about = _about(kept, archived, settings, ids, iou_thresholds)
    if has_scores(scores) and (known := read_scores(scores)).digest == about["digest"]:
        return known
    set_threads(config.runtime.n_threads)
    job = _Job(config, data, archived, SaliencyScorer.of(config, kept, settings))
    journal = ScoreJournal(scores.journal, about["digest"])
    done = _score_rest(job, ids, journal, check=check, progress=progress)
    _warn_of_nan(archived, ids, archive)
    measured, thresholds = with_best_iou([done[image_id] for image_id in ids], archived.split, iou_thresholds or {})
    whole = _of_whole(archived, table, settings, config.data.image_size_px)
    fractions = job.measure.fractions(grid_of(archived, settings))
    found = make_table(measured, fractions, {**about, "iou_thresholds": thresholds, **whole})
    write_score_files(scores, found, check=check)
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
        names: of `references.BASELINES`.
    Raises:
        ConfigError: as `score_archive` and `baseline_saliency`.
        DataError, StoreError: as `score_archive`.
    """
    settings = config.evaluation.scores if settings is None else settings
    kept, archived = read_model_checkpoint(checkpoint), read_archive(archive)
    table = data.tables.of(archived.split)
    check_compatible(config, archived, kept, table, archive)
    assert archived.saliency is not None
    ids = scored_ids(archived, table, settings.n_images)
    set_threads(config.runtime.n_threads)
    job = _Job(config, data, archived, SaliencyScorer.of(config, kept, settings))
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
    kept = read_model_checkpoint(checkpoint)
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
    rows = fixed_subset(table, min(n_images or DEFAULT_N_IMAGES, n_archived))
    ids = tuple(table.image_ids[row] for row in rows)
    if missing := sorted(set(ids) - set(archived.image_ids)):
        raise DataError(
            f"the {table.split} split has {len(missing)} images to score that the archive lacks, the first is "
            f"{missing[0]!r}; use the data set that the trial was trained on, or archive the checkpoint again"
        )
    return ids


def _about(
    kept: ModelCheckpoint,
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
        self, config: ExperimentConfig, data: DataSource, archived: AttentionArchive, measure: SaliencyScorer
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
            check_same_images(found, self._archived.confidences[rows], split)
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
