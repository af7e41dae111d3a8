"""Scores of the saliency as a result of a trial: their measurement and their rows in the database."""

from __future__ import annotations

import logging
from collections.abc import Callable

import optuna

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.evaluation.score import score_archive
from attnsearch.search.session import Session
from attnsearch.store.layout import TrialLayout
from attnsearch.store.score_rows import write_score_rows
from attnsearch.store.scores import ScoreTable, has_scores, read_scores
from attnsearch.types import SCORES

logger = logging.getLogger(__name__)

SETTINGS = "scores"
"""The user attribute that says how a trial's scores were measured."""


def score_trial(
    config: ExperimentConfig, layout: TrialLayout, data: DataSource, *, check: Callable[[], None]
) -> dict[str, float]:
    """Scores the archived saliency of a kept checkpoint on validation: `val/metric` -> mean over the scored images.

    A score that is undefined for some images, or for all, fails no trial: there it counts as that of a map that says
    nothing, see `ScoreTable.trial_means`.

    Returns:
        Nothing where the settings ask for nothing, or where the model makes no saliency.
    Raises:
        ConfigError, DataError, StoreError: as `score_archive`.
    """
    archive = layout.archive("val")
    if not config.evaluation.scores.families or not archive.saliency.exists():
        return {}
    table = score_archive(config, layout.kept, data, archive, layout.scores("val"), check=check)
    _warn_of_undefined(table, layout)
    return {f"val/{name}": mean for name, mean in table.trial_means().items()}


def _warn_of_undefined(table: ScoreTable, layout: TrialLayout) -> None:
    """One line for the scores that no image has, since the trial's numbers do not show it."""
    n_images = len(table.image_ids)
    names = [name for name, count in table.n_undefined().items() if count == n_images and name in SCORES]
    if names:
        logger.warning(
            "%s: %s undefined for all %d scored images, for the maps are flat, the fill does not change the class or "
            "nothing is marked; the trial counts as one whose maps say nothing",
            layout.directory.name,
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}",
            n_images,
        )


def list_scores(session: Session, trial: optuna.Trial, attempt: int) -> None:
    """Puts the scores of a running trial into the database, with how they were measured."""
    paths = session.layout.trial(trial.number).scores("val")
    if not has_scores(paths):
        return
    table = read_scores(paths)
    write_score_rows(session.database.engine, session.uuid, trial.number, attempt=attempt, table=table)
    about = {key: table.about[key] for key in ("version", "settings", "grid", "images", "digest")}
    trial.set_user_attr(SETTINGS, {**about, "n_images": len(table.image_ids), "n_undefined": table.n_undefined()})
