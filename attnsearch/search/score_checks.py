"""What a study may ask of the saliency's scores, before anything is written."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy
from attnsearch.config.scores import RAW, family_of
from attnsearch.data.table import DataTables, ImageTable
from attnsearch.errors import ConfigError
from attnsearch.types import SCORES

logger = logging.getLogger(__name__)

_NEEDS = {
    "pointing_hit": "mask_paths",
    "energy_in_mask": "mask_paths",
    "rank_in_mask": "mask_paths",
    "iou_in_mask": "mask_paths",
    "best_iou_in_mask": "mask_paths",
    "pointing_in_box": "boxes",
    "energy_in_box": "boxes",
    "iou_in_box": "boxes",
    "best_iou_in_box": "boxes",
    "pointing_at_part": "points",
    "part_consistency": "points",
}
_CALLED = {"mask_paths": "part masks", "boxes": "boxes", "points": "part points"}


def check_scores(loaded: LoadedStudy, tables: DataTables) -> None:
    """Checks what a study wants of the saliency's scores, and warns where it optimises raw areas.

    Raises:
        ConfigError: a score that its settings or its data cannot give, or settings that differ between trials; one
            line per fault.
    """
    wanted = [*loaded.study.objectives, *loaded.study.constraints]
    faults = [
        f"space.{key}: trials would be measured differently and could not be compared; write it in the base"
        for key in loaded.study.space
        if key.startswith("evaluation.")
    ]
    _refuse([*faults, *score_faults(loaded.experiment, tables, wanted)])
    raw = [key for key in loaded.study.objectives if key.partition("/")[2] in RAW]
    if raw:
        logger.warning(
            "objectives: %s compares maps of one model and not models: a model that any masking confuses gets a good "
            "one; val/relevance_gain and val/deletion_gain are measured against it",
            " and ".join(raw),
        )


def check_scores_of_run(experiment: ExperimentConfig, tables: DataTables) -> None:
    """Checks the settings of a run without a study.

    Raises:
        ConfigError: more images are asked for than there are.
    """
    _refuse(score_faults(experiment, tables, ()))


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def score_faults(experiment: ExperimentConfig, tables: DataTables, wanted: Iterable[str]) -> list[str]:
    """One line for each score among the wanted metric keys that a trial will not have."""
    settings, n_images = experiment.evaluation.scores, experiment.evaluation.n_images
    n_archived = min(n_images or len(tables.val), len(tables.val))
    keys = [key for key in wanted if key.partition("/")[2] in SCORES]
    faults = [fault for key in keys if (fault := _score_fault(key, experiment, tables.val))]
    if settings.families and settings.n_images is not None and settings.n_images > n_archived:
        faults.append(
            f"evaluation.scores.n_images: must be at most the {n_archived} validation images whose maps are stored, "
            f"got {settings.n_images}"
        )
    return faults


def _score_fault(key: str, experiment: ExperimentConfig, val: ImageTable) -> str | None:
    split, _, name = key.partition("/")
    if split != "val":
        return f"{key}: the saliency is scored on validation alone; write val/{name}"
    family = family_of(name)
    if family is not None and family not in experiment.evaluation.scores.families:
        return f"{key}: is measured only with the family {family!r}; add it to evaluation.scores.families"
    needed = _NEEDS.get(name)
    if needed is not None and getattr(val, needed) is None:
        return f"{key}: needs {_CALLED[needed]}, which this data set does not have; remove it or use other data"
    return None
