"""Successive halving that pauses: at each rung the better half of a bracket continues and the others wait.

Nothing here knows Optuna. A trial that was paused continues bit for bit, so that, unlike with a pruner that stops, an
early rank that was wrong costs nothing as long as its rung is open.

Source: Jamieson and Talwalkar 2016, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", for the
rungs; Deb et al. 2002, "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", for the order of several
objectives.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnsearch.metrics.racing import dominations

Status = Literal["running", "waiting", "paused", "complete", "pruned", "failed"]
"""Of a trial; "waiting" is one that was interrupted within a leg, "paused" one that ended a leg at a rung."""
MIN_FINISH = 2
"""Trials of a bracket that are trained to the end, at least."""
LAST = sys.maxsize
"""A rung beyond all others, at which trials that were trained to the end are compared."""
BRACKET_TRIALS = 25
"""Of a bracket with one objective, about. On recorded curves, smaller ones lost more at equal epochs."""
AGREEMENT = 0.3
"""Least rank correlation between two halves of validation at the first rung that decides: below it, ranks are noise."""
ENOUGH_TO_CORRELATE = 4


@dataclass(frozen=True)
class Rung:
    """Where trials of a bracket pause: after which epoch (from 1), and how many of those that reach it continue.

    Attributes:
        is_tentative: whether it may still turn out to decide nothing, so that nobody ends here before all are in.
        is_noise: whether it did, as two halves of validation disagree on the ranks.
    """

    epoch: int
    n_continue: int
    is_tentative: bool = False
    is_noise: bool = False


@dataclass(frozen=True)
class Value:
    """What a trial is worth at a rung: objectives, larger is better, and by how much it breaks its constraints.

    Attributes:
        halves: the monitor on two fixed halves of validation, where it is measured on those.
    """

    objectives: tuple[float, ...]
    excess: float = 0.0
    halves: tuple[float, float] | None = None


@dataclass(frozen=True)
class HalvingTrial:
    """A trial of a bracket.

    Attributes:
        values: at the rungs that it has reached, first rung first.
        final: of its best epoch once it is complete, which counts at rungs that it no longer reached.
    """

    number: int
    bracket: int
    status: Status
    values: tuple[Value, ...] = ()
    final: Value | None = None

    @property
    def is_dropped_out(self) -> bool:
        """Whether it ended badly before the first rung, so that another trial gets its place."""
        return self.status in ("failed", "pruned") and not self.values

    def value_at(self, rung: int) -> Value | None:
        """What it is worth at a rung (from 0); None where that is still to come.

        A trial may be pruned short of a rung: by another pruner, or where a budget that was raised again moved the cut.
        """
        if rung < len(self.values):
            return self.values[rung]
        if self.status in ("failed", "pruned"):
            return Value(tuple(-math.inf for _ in self.values[-1].objectives), math.inf)
        return self.final if self.status == "complete" else None

    def has_left(self, rung: int) -> bool:
        """Whether it was promoted from a rung."""
        n_reached = len(self.values)
        return n_reached > rung + 1 or (n_reached == rung + 1 and self.status not in ("paused", "pruned"))

    def has_ended_leg(self, leg: int) -> bool:
        """Whether it needs no more training up to a rung, or, beyond the last rung, to its end."""
        n_ended = len(self.values) + (self.status == "failed")
        return self.status == "complete" or leg < n_ended


def first_rung(epochs: int, *, warmup_epochs: float) -> int:
    """The epoch of the first rung: a tenth of the training, at least two, and one epoch after the warm-up."""
    return max(math.ceil(epochs / 10), math.ceil(warmup_epochs) + 1, 2)


def n_finishing(n_trials: int, *, has_several: bool) -> int:
    """Trials of a bracket that are trained to the end: a fifth, and with several objectives a quarter."""
    return max(MIN_FINISH, math.ceil(n_trials / (4 if has_several else 5)))


def rungs_of(n_trials: int, epochs: int, *, first: int, n_finish: int) -> tuple[Rung, ...]:
    """The rungs of a bracket: after `first` epochs, then after twice as many each time; half of the trials continue.

    Args:
        n_finish: trials that are trained to the end, at least; there are no rungs once so few are left.
    """
    rungs, epoch, remaining = [], first, n_trials
    while epoch < epochs and (n_continue := max(n_finish, math.ceil(remaining / 2))) < remaining:
        rungs.append(Rung(epoch, n_continue))
        epoch, remaining = 2 * epoch, n_continue
    return tuple(rungs)


def settled_rungs(
    planned: Sequence[Rung], trials: Sequence[HalvingTrial], *, n_trials: int, epochs: int
) -> tuple[Rung, ...]:
    """The rungs of a bracket once it is known which of them decide.

    Before a model has left chance, its rank is noise. Where two halves of validation disagree on the ranks, all trials
    continue, and what was planned for this rung happens at the next one; the first rung that decides ends this.

    Args:
        trials: of the bracket, without those that failed before the first rung.
        n_trials: that it has or will have.
        epochs: of a trial that is trained to its end.
    """
    rungs, remaining = list[Rung](), [rung.n_continue for rung in planned]
    epoch = planned[0].epoch if planned else epochs
    while remaining and epoch < epochs:
        may_be_noise = all(rung.n_continue == n_trials for rung in rungs)
        decides = _decides(trials, len(rungs), n_trials) if may_be_noise else True
        n_continue = n_trials if decides is False else remaining.pop(0)
        rungs.append(Rung(epoch, n_continue, is_tentative=decides is None, is_noise=decides is False))
        epoch *= 2
    return tuple(rungs)


def _decides(trials: Sequence[HalvingTrial], rung: int, n_trials: int) -> bool | None:
    """Whether ranks at a rung mean something; None until all trials are in."""
    values = [value for trial in trials if (value := trial.value_at(rung)) is not None]
    halves = np.array([value.halves for value in values if value.halves is not None], dtype=np.float64)  # (n, 2)
    if n_trials < ENOUGH_TO_CORRELATE or (values and not len(halves)):
        return True
    if len(values) < n_trials:
        return None
    from attnsearch.metrics.statistics import rank_correlation  # scipy, which readers do not load

    return len(halves) < ENOUGH_TO_CORRELATE or bool(rank_correlation(*halves.T[:, None])[0] >= AGREEMENT)


def bracket_sizes(n_trials: int, *, size: int | None) -> tuple[int, ...]:
    """Trials split into brackets of about `size`, as even as possible, larger ones first; None is one bracket."""
    n_brackets = 1 if size is None else max(1, round(n_trials / size))
    small, n_larger = divmod(n_trials, n_brackets)
    return tuple(small + (index < n_larger) for index in range(n_brackets) if n_trials)


def best_first(trials: Sequence[HalvingTrial], rung: int) -> list[HalvingTrial]:
    """Trials that have a value at a rung, best first.

    One objective: by value. Several: by non-domination rank, then by crowding distance, the lonelier first. Trials
    that break a constraint come last, those by less first. Ties are broken by number.
    """
    known = [(value, trial) for trial in trials if (value := trial.value_at(rung)) is not None]
    feasible = [(value, trial) for value, trial in known if value.excess <= 0]
    broken = [((value.excess, 0.0), trial.number, trial) for value, trial in known if value.excess > 0]
    points = np.array([value.objectives for value, _ in feasible], dtype=np.float64)  # (n, objectives)
    keys = _sort_keys(points) if len(feasible) else []
    best_first = sorted(zip(keys, (trial.number for _, trial in feasible), range(len(feasible)), strict=True))
    return [feasible[place][1] for *_, place in best_first] + [
        trial for *_, trial in sorted(broken, key=lambda b: b[:2])
    ]


def _sort_keys(points: NDArray[np.float64]) -> list[tuple[float, float]]:
    """What points (n, objectives) are sorted by, smallest first."""
    points = np.nan_to_num(points, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    if points.shape[1] == 1:
        return [(-float(value), 0.0) for value in points[:, 0]]
    ranks, keys = non_domination_ranks(points), [(0.0, 0.0)] * len(points)
    for rank in np.unique(ranks):
        rows = np.flatnonzero(ranks == rank)
        for row, distance in zip(rows, crowding_distances(points[rows]), strict=True):
            keys[row] = (float(rank), -float(distance))
    return keys


def non_domination_ranks(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) 0 for points (n, d) on the front, 1 for those on the front of the others, and so on; larger is better."""
    ranks = np.full(len(points), -1, dtype=np.int64)
    is_dominating = dominations(points.T)  # (n, n) the row the column
    n_above, rank = is_dominating.sum(axis=0), 0  # points that dominate each, of those without a rank
    while (front := np.flatnonzero((ranks < 0) & (n_above == 0))).size:
        ranks[front] = rank
        n_above -= is_dominating[front].sum(axis=0)
        rank += 1
    return ranks


def crowding_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) how far the neighbours of each of some points (n, d) lie apart, summed over the columns; ends are infinite.

    Source: Deb et al. 2002, section III B.
    """
    distances = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        with np.errstate(invalid="ignore"):  # of undefined values alone it is NaN
            width = values[-1] - values[0]
        distances[order[[0, -1]]] = np.inf
        if len(points) > 2 and 0 < width < np.inf:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / width
    return distances


@dataclass(frozen=True)
class Bracket:
    """The trials of a bracket and its rungs.

    Attributes:
        n_trials: that it has or will have.
    """

    number: int
    n_trials: int
    rungs: tuple[Rung, ...]
    trials: tuple[HalvingTrial, ...]

    @cached_property
    def members(self) -> tuple[HalvingTrial, ...]:
        """Without trials that failed before the first rung."""
        return tuple(trial for trial in self.trials if not trial.is_dropped_out)

    @cached_property
    def has_several(self) -> bool:
        """Whether trials are compared in more than one objective."""
        return any(len(value.objectives) > 1 for trial in self.members for value in trial.values)

    @property
    def n_open(self) -> int:
        """Trials that have not been started."""
        return max(0, self.n_trials - len(self.members))

    @cached_property
    def at_rungs(self) -> list[list[tuple[HalvingTrial, bool | None]]]:
        """The trials at each rung, best first, each with whether it continues; None while that is open."""
        found, participants = [], list(self.members)  # those that have reached the rung or are on their way to it
        for rung in range(len(self.rungs)):
            found.append(self._places(rung, participants))
            participants = [trial for trial, verdict in found[-1] if verdict is True]
        return found

    def n_expected(self, rung: int) -> int:
        """Trials that reach a rung (from 0) in all; beyond the last one those that are trained to the end."""
        return min([self.n_trials, *(before.n_continue for before in self.rungs[:rung])])

    def epochs_left(self, n_epochs: int, trained: Mapping[int, int]) -> int:
        """Epochs until the bracket has ended, if no further trial fails or ends by itself.

        Args:
            n_epochs: of a trial that is trained to its end.
            trained: number of each trial -> epochs that it has been trained for.
        """
        begins = (0, *(rung.epoch for rung in self.rungs))
        legs = zip(begins, (*begins[1:], n_epochs), strict=True)
        return sum(self._left_of_leg(leg, begin, end, trained) for leg, (begin, end) in enumerate(legs))

    def _left_of_leg(self, leg: int, begin: int, end: int, trained: Mapping[int, int]) -> int:
        """Epochs that are left between the rung before and the next one, by all trials that have a place there."""
        n_over = sum(one.has_ended_leg(leg) for one in self.members)
        on_way = [one for one in self.members if len(one.values) == leg and one.status in ("running", "waiting")]
        n_trained = sum(min(end, trained[one.number]) - begin for one in on_way)
        return max(0, (self.n_expected(leg) - n_over) * (end - begin) - n_trained)

    def decided(self) -> tuple[list[HalvingTrial], list[HalvingTrial]]:
        """Paused trials that continue, from the last rung to the first and best first, and those that end here."""
        continuing, ending = [], []
        for rung, places in reversed(list(enumerate(self.at_rungs))):
            for trial, verdict in places:
                if trial.status == "paused" and len(trial.values) == rung + 1:
                    continuing += [trial] * (verdict is True)
                    ending += [trial] * (verdict is False)
        return continuing, ending

    def _places(self, rung: int, participants: Sequence[HalvingTrial]) -> list[tuple[HalvingTrial, bool | None]]:
        """Those that have reached a rung, best first, each with whether it continues; None while that is open."""
        here = self.rungs[rung]
        order = best_first(participants, rung)
        n_out = max(0, self.n_expected(rung) - len(order))
        is_early = any(before.is_tentative for before in self.rungs[:rung])
        if is_early or (self.has_several and n_out):  # one more point may change every crowding distance
            return [(trial, True if trial.has_left(rung) else None) for trial in order]
        return [(trial, _verdict(trial.has_left(rung), place, n_out, here)) for place, trial in enumerate(order)]


def _verdict(has_left: bool, place: int, n_out: int, rung: Rung) -> bool | None:
    """Whether the trial at a place from 0 continues, if those still out may all come before it; None if they may."""
    if has_left or place + n_out < rung.n_continue:
        return True
    return False if place >= rung.n_continue and not rung.is_tentative else None
