"""What a dry run says: time, memory and disk of a study that has not been started, or of the rest of one that has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import counted, print_json, print_line, print_table, size
from attnsearch.errors import DONE
from attnsearch.progress import duration

if TYPE_CHECKING:
    from attnsearch.config.load import LoadedStudy
    from attnsearch.results.forecast import StudyOutlook
    from attnsearch.search.costs import Cost, StudyForecast, TrialCost


def say_cost(loaded: LoadedStudy, root: Path, *, n_workers: int | None, as_json: bool) -> int:
    """Measures what a study will cost and prints it; a study that is there is compared with its own trials."""
    from attnsearch.results.forecast import write_forecast
    from attnsearch.search.forecast import forecast  # imports torch
    from attnsearch.search.plan import layout_of

    found = forecast(loaded, root, n_workers=n_workers)
    layout = layout_of(loaded, root)
    rest = _outlook(loaded, layout.study_yaml, found)
    write_forecast(layout, found)
    if as_json:
        print_json(forecast_values(found, rest))
    else:
        print_table(_COLUMNS, [_row(name, trial) for name, trial in _named(found)], title=_title(found))
        print_line("\n".join(forecast_lines(found, rest)))
    return DONE


def _outlook(loaded: LoadedStudy, study_yaml: Path, found: StudyForecast) -> StudyOutlook | None:
    """Of a study that was started; None of a new one."""
    from attnsearch.results.forecast import as_stored, outlook
    from attnsearch.results.reader import load_study

    if not study_yaml.exists():
        return None
    reader = load_study(study_yaml.parent, storage=loaded.study.storage)
    return outlook(reader, n_workers=found.n_workers, foretold=as_stored(found))


def forecast_values(found: StudyForecast, rest: StudyOutlook | None) -> dict[str, Any]:
    """What is printed, for machines: seconds and bytes."""
    values = {**asdict(found), "trial": asdict(found.trial)}
    if rest is not None:
        keys = ("epochs_left", "seconds_left", "worker_seconds", "processor_seconds", "correction")
        values["so_far"] = {key: getattr(rest, key) for key in keys}
    return values


_COLUMNS = ("setting", "epoch", "trial", "processor", "memory", "GPU", "disk")


def _title(found: StudyForecast) -> str:
    return f"study {found.study}: {counted(found.n_trials, 'trial')}, {counted(found.n_workers, 'worker')}"


def _named(found: StudyForecast) -> list[tuple[str, TrialCost]]:
    draws = [(f"random {number}", draw) for number, draw in enumerate(found.draws, start=1)]
    return [("largest", found.largest), ("smallest", found.smallest), *draws]


def _row(name: str, trial: TrialCost) -> tuple[str, ...]:
    disk = trial.bytes.weights + trial.bytes.maps + trial.bytes.tables + trial.bytes.database
    return (
        name,
        f"{trial.epoch.seconds:.3g} s",
        duration(trial.whole.seconds),
        duration(trial.whole.processor_seconds),
        size(trial.memory_bytes),
        size(trial.gpu_bytes) if trial.gpu_bytes else "-",
        size(disk),
    )


def forecast_lines(found: StudyForecast, rest: StudyOutlook | None) -> list[str]:
    """The totals for people."""
    disk = found.disk
    gpu = f", {size(found.gpu_bytes)} of GPU memory" if found.gpu_bytes else ""
    parts = ("weights", "resume", "maps", "tables", "published", "database")
    named = ", ".join(f"{name} {size(getattr(disk, name))}" for name in parts)
    return [
        f"  trial      {_times(found.trial)} on average, if it is trained to its end",
        f"  study      {_times(found.total)}{_saving(found)}",
        f"  memory     up to {size(found.memory_bytes)} for each worker{gpu}",
        f"  disk       up to {size(disk.peak)}, {size(disk.left)} after retention: {named}",
        *([] if rest is None else _rest_lines(rest)),
    ]


def _times(cost: Cost) -> str:
    return f"{duration(cost.seconds)}, {duration(cost.processor_seconds)} of processor time"


def _saving(found: StudyForecast) -> str:
    """By how much halving shortens the study; other pruners save what nobody knows before."""
    if found.total == found.unpruned:
        return "; early stopping and pruners that judge by curves may shorten it"
    return f"; {_times(found.unpruned)} without halving"


def _rest_lines(rest: StudyOutlook) -> list[str]:
    if rest.correction is None:
        return []
    left = "" if rest.seconds_left is None else f"; {duration(rest.seconds_left)} left"
    return [
        f"  so far     {duration(rest.worker_seconds)} of workers{left}, with epochs as long as those until now",
        f"             an epoch has taken {rest.correction:.2f} times what this dry run measured",
    ]
