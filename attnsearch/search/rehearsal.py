"""A trial in short: the steps of a real one on few images, in a database and a folder of its own, with a stopwatch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.search.context import ClaimedTrial, SearchContext, Worker
from attnsearch.search.costs import Cost
from attnsearch.search.footprint import Sizes, sizes_of
from attnsearch.search.handle import StudyHandle
from attnsearch.search.objective import attach_images, list_files, list_scores, score_trial
from attnsearch.search.plan import SearchPlan
from attnsearch.search.publish import TrialToPublish, publish_trial
from attnsearch.search.queue import claim_next
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.trainer import fit
from attnsearch.types import EpochRecord, TrialResult


def now() -> Cost:
    """The clocks of this moment, the second one of all threads of this process."""
    return Cost(time.perf_counter(), time.process_time())


@dataclass(frozen=True)
class Steps:
    """A loop.

    Attributes:
        n: its steps.
        step: one in the middle, without what comes before and after the loop.
    """

    n: int
    step: Cost

    @classmethod
    def between(cls, stamps: Sequence[Cost], total: Cost) -> Steps:
        """From the moments at which each step began; one step alone is all of the loop."""
        n = len(stamps)
        return cls(n, 1 / (n - 1) * (stamps[-1] - stamps[0]) if n > 1 else total)

    def beyond(self, n: int) -> Cost:
        """What a loop of n steps costs more than this one."""
        return (n - self.n) * self.step


@dataclass(frozen=True)
class Performance:
    """What was measured of a short trial.

    Attributes:
        opening: of the database, which is made.
        begin: from its claim to the end of its first epoch.
        epoch: the last one, with what lies between two epochs where there is more than one.
        finish: after the last epoch until its checkpoints are written.
        train, val: the batches of the last epoch.
        recorded: seconds of training and of validation in the last epoch, as the trial records them.
        end: from there to the end of a complete trial, of which `archive` and `score` are loops.
    """

    n_epochs: int
    opening: Cost
    begin: Cost
    epoch: Cost
    finish: Cost
    train: Steps
    val: Steps
    recorded: tuple[float, float]
    end: Cost
    archive: Steps
    score: Steps
    publication: Cost
    sizes: Sizes

    @property
    def leg(self) -> Cost:
        """Beside its epochs."""
        return (self.begin - self.epoch).at_least_zero() + self.finish

    @property
    def total(self) -> Cost:
        """All of it."""
        return self.leg + self.n_epochs * self.epoch + self.end + self.publication


class ClockedContext(SearchContext):
    """Notes when each batch begins and when each epoch has ended.

    Attributes:
        stamps: of the batches since the last epoch.
        ended: of each epoch, when it ended, and the stamps of its batches.
        records: of all epochs.
    """

    def __init__(self, handle: StudyHandle, worker: Worker, claim: ClaimedTrial, *, seed: int) -> None:
        super().__init__(handle, worker, claim, seed=seed)
        self._thread = threading.get_ident()
        self.stamps: list[Cost] = []
        self.ended: list[tuple[Cost, list[Cost]]] = []
        self.records: list[EpochRecord] = []

    def check(self) -> None:
        super().check()
        if threading.get_ident() == self._thread:  # files are written beside the training
            self.stamps.append(now())

    def record(self, records: list[EpochRecord]) -> None:
        self.ended.append((now(), self.stamps))
        self.stamps, self.records = [], list(records)
        super().record(records)

    def steps(self, run: Callable[[], object], *, n: int) -> Steps:
        """Runs a loop of n steps, the first of what it checks; one that checks nothing costs nothing."""
        self.stamps, begun = [], now()
        run()
        return Steps.between(self.stamps[:n], now() - begun) if self.stamps else Steps(n, Cost())


@dataclass(frozen=True)
class Portion:
    """How much of a trial is run.

    Attributes:
        n_val_batches: of all validation images of the source.
        n_scored: images that are scored, at most.
        chunk_images: those that are scored at a time.
    """

    n_epochs: int
    n_val_batches: int
    n_scored: int
    chunk_images: int


@dataclass(frozen=True)
class Rehearsal:
    """A short trial in a study of its own."""

    handle: StudyHandle
    claim: ClaimedTrial
    experiment: ExperimentConfig
    source: DataSource
    portion: Portion
    opening: Cost

    @property
    def layout(self) -> TrialLayout:
        """Of its files."""
        return self.handle.layout.trial(self.claim.trial.number)

    def perform(self, context: ClockedContext) -> Performance:
        """Trains, evaluates and publishes, as a worker and the end of a search do."""
        begun = now()
        result = fit(self.experiment, context, data=self.source)
        trained = now()
        archive, score = self._evaluate(context)
        complete = now()
        files = publish_trial(self.handle.layout, self._published(result), self.source)
        published = now()
        end, train, val = self._last_epoch(context)
        epoch = end - (context.ended[-2][0] if len(context.ended) > 1 else train[0])
        return Performance(
            n_epochs=len(context.ended),
            opening=self.opening,
            begin=context.ended[0][0] - begun,
            epoch=epoch,
            finish=trained - end,
            train=Steps.between(train, epoch),
            val=Steps.between(val, epoch),
            recorded=(context.records[-2].seconds, context.records[-1].seconds),
            end=complete - trained,
            archive=archive,
            score=score,
            publication=published - complete,
            sizes=sizes_of(self.handle, context.records[-2:], result, files),
        )

    def _last_epoch(self, context: ClockedContext) -> tuple[Cost, list[Cost], list[Cost]]:
        """When it ended, and when its batches of training and of validation began."""
        end, stamps = context.ended[-1]
        n_val = self.portion.n_val_batches
        n_train = -(-context.records[-2].n_images // self.experiment.train.batch_size)
        return end, stamps[-n_val - n_train : -n_val], stamps[-n_val:]

    def _evaluate(self, context: ClockedContext) -> tuple[Steps, Steps]:
        """What follows the last epoch of a complete trial; the loops over validation and over scored images."""
        number, attempt, paths = self.claim.trial.number, self.claim.attempt, self.layout.archive("val")
        with Evaluation.open(self.layout.best, self.source, config=self.experiment) as evaluation:
            archive = context.steps(
                lambda: evaluation.run("val", archive=paths, check=context.check), n=self.portion.n_val_batches
            )
            n_chunks = -(-self.portion.n_scored // self.portion.chunk_images)
            score = context.steps(
                lambda: score_trial(evaluation, self.layout, check=context.check, n_images=self.portion.n_scored),
                n=n_chunks,
            )
        list_files(self.handle, number, attempt)
        list_scores(self.handle, self.claim.trial, attempt)
        attach_images(self.handle, self.claim.trial, self.source, check=context.check)
        context.flush()
        return archive, score

    def _published(self, result: TrialResult) -> TrialToPublish:
        epoch, number = result.best_epoch, self.claim.trial.number
        return TrialToPublish(number, epoch, self.layout, self.handle.layout.published(epoch))


def perform(experiment: ExperimentConfig, source: DataSource, folder: Path, portion: Portion) -> Performance:
    """Runs a short trial on all images of a source.

    Args:
        folder: for all that is written.
    Raises:
        AttnSearchError: the setting does not work, or data, disk or device cannot be used.
    """
    begun, worker = now(), Worker("dry run", None)
    handle = SearchPlan.of_one(experiment, source.tables, folder).open()
    opening = now() - begun
    with closing(handle.database):
        claim = claim_next(handle, worker)
        assert isinstance(claim, ClaimedTrial)  # nobody else knows the study
        claim = replace(claim, pause_at=portion.n_epochs)
        with closing(ClockedContext(handle, worker, claim, seed=experiment.seed)) as context:
            return Rehearsal(handle, claim, experiment, source, portion, opening).perform(context)
