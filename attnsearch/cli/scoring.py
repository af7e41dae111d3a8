"""What `evaluate` does: one kept checkpoint on one split."""

from __future__ import annotations

from collections.abc import Iterable

from attnsearch.cli.found import open_study
from attnsearch.config.layers import parse_override
from attnsearch.config.load import with_settings
from attnsearch.errors import ConfigError
from attnsearch.search.study import best_trials
from attnsearch.store.layout import StudyLayout
from attnsearch.types import Split


def evaluate_trial(
    layout: StudyLayout, trial: int | None, split: Split, *, overrides: Iterable[str]
) -> dict[str, float]:
    """`split/metric` -> value; nothing is stored, but a look at the test split is noted in the study's folder.

    Args:
        trial: its number; None is the best one.
        overrides: `key=value` settings of the data and the machine that differ from those of the training.

    Raises:
        ConfigError: no such trial, or one without a kept checkpoint.
        DataError: the data set cannot be used or has no such split.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.collect import collect
    from attnsearch.models.kept import read_kept
    from attnsearch.search.publish import Chosen, note_look

    number = best_number(layout) if trial is None else trial
    files = layout.trial(number)
    if not files.kept.is_file():
        raise ConfigError(
            f"trial {number} of study {layout.study!r} has no kept checkpoint ({files.kept}); `show` lists all"
        )
    kept = read_kept(files.kept)
    config = with_settings(kept.config, dict(map(parse_override, overrides)))
    data = open_data(config.data)
    data.tables.of(split)
    if split == "test":
        note_look(layout, Chosen(number, kept.epoch, files, layout.published(kept.epoch)), split)
    return collect(config, files.kept, data, split)


def best_number(layout: StudyLayout) -> int:
    """The best trial of a study.

    Raises:
        ConfigError: none is complete.
    """
    session = open_study(layout)
    best = best_trials(session.study, session.loaded.study, k=1)
    if not best:
        raise ConfigError(f"study {layout.study!r} has no complete trial yet; name one with --trial")
    return best[0].number
