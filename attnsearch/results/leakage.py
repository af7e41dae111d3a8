"""The locality of one trial's features and the decisions on the cells of its map, as a table beside its scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.files import atomic_write, csv_text
from attnsearch.results.checkpoints import open_evaluation
from attnsearch.results.full_scores import ScoringTarget

if TYPE_CHECKING:
    from attnsearch.evaluation.locality import Leakage, Locality

COLUMNS = ("model", "score", "part", "at", "value", "n_images")
Row = tuple[str, str, str, str, float, int]


def measure_target(target: ScoringTarget, overrides: Iterable[str], *, n_images: int) -> tuple[Leakage, Path]:
    """Measures a target and writes the table; a test evaluation is logged.

    Raises:
        ConfigError, DataError, StoreError, UsageError: as `open_evaluation` and `measure_leakage`.
    """
    from attnsearch.evaluation.locality import measure_leakage  # imports torch

    with open_evaluation(target.trial, target.split, overrides) as evaluation:
        measured = measure_leakage(evaluation, target.split, n_images=n_images)
    path = target.trial.files.table_csv("leakage", target.split)
    atomic_write(path, csv_text([COLUMNS, *leakage_rows(measured)]))
    return measured, path


def leakage_rows(measured: Leakage) -> Iterator[Row]:
    """One row a number, in the order of `COLUMNS`: skills part by part, their summaries, and the decisions."""
    for model, of_model in (("trained", measured.trained), ("untrained", measured.untrained)):
        yield from _skill_rows(model, of_model)
        n_images = int(of_model.n_images.max())
        for score in ("own", "leak", "locality"):
            yield model, score, "", "", getattr(of_model, score), n_images
    n_images, decisions = int(measured.trained.n_images.max()), measured.decisions
    for score in ("by_map", "by_random", "fraction_of_cells"):
        yield "trained", f"decisions_{score}", "", "", getattr(decisions, score), n_images


def _skill_rows(model: str, of_model: Locality) -> Iterator[Row]:
    for row, part in enumerate(of_model.parts):
        for column, place in enumerate(of_model.parts):
            yield model, "skill", part, place, float(of_model.skills[row, column]), int(of_model.n_images[column])
