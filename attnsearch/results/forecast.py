"""How much of a study is left, what it has cost so far, and how far the dry run before it was off."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from pydantic import Field

from attnsearch.config.load import load_stored_study
from attnsearch.files import atomic_write
from attnsearch.results.progress import StudyProgress, TrialProgress
from attnsearch.results.study import StudyReader
from attnsearch.search.brackets import all_brackets
from attnsearch.search.costs import StudyForecast
from attnsearch.search.trials import TrialRow
from attnsearch.store.inspection import Content, database_content_errors, read_json
from attnsearch.store.layout import StudyLayout

FORECAST_FORMAT = 1
_FIX = "delete it, or write it again with `attnsearch search STUDY --dry-run`"


class StoredForecast(Content):
    """What a dry run keeps in the folder of a study.

    Attributes:
        epoch_s: seconds of an epoch as trials record them, on average.
        end_s: seconds of a whole trial beside those, on average.
        processor_factor: processor seconds for each second of a trial.
    """

    format: int = FORECAST_FORMAT
    epoch_s: float = Field(gt=0)
    end_s: float = Field(ge=0)
    processor_factor: float = Field(ge=0)


def write_forecast(layout: StudyLayout, found: StudyForecast) -> None:
    """Keeps what a dry run has found, where the folder of the study is there.

    Raises:
        StoreError: the disk refuses.
    """
    if layout.study_dir.is_dir():
        atomic_write(layout.forecast_json, as_stored(found).model_dump_json(indent=1) + "\n")


def as_stored(found: StudyForecast) -> StoredForecast:
    """The part of a forecast that trials can be compared with."""
    n_epochs = statistics.fmean(draw.epochs for draw in found.draws)
    return StoredForecast(
        epoch_s=found.recorded_s,
        end_s=max(0.0, found.trial.seconds - n_epochs * found.recorded_s),
        processor_factor=found.trial.processor_seconds / found.trial.seconds,
    )


def read_forecast(layout: StudyLayout) -> StoredForecast | None:
    """What `write_forecast` wrote; None where there was no dry run.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    if not layout.forecast_json.exists():
        return None
    return read_json(layout.forecast_json, StoredForecast, version=FORECAST_FORMAT, fix=_FIX)


@dataclass(frozen=True)
class StudyOutlook:
    """How much of a study is left and what it has cost.

    Attributes:
        progress: of all trials, with the brackets of halving that are still to be opened.
        epochs_left: until the budget is spent, if no trial ends early; as `StudyProgress.epochs_left`.
        n_workers: that the time left is for.
        epoch_s: seconds of an epoch, as the trials of the study took on average, else by the dry run.
        end_s: seconds of a trial beside its epochs: maps, scores, checkpoints.
        worker_seconds: of all workers so far.
        processor_seconds: likewise, by the dry run; None without one.
        correction: seconds of an epoch by those of the dry run; None without one, or before the first epoch.
    """

    progress: StudyProgress
    epochs_left: int
    n_workers: int
    epoch_s: float | None
    end_s: float
    worker_seconds: float
    processor_seconds: float | None = None
    correction: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """For all workers together; None where neither a trial nor a dry run has shown how long an epoch takes."""
        if self.epoch_s is None:
            return None
        ends_s = _n_complete_left(self.progress) * self.end_s
        return (self.epochs_left * self.epoch_s + ends_s) / self.n_workers


def outlook(
    study: StudyReader, *, n_workers: int | None = None, foretold: StoredForecast | None = None
) -> StudyOutlook:
    """What is known at this moment of the rest of a study.

    Args:
        n_workers: that run trials; None means as many as trials run, and at least one.
        foretold: the forecast that trials are compared with; None takes that of the last dry run.
    Raises:
        ConfigError, StoreError: the study or the forecast cannot be read.
    """
    foretold = foretold or read_forecast(study.layout)
    progress, end_s = with_brackets(study), _end_s(study, foretold)
    epoch_s = observed_epoch_s(progress.trials)
    found = StudyOutlook(
        progress=progress,
        epochs_left=progress.epochs_left(_n_epochs(study)),
        n_workers=max(1, _n_in(progress, "running") if n_workers is None else n_workers),
        epoch_s=epoch_s,
        end_s=end_s,
        worker_seconds=sum(trial.seconds for trial in progress.trials) + end_s * _n_in(progress, "complete"),
    )
    return found if foretold is None else _compared(found, foretold)


def _n_in(progress: StudyProgress, state: str) -> int:
    return sum(trial.state == state for trial in progress.trials)


def _compared(found: StudyOutlook, foretold: StoredForecast) -> StudyOutlook:
    """With what a dry run tells; its seconds of an epoch count where no trial has shown any."""
    return replace(
        found,
        epoch_s=found.epoch_s or foretold.epoch_s,
        processor_seconds=foretold.processor_factor * found.worker_seconds,
        correction=found.epoch_s and found.epoch_s / foretold.epoch_s,
    )


def with_brackets(study: StudyReader) -> StudyProgress:
    """The progress of a study with the brackets of its halving, which say how many epochs are left.

    Raises:
        ConfigError, StoreError: the study cannot be read.
    """
    progress, layout, databases = study.progress(), study.layout, study.shared.databases
    if study.is_plain_run or study.settings.halving is None:
        return progress
    loaded = load_stored_study(layout.study_yaml)
    with database_content_errors(databases.url(layout)):
        stored = databases.study(layout)
        brackets = all_brackets(stored, stored.get_trials(deepcopy=False), loaded)
    return replace(progress, brackets=tuple(brackets))


def observed_epoch_s(trials: tuple[TrialProgress, ...]) -> float | None:
    """Seconds of an epoch, as trials record them, of all that do not run just now; None before the first.

    While a trial runs, its seconds are those since it was started.
    """
    known = [trial for trial in trials if trial.epoch and trial.seconds and trial.state != "running"]
    known = known or [trial for trial in trials if trial.epoch and trial.seconds]
    n_epochs = sum(trial.epoch for trial in known)
    return sum(trial.seconds for trial in known) / n_epochs if n_epochs else None


def _n_epochs(study: StudyReader) -> int:
    """Of a trial that has not begun."""
    return (study.trial(0).config if study.is_plain_run else study.experiment).train.epochs


def _n_complete_left(progress: StudyProgress) -> int:
    """Trials that are still to be trained to their end."""
    if not progress.brackets:
        return max(0, progress.n_trials - progress.n_done)
    members = {trial.number for bracket in progress.brackets for trial in bracket.trials}
    others = sum(trial.is_unfinished and trial.number not in members for trial in progress.trials)
    expected = sum(bracket.n_expected(len(bracket.rungs)) for bracket in progress.brackets)
    complete = sum(trial.status == "complete" for bracket in progress.brackets for trial in bracket.trials)
    return max(0, expected - complete) + others


def _end_s(study: StudyReader, foretold: StoredForecast | None) -> float:
    """Seconds of a trial beside its epochs: of complete ones that were trained in one go, else by the dry run."""
    is_paused = not study.is_plain_run and study.settings.halving is not None
    beside = [] if is_paused else [_beside_epochs_s(row) for row in study.rows.complete]
    known = [seconds for seconds in beside if seconds is not None]
    return statistics.median(known) if known else foretold.end_s if foretold else 0.0


def _beside_epochs_s(row: TrialRow) -> float | None:
    if row.started is None or row.ended is None:
        return None
    return max(0.0, (row.ended - row.started).total_seconds() - row.seconds)
