"""What a study costs, as arithmetic on what short loops have measured of single trials: time, memory and disk.

Nothing here imports torch, so that readers of results can compare a stored forecast with what trials really took.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from attnsearch.config.load import LoadedStudy
from attnsearch.config.study import Scalar
from attnsearch.search.brackets import planned_brackets
from attnsearch.search.halving import Bracket
from attnsearch.search.study import chooses_by_scores

MAX_RACING = 5
"""Complete trials that are assumed to be too close to call after a search that chooses by scores of maps."""


@dataclass(frozen=True)
class Cost:
    """Time: what a clock on the wall shows, and what all threads of a process take of its processors."""

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.processor_seconds + other.processor_seconds)

    def __sub__(self, other: Cost) -> Cost:
        return self + -1 * other

    def __rmul__(self, factor: float) -> Cost:
        return Cost(factor * self.seconds, factor * self.processor_seconds)

    def at_least_zero(self) -> Cost:
        """Without the negative part that the difference of two measurements may have."""
        return Cost(max(0.0, self.seconds), max(0.0, self.processor_seconds))


@dataclass(frozen=True)
class TrialBytes:
    """Bytes on disk.

    Attributes:
        weights: of the best checkpoint.
        resume: of the resume checkpoint, which goes when the trial ends.
        maps: arrays on validation, which retention may remove; of complete trials alone.
        tables: settings, log, curves, scores and images for the dashboard, which stay.
        journal: scores of single images, which stay until the search has ended.
        database: rows of the trial.
    """

    weights: int
    resume: int
    maps: int
    tables: int
    journal: int
    database: int


@dataclass(frozen=True)
class TrialCost:
    """What a trial costs under one setting, and what the search around it costs.

    Attributes:
        settings: its hyperparameters.
        epochs: of a trial that is trained to its end.
        recorded_s: seconds of an epoch that the trial itself records: training and validation.
        leg: each time that the trial is started or continued, beside its epochs.
        epoch: one epoch with its checkpoints and its rows in the database.
        end: once it is complete: maps, scores, checksums and images.
        rung: each time that it pauses, where a score of maps decides who continues.
        worker: once for each process: what it opens, and what only the first trial of a process computes.
        publication: of one trial after the search.
        race: of one trial that is scored on more images after the search.
        decoding: of all images into the cache; zero where they are there.
        memory_bytes: private memory of a worker at its peak.
        gpu_bytes: memory of a GPU at its peak, the context of the process included; 0 without one.
        gpu_total_bytes: that the GPU has.
        published_bytes: of the published files of one trial, small copies of images included.
    """

    settings: dict[str, Scalar]
    epochs: int
    recorded_s: float
    leg: Cost
    epoch: Cost
    end: Cost
    rung: Cost
    worker: Cost
    publication: Cost
    race: Cost
    decoding: Cost
    memory_bytes: int
    gpu_bytes: int
    gpu_total_bytes: int
    bytes: TrialBytes
    published_bytes: int

    @property
    def whole(self) -> Cost:
        """Of a trial that runs from its start to its end without a pause."""
        return self.of_leg(Leg(1))

    def of_leg(self, leg: Leg) -> Cost:
        """Of the trial between two rungs."""
        end = self.epochs if leg.end is None else leg.end
        return self.leg + (end - leg.begin) * self.epoch + (self.end if leg.end is None else self.rung)


@dataclass(frozen=True)
class Leg:
    """Some trials between two rungs.

    Attributes:
        begin, end: the epochs after which they start and pause; an end of None is that of the trial.
    """

    n_trials: int
    begin: int = 0
    end: int | None = None


@dataclass(frozen=True)
class StudySchedule:
    """What the trials of a study run, if all goes as its pruner plans.

    Attributes:
        n_unfinished: trials that hold a resume checkpoint at a time, at most, beside those that run.
        scores_rungs: whether trials have maps once they pause.
    """

    legs: tuple[Leg, ...]
    n_unfinished: int = 0
    scores_rungs: bool = False

    @property
    def n_trials(self) -> int:
        """Trials that are started."""
        return sum(leg.n_trials for leg in self.legs if leg.begin == 0)

    @property
    def n_complete(self) -> int:
        """Trials that are trained to their end."""
        return sum(leg.n_trials for leg in self.legs if leg.end is None)


def schedule_of(loaded: LoadedStudy) -> StudySchedule:
    """The schedule of a whole study: that of halving, else all trials in full, since no other saving is known before.

    Early stopping, patience and the pruners that judge by curves may end trials or the search sooner.
    """
    n_trials = loaded.study.n_trials
    if loaded.study.halving is None:
        return StudySchedule((Leg(n_trials),))
    planned = planned_brackets(loaded, n_left=max(0, n_trials - len(loaded.study.enqueue)))
    brackets = [Bracket(number, one.n_trials, one.rungs, ()) for number, one in enumerate(planned, start=1)]
    n_others = n_trials - sum(bracket.n_trials for bracket in brackets)
    legs = [*([Leg(n_others)] if n_others else []), *(leg for bracket in brackets for leg in _legs_of(bracket))]
    n_paused = max((bracket.n_trials for bracket in brackets), default=0)
    return StudySchedule(tuple(legs), n_paused, chooses_by_scores(loaded.study))


def _legs_of(bracket: Bracket) -> Iterator[Leg]:
    ends = [*(rung.epoch for rung in bracket.rungs), None]
    for index, (begin, end) in enumerate(zip([0, *(rung.epoch for rung in bracket.rungs)], ends, strict=True)):
        yield Leg(bracket.n_expected(index), begin, end)


def makespan(durations: Sequence[float], n_workers: int) -> float:
    """Seconds until all are done, if each worker takes the next one in order as soon as it is free."""
    free_at = [0.0] * n_workers
    for duration in durations:
        heapq.heapreplace(free_at, free_at[0] + duration)
    return max(free_at)


@dataclass(frozen=True)
class StudyBytes:
    """Bytes on disk of a whole study.

    Attributes:
        resume: resume checkpoints at one time, at most, with those that are being written.
        peak: at one moment, at most, before retention removes anything.
        left: once retention was applied, as it is after the search or by `attnsearch prune-files`.
    """

    database: int
    weights: int
    resume: int
    maps: int
    tables: int
    published: int
    peak: int
    left: int


@dataclass(frozen=True)
class StudyForecast:
    """What a whole study costs.

    Attributes:
        draws: trials at random settings, which the totals are made of.
        largest, smallest: trials at range limits, where they need most and least.
        preparation: imports and checks of the search, and the decoding of images.
        total: time of the search from its start to its end, that of the preparation included.
        unpruned: the same if all trials were trained to their end.
        memory_bytes: of one worker, at most; `gpu_bytes` likewise, 0 without a GPU.
    """

    study: str
    n_trials: int
    n_workers: int
    draws: tuple[TrialCost, ...]
    largest: TrialCost
    smallest: TrialCost
    preparation: Cost
    total: Cost
    unpruned: Cost
    memory_bytes: int
    gpu_bytes: int
    disk: StudyBytes

    @property
    def recorded_s(self) -> float:
        """Seconds of an epoch that a trial records, on average: what finished trials are compared with."""
        return sum(draw.recorded_s for draw in self.draws) / len(self.draws)

    @property
    def trial(self) -> Cost:
        """Of a trial that is trained to its end, on average."""
        return _mean([draw.whole for draw in self.draws])


@dataclass(frozen=True)
class Trials:
    """What was measured of single trials; see `StudyForecast`."""

    draws: tuple[TrialCost, ...]
    largest: TrialCost
    smallest: TrialCost

    @property
    def all(self) -> tuple[TrialCost, ...]:
        """Largest first."""
        return (self.largest, self.smallest, *self.draws)


def forecast_of(loaded: LoadedStudy, measured: Trials, preparation: Cost, *, n_workers: int) -> StudyForecast:
    """The forecast of a study.

    Args:
        preparation: of the process that searches, before the images are decoded.
        n_workers: processes that run trials.
    """
    schedule = schedule_of(loaded)
    whole = StudySchedule((Leg(loaded.study.n_trials),))
    once = preparation + max((one.decoding for one in measured.all), key=lambda cost: cost.seconds)
    return StudyForecast(
        study=loaded.study.name,
        n_trials=loaded.study.n_trials,
        n_workers=n_workers,
        draws=measured.draws,
        largest=measured.largest,
        smallest=measured.smallest,
        preparation=once,
        total=once + _total(loaded, measured.draws, schedule, n_workers),
        unpruned=once + _total(loaded, measured.draws, whole, n_workers),
        memory_bytes=max(one.memory_bytes for one in measured.all),
        gpu_bytes=max(one.gpu_bytes for one in measured.all),
        disk=_disk(loaded, measured.draws, schedule, n_workers),
    )


def _total(loaded: LoadedStudy, draws: Sequence[TrialCost], schedule: StudySchedule, n_workers: int) -> Cost:
    """The workers from their start to the end of the last trial, and what follows.

    The process that searches counts as one more: it makes the database, evaluates the best trial and reads the results.
    """
    n_working = min(n_workers, schedule.n_trials)
    taken = cycle(draws)
    costs = [next(taken).of_leg(leg) for leg in schedule.legs for _ in range(leg.n_trials)]
    worker = _mean([draw.worker for draw in draws])
    wall = 2 * worker.seconds + makespan([cost.seconds for cost in costs], n_working)
    processor = (n_working + 1) * worker.processor_seconds + sum(cost.processor_seconds for cost in costs)
    n_racing = min(MAX_RACING, schedule.n_complete) if chooses_by_scores(loaded.study) else 0
    after = n_published(loaded) * _mean([draw.publication for draw in draws])
    return Cost(wall, processor) + after + n_racing * _mean([draw.race for draw in draws])


def n_published(loaded: LoadedStudy) -> int:
    """Trials that are evaluated on test in the end; of a Pareto front, whose size nobody knows before, one."""
    return 0 if loaded.study.repeats else 1


def _disk(loaded: LoadedStudy, draws: Sequence[TrialCost], schedule: StudySchedule, n_workers: int) -> StudyBytes:
    retention, n_trials, n_complete = loaded.study.retention, schedule.n_trials, schedule.n_complete
    mean = {name: sum(getattr(draw.bytes, name) for draw in draws) / len(draws) for name in vars(draws[0].bytes)}
    n_running, n_with_maps = min(n_workers, n_trials), n_trials if schedule.scores_rungs else n_complete
    n_unfinished = min(n_trials, max(schedule.n_unfinished, n_running))
    n_resumes = n_trials if retention.resume else n_unfinished
    parts = {
        "database": n_trials * mean["database"],
        "weights": n_trials * mean["weights"],
        "resume": (n_resumes + n_running) * mean["resume"],
        "maps": n_with_maps * mean["maps"],
        "tables": n_complete * mean["tables"],
        "published": n_published(loaded) * sum(draw.published_bytes for draw in draws) / len(draws),
    }
    of_all, of_ends = parts["database"] + parts["weights"], parts["maps"] + parts["tables"]
    journals, kept_resumes = n_complete * mean["journal"], n_trials * mean["resume"] if retention.resume else 0.0
    moments = (
        of_all + (1 - n_unfinished / n_trials) * (of_ends + journals) + parts["resume"],  # most trials wait or train
        of_all + of_ends + journals + max(kept_resumes, n_running * mean["resume"]),  # the last ones are evaluated
        of_all + of_ends + kept_resumes + parts["published"],
    )
    n_kept = min(n_trials, retention.best_k)
    kept = n_kept * mean["weights"] + min(n_kept, n_with_maps) * mean["maps"] + kept_resumes
    left = parts["database"] + parts["tables"] + parts["published"] + kept
    return StudyBytes(**{name: round(value) for name, value in (parts | {"peak": max(moments), "left": left}).items()})


def _mean(costs: Sequence[Cost]) -> Cost:
    return 1 / len(costs) * sum(costs, Cost())
