"""What `evaluate` does: one kept checkpoint on one split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attnsearch.cli.checkpoints import best_number, is_file_name, kept_of
from attnsearch.cli.found import find_run
from attnsearch.config.load import with_overrides, without_variables
from attnsearch.types import Split


def evaluate_source(
    source: str,
    trial: int | None,
    split: Split,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> dict[str, float]:
    """`split/metric` -> value; nothing is stored, but a look at a study's test split is noted in its folder.

    Args:
        source: a study or run in the results, or a checkpoint file.
        trial: of the study; None is the best one.
        overrides: `key=value` settings of the data and the machine that differ from those of the training.
        storage: as `reader_url`.

    Raises:
        ConfigError: no such study or trial, or one without a kept checkpoint.
        DataError: the data set cannot be used or has no such split.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models.checkpoint import read_model_checkpoint
    from attnsearch.store.trial_store import log_test_evaluation

    layout = None if is_file_name(source) else find_run(source, root)
    number = best_number(layout, storage) if layout is not None and trial is None else trial or 0
    kept = read_model_checkpoint(source if layout is None else kept_of(layout, number))
    config = with_overrides(without_variables(kept.config), overrides)
    data = open_data(config.data)
    data.tables.of(split)
    if layout is not None and split == "test":
        log_test_evaluation(layout, number, kept.epoch, split)
    with Evaluation.open(kept, data, config=config) as evaluation:
        return evaluation.run(split)
