"""Is an archive of this checkpoint and of these pictures? Asked before its maps are scored."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.datasets import SyntheticData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.synthetic import DRAWN_BY
from attnsearch.data.table import ImageTable
from attnsearch.errors import ConfigError, DataError
from attnsearch.models.kept import KeptCheckpoint
from attnsearch.models.weights import check_class_names
from attnsearch.store.layout import ArchivePaths
from attnsearch.store.scores import ImageScore
from attnsearch.types import AttentionArchive, Split

VIEW = ("image_size_px", "crop_ratio", "resize")
"""Settings of the data that say what a model sees of a picture."""
UNTOUCHED = "random_deletion"
"""A curve that each image with a finite map has, and that starts with the untouched image."""
MAX_GAP = 0.25
"""Between the probability of an untouched image and that of the archive, for the same picture at any precision."""


def refuse_mismatch(
    config: ExperimentConfig, archived: AttentionArchive, kept: KeptCheckpoint, table: ImageTable, paths: ArchivePaths
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


def _refuse_other_view(config: ExperimentConfig, kept: KeptCheckpoint, paths: ArchivePaths) -> None:
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


def refuse_other_pictures(scores: Sequence[ImageScore], confidences: NDArray[np.float32], split: Split) -> None:
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
