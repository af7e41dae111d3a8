"""Scores of the saliency as a result of a trial: their measurement and their rows in the database."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.evaluation.score import score_archive
from attnsearch.search.session import Session
from attnsearch.store.layout import TrialLayout
from attnsearch.store.score_rows import write_score_rows
from attnsearch.store.scores import has_scores, read_scores
from attnsearch.types import SCORES

SETTINGS = "scores"
"""The user attribute that says how a trial's scores were measured."""


def score_trial(
    config: ExperimentConfig, layout: TrialLayout, data: DataSource, *, check: Callable[[], None]
) -> dict[str, float]:
    """Scores the archived saliency of a kept checkpoint on validation: `val/metric` -> mean over the scored images.

    Returns:
        Nothing where the settings ask for nothing, or where the model makes no saliency.
    Raises:
        ConfigError, DataError, StoreError: as `score_archive`.
    """
    archive = layout.archive("val")
    if not config.evaluation.scores.families or not archive.saliency.exists():
        return {}
    table = score_archive(config, layout.kept, data, archive, layout.scores("val"), check=check)
    return {f"val/{name}": mean for name, mean in table.means().items() if name in SCORES}


def list_scores(session: Session, trial: optuna.Trial, attempt: int) -> None:
    """Puts the scores of a running trial into the database, with how they were measured."""
    paths = session.layout.trial(trial.number).scores("val")
    if not has_scores(paths):
        return
    table = read_scores(paths)
    write_score_rows(session.database.engine, session.uuid, trial.number, attempt=attempt, table=table)
    about = {key: table.about[key] for key in ("version", "settings", "grid", "images", "digest")}
    trial.set_user_attr(SETTINGS, {**about, "n_images": len(table.image_ids), "n_undefined": table.n_undefined()})
