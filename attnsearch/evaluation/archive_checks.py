"""Whether an archive of maps is of the checkpoint and the images that it is scored with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.tables import ImageTable, places_of
from attnsearch.errors import ConfigError, DataError
from attnsearch.evaluation.base import ModelOnData
from attnsearch.store.score_journal import ImageScore
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import AttentionArchive, Split

VIEW = ("image_size_px", "crop_ratio", "resize")
"""Settings of the data that say what a model sees of an image."""
UNTOUCHED = "untouched_score"
"""What is followed of the untouched images."""
RANKED = "ap_relevance_gain.untouched"
"""The same of the average precision: cosines of other images may differ too little to tell them."""
MAX_GAP = 0.25
"""Between what is followed of an untouched image and what the archive holds, for the same image at any precision."""


def check_compatible(opened: ModelOnData, archived: AttentionArchive, paths: ArchivePaths) -> None:
    """Checks that an archive is of an opened checkpoint, and of this split of its data.

    Raises:
        ConfigError: it is of another checkpoint, has no saliency, or was made of other crops or other synthetic birds.
        DataError: the split has other images or other classes.
    """
    checkpoint = opened.checkpoint
    digest = checkpoint.config.digest()
    if (archived.epoch, archived.config_digest) != (checkpoint.epoch, digest):
        raise ConfigError(
            f"{paths.about} is of epoch {archived.epoch} of the settings {archived.config_digest[:8]}, and "
            f"{checkpoint.path} of epoch {checkpoint.epoch} of {digest[:8]}; archive the checkpoint again"
        )
    if archived.saliency is None:
        raise ConfigError(f"{paths.about} has no saliency, which is what is scored; the model makes no maps")
    _check_view(opened, paths)
    _check_images(archived, opened.table(archived.split), paths)


def _check_view(opened: ModelOnData, paths: ArchivePaths) -> None:
    """Maps lie where the crop of the training put them, and the names of synthetic birds do not tell their looks."""
    data, trained_on = opened.config.data, opened.checkpoint.config.data
    drawn = [key for key in data.drawn_by if not key.endswith("_per_class")]  # how many there are, their names show
    for key in (*VIEW, *(drawn if data.name == trained_on.name else ())):
        if getattr(data, key) != getattr(trained_on, key):
            raise ConfigError(
                f"data.{key}: is {getattr(data, key)}, and {paths.about} was made with {getattr(trained_on, key)}; "
                "leave it as the trial was trained"
            )


def _check_images(archived: AttentionArchive, table: ImageTable, paths: ArchivePaths) -> None:
    if missing := sorted(set(archived.image_ids) - set(table.image_ids)):
        raise DataError(
            f"{paths.images} has {len(missing)} images that the {table.split} split lacks, the first is "
            f"{missing[0]!r}; use the data set that the trial was trained on"
        )
    if archived.retrieval is not None and archived.retrieval.image_ids != table.image_ids:
        raise DataError(
            f"{paths.features} is of other images than the {table.split} split; use the data set that the trial was "
            "trained on, or archive the checkpoint again"
        )
    labels = table.labels[places_of(archived.image_ids, table.image_ids)]
    if len(other := np.flatnonzero(labels != archived.labels)):
        image_id, names = archived.image_ids[other[0]], table.class_names
        raise DataError(
            f"{paths.images} has {len(other)} images of other classes than the {table.split} split, the first is "
            f"{image_id!r}, {names[archived.labels[other[0]]]!r} there and {names[labels[other[0]]]!r} here; use the "
            "data set that the trial was trained on"
        )


def check_same_images(
    scores: Sequence[ImageScore], archived: NDArray[np.floating[Any]], split: Split, *, column: str = UNTOUCHED
) -> None:
    """Untouched images must get the numbers (B,) of the archive.

    Arithmetic moves them far less than the limit.

    Raises:
        DataError: most of these images get another one, so they are not the images of the archive.
    """
    untouched = [score.values[column] for score in scores if column in score.values]
    gaps = [abs(p - q) for p, q in zip(untouched, archived, strict=False) if math.isfinite(p)]
    if gaps and float(np.median(gaps)) > MAX_GAP:
        what = "average precisions" if column == RANKED else "probabilities"
        raise DataError(
            f"{split} images such as {scores[0].image_id!r} get other {what} than in the archive (median gap "
            f"{np.median(gaps):.2f}), so their pixels differ; use the data set that the trial was trained on"
        )
