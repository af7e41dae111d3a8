"""How far a study with halving is, for readers, and which trial leads while none is complete and published."""

from __future__ import annotations

from dataclasses import dataclass

from attnsearch.results.study import StudyReader
from attnsearch.search.standings import BracketState, bracket_states


@dataclass(frozen=True)
class Leader:
    """The trial with the best value of the monitor so far, among those that may continue.

    Attributes:
        epoch: to which it is trained, of `n_epochs`.
        paused_at: where halving has paused it, as text; None where it has not.
    """

    trial: int
    monitor: str
    value: float
    epoch: int
    n_epochs: int
    paused_at: str | None


def brackets_in(study: StudyReader) -> list[BracketState]:
    """How far the brackets of a search with halving are; none without halving.

    Raises:
        ConfigError, StoreError: the study cannot be read.
    """
    if study.is_plain_run or study.settings.halving is None:
        return []
    databases, layout = study.shared.databases, study.layout
    return bracket_states(databases.study(layout), study.settings, databases.url(layout))


def leader_of(study: StudyReader) -> Leader | None:
    """The trial that leads; None where one is complete, or none has finished an epoch.

    Raises:
        ConfigError, StoreError: the study cannot be read.
    """
    if study.rows.complete:
        return None
    monitor, direction = study.monitor
    sign = 1 if direction == "maximize" else -1
    begun = [(sign * one.value, -one.number, one) for one in study.progress().trials if one.value is not None]
    value, _, one = max((found for found in begun if found[2].is_unfinished), default=(0.0, 0, None))
    if one is None:
        return None
    paused_at = None if one.standing is None else str(one.standing)
    return Leader(one.number, monitor, sign * value, one.epoch, one.n_epochs, paused_at)


def leader_lines(study: StudyReader) -> list[str]:
    """The same as a sentence without a full stop, with what happens next; none where no trial leads."""
    leader = leader_of(study)
    if leader is None:
        return []
    where = "" if leader.paused_at is None else f", paused {leader.paused_at}"
    return [
        f"trial {leader.trial} with {leader.monitor} {leader.value:.4g} after {leader.epoch} of "
        f"{leader.n_epochs} epochs{where}; nothing is published before a trial is complete, and the same command "
        "continues the search"
    ]
