"""Where the trials of a study with halving stand, for readers: places at rungs, and how far each bracket is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import optuna

from attnsearch.config.study import StudyConfig
from attnsearch.search.brackets import current_brackets
from attnsearch.search.halving import Bracket
from attnsearch.store.inspection import database_content_errors


@dataclass(frozen=True)
class Standing:
    """Where a paused trial waits, or the last rung that a pruned or failed one has reached.

    Attributes:
        bracket, rung, place: from 1; the place among those that have reached the rung so far.
        epoch: after which the rung lies.
    """

    bracket: int
    rung: int
    epoch: int
    place: int
    n_reached: int

    def __str__(self) -> str:
        return f"at epoch {self.epoch}, rung {self.rung}, place {self.place} of {self.n_reached}"

    @property
    def cells(self) -> dict[str, int]:
        """Columns of a table of trials."""
        return {"rung": self.rung, "place": self.place, "n_at_rung": self.n_reached}


@dataclass(frozen=True)
class RungState:
    """How far the trials of a bracket are at a rung.

    Attributes:
        epoch: after which they pause.
        n_in: trials that have reached it, of `n_expected`.
        n_decided: trials of which it is decided that they continue, of `n_continue`.
        is_noise: whether all continue, as two halves of validation disagree on the ranks.
    """

    epoch: int
    n_in: int
    n_expected: int
    n_decided: int
    n_continue: int
    is_noise: bool = False

    def __str__(self) -> str:
        continuing = f"{self.n_decided} of {self.n_continue} continue"
        if self.is_noise:
            continuing = "all continue, as halves of validation disagree on the ranks"
        return f"epoch {self.epoch}: {self.n_in} of {self.n_expected} in, {continuing}"


@dataclass(frozen=True)
class BracketState:
    """How far a bracket is.

    Attributes:
        number: from 1.
        n_started: trials that have begun, of `n_trials`.
        n_complete: trials that were trained to their end, of `n_finish`.
    """

    number: int
    n_started: int
    n_trials: int
    rungs: tuple[RungState, ...]
    n_complete: int
    n_finish: int

    def __str__(self) -> str:
        rungs = [f"rung {number} at {rung}" for number, rung in enumerate(self.rungs, start=1)]
        started = f"bracket {self.number}: {self.n_started} of {self.n_trials} started"
        return "; ".join([started, *rungs, f"{self.n_complete} of {self.n_finish} complete"])


def standings_of(brackets: Sequence[Bracket]) -> dict[int, Standing]:
    """Number of each paused, pruned or failed trial that has reached a rung -> where it stands there."""
    return {
        trial.number: Standing(bracket.number, rung, bracket.rungs[rung - 1].epoch, place, len(at_rung))
        for bracket in brackets
        for rung, at_rung in enumerate(bracket.at_rungs, start=1)
        for place, (trial, _) in enumerate(at_rung, start=1)
        if len(trial.values) == rung and trial.status in ("paused", "pruned", "failed")
    }


def bracket_states(study: optuna.Study, config: StudyConfig, url: str) -> list[BracketState]:
    """How far the brackets of a study are; none without halving.

    Args:
        url: of the database, for messages.
    Raises:
        StoreError: the database holds something that is no trial.
    """
    with database_content_errors(url):
        return [state_of_bracket(one) for one in current_brackets(study, study.get_trials(deepcopy=False), config)]


def state_of_bracket(bracket: Bracket) -> BracketState:
    """How far a bracket is."""
    rungs = tuple(
        RungState(
            epoch=rung.epoch,
            n_in=len(at_rung),
            n_expected=bracket.n_expected(index),
            n_decided=sum(verdict is True for _, verdict in at_rung),
            n_continue=bracket.n_expected(index + 1),
            is_noise=rung.is_noise,
        )
        for index, (rung, at_rung) in enumerate(zip(bracket.rungs, bracket.at_rungs, strict=True))
    )
    n_complete = sum(trial.status == "complete" for trial in bracket.members)
    n_finish = bracket.n_expected(len(bracket.rungs))
    return BracketState(bracket.number, len(bracket.members), bracket.n_trials, rungs, n_complete, n_finish)
