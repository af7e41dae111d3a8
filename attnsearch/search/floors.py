"""Measures what the scores of a study's best trials reach without any information, once for each grid of their maps."""

from __future__ import annotations

import logging
from collections.abc import Callable

from attnsearch.config.evaluation import VERSION
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.errors import ConfigError, DataError, DeviceError, OutOfMemory, StoreError
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.map_floors import images_digest, measure_map_floors, settings_digest
from attnsearch.search.handle import StudyHandle
from attnsearch.search.publish import trials_to_publish
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.floors import add_floors, read_floors
from attnsearch.store.trial_layout import TrialLayout

logger = logging.getLogger(__name__)


def measure_missing_floors(handle: StudyHandle, data: DataSource, *, check: Callable[[], None]) -> None:
    """Adds the floors of validation that the published trials lack; the test split is not opened.

    A floor that cannot be measured costs no published trial: it is a warning, and the next start tries again.

    Args:
        check: called between the measurements; what it raises ends them.
    """
    path = handle.layout.floors_json
    for chosen in [] if handle.loaded.study.repeats else trials_to_publish(handle):
        try:
            config = handle.loaded.experiment
            if not _is_known(chosen.trial, config, data, {one.key for one in read_floors(path)}):
                with Evaluation.open(chosen.trial.best, data) as evaluation:
                    add_floors(path, measure_map_floors(evaluation, chosen.trial.archive("val"), check=check))
        except (ConfigError, DataError, StoreError, OutOfMemory, DeviceError) as error:
            logger.warning("the floors of trial %d cannot be measured: %s", chosen.number, error)


def _is_known(trial: TrialLayout, config: ExperimentConfig, data: DataSource, keys: set[tuple[object, ...]]) -> bool:
    """Whether floors of the grid of a trial's maps are there, or cannot be since it has no maps."""
    paths = trial.archive("val")
    archived = read_archive(paths) if has_archive(paths) else None
    if archived is None or archived.saliency is None:
        return True
    limit = config.evaluation.scores.grid
    rows, columns = (side if limit is None else min(side, limit) for side in archived.saliency.shape[1:])
    images = images_digest(data.tables.val.image_ids)
    return (rows, columns, VERSION, settings_digest(config.evaluation.scores), images) in keys
