"""Ends a search whose last trials failed or improved nothing, and estimates what more would bring. Needs no torch.

Gains are judged by the complete and pruned trials as they ended; those of another study are no idle ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import optuna
from optuna.trial import FrozenTrial, TrialState

from attnsearch.config.study import StudyConfig
from attnsearch.search.history import History, history_of, in_order
from attnsearch.search.study import ENDED_AT, STOPPED, Stop, stored_stop
from attnsearch.search.trials import StudyRows, TrialRow, rows_of

SMALL_GAIN = 0.005
"""Of the volume of a front: a gain up to this fraction of it is none."""
MIN_TRIALS = 10
"""Finished trials below which nothing is said about more of them."""
N_FAILED_TO_STOP = 3
"""A study stops after so many trials in a row that failed."""
FINISHED = ("complete", "pruned")


def is_failing(trials: Iterable[FrozenTrial], *, since: float) -> bool:
    """Whether `N_FAILED_TO_STOP` trials in a row that ended after `since` (UTC seconds since 1970) failed.

    It stays true when a trial that was still running ends well: the workers that stopped for it do not start again.
    """
    ended = [trial for trial in trials if trial.state.is_finished() and trial.user_attrs.get(ENDED_AT, -1.0) >= since]
    ended.sort(key=lambda trial: trial.user_attrs[ENDED_AT])
    n_in_a_row = 0
    for trial in ended:
        n_in_a_row = n_in_a_row + 1 if trial.state == TrialState.FAIL else 0
        if n_in_a_row == N_FAILED_TO_STOP:
            return True
    return False


def is_out_of_patience(study: optuna.Study, config: StudyConfig, url: str) -> bool:
    """Whether the study starts no new trials any more; the reason is written into it. Needs the lock of the study.

    Trials that have begun continue to their end.

    Args:
        url: of its database, for messages.
    """
    if config.patience is None:
        return False
    rows = rows_of(study, url)
    if rows.stop is None or not rows.stop.holds(config):
        reason = why_stopped(rows, config.patience)
        if reason is None:
            return False
        study.set_user_attr(STOPPED, asdict(Stop(config.patience, reason)))
    return True


def has_ended_early(study: optuna.Study, config: StudyConfig) -> bool:
    """Whether patience has ended the study and no trial that has begun is left."""
    stop = stored_stop(study)
    states = {trial.state for trial in study.get_trials(deepcopy=False)}
    return stop is not None and stop.holds(config) and all(state.is_finished() for state in states)


def why_stopped(rows: StudyRows, patience: int) -> str | None:
    """Why a study ends under this patience; None where it does not.

    With several objectives the volume of the front is judged, once its bounds are frozen.
    """
    history = history_of(rows)
    if history is None or (len(rows.objectives) > 1 and rows.bounds is None):
        return None
    index = _last_gain(history)
    finished = _finished(rows)
    after = [trial.number for trial in finished].index(history.trials[index])
    n_idle = sum(not trial.imported_from for trial in finished[after + 1 :])
    if n_idle < patience:
        return None
    what = f"best {history.measure} {history.values[index]:.4g} of trial {history.trials[index]}"
    if history.n_bounding:
        what = f"hypervolume since trial {history.trials[index]} by more than {100 * SMALL_GAIN:g} %"
    return f"{n_idle} {'trial' if n_idle == 1 else 'trials'} in a row did not improve the {what}"


def _last_gain(history: History) -> int:
    """Index of the trial after which nothing was gained; of a volume at most `SMALL_GAIN` of it."""
    last = history.values[-1]
    margin = SMALL_GAIN * abs(last) if history.n_bounding else 0.0
    return next(index for index, value in enumerate(history.values) if abs(last - value) <= margin)


def _finished(rows: StudyRows) -> list[TrialRow]:
    return in_order([trial for trial in rows.trials if trial.state in FINISHED])


@dataclass(frozen=True)
class Outlook:
    """What a search has brought by doubling its trials, and what doubling them once more may bring.

    Attributes:
        measure: objective, or `hypervolume`.
        n_trials: finished trials.
        last: how much the best value improved from half of the trials to all of them: with one objective on average
            over which trials are that half, with several in the order in which they ended.
        next: what as many trials again would bring, if each doubling brings the same fraction of the one before; at
            most `last`.
    """

    measure: str
    n_trials: int
    last: float
    next: float


def outlook_of(rows: StudyRows) -> Outlook | None:
    """What a search that is twice as long may bring; None with fewer than `MIN_TRIALS` finished trials.

    A pruned trial counts with what it had reached, which it might have passed.
    """
    finished = _finished(rows)
    if len(finished) < MIN_TRIALS:
        return None
    found = _best_values(finished, rows) if len(rows.objectives) == 1 else _volumes(finished, rows)
    if found is None:
        return None
    measure, (quarter, half, whole) = found
    return Outlook(measure, len(finished), whole - half, next_gain(half - quarter, whole - half))


def _best_values(finished: Sequence[TrialRow], rows: StudyRows) -> tuple[str, list[float]] | None:
    """The objective, and its expected best value among a quarter, half and all of the trials; larger is better."""
    ((key, direction),) = rows.objectives.items()
    sign = 1.0 if direction == "maximize" else -1.0
    values = [sign * value for trial in finished if (value := _reached(trial, key)) is not None]
    if len(values) < MIN_TRIALS:
        return None
    return key, [expected_best(values, len(values) // parts) for parts in (4, 2, 1)]


def _volumes(finished: Sequence[TrialRow], rows: StudyRows) -> tuple[str, list[float]] | None:
    """The name of the volume of the front, and the volume after a quarter, half and all of the trials."""
    history = history_of(rows)
    if history is None:
        return None
    after = dict(zip(history.trials, history.values, strict=True))
    counts = [len(finished) // parts for parts in (4, 2, 1)]
    return history.measure, [max((after.get(one.number, 0.0) for one in finished[:n]), default=0.0) for n in counts]


def next_gain(first: float, second: float) -> float:
    """What a third doubling brings after two that brought this much, at most as much as the second."""
    return 0.0 if second <= 0 else second * min(1.0, second / first) if first > 0 else second


def _reached(trial: TrialRow, key: str) -> float | None:
    if not trial.is_feasible:
        return None
    return trial.values[0] if trial.state == "complete" else trial.metrics.get(key)


def expected_best(values: Sequence[float], k: int) -> float:
    """The mean, over all choices of k of the values, of the largest chosen one."""
    mean, share = 0.0, k / len(values)  # of the choices, those in which this value is the largest
    for place, value in enumerate(sorted(values, reverse=True), start=1):
        mean += share * value
        share *= max(len(values) - place - k + 1, 0) / max(len(values) - place, 1)
    return mean
