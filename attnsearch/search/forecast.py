"""What a search will cost, before it starts: short trials at some settings of its space, each in a process of its own.

Memory is that of the largest setting, which is measured first and alone. Totals are those of random settings that fill
the space evenly, measured as many at a time as workers will run.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from attnsearch.config.load import LoadedStudy
from attnsearch.device import anonymous_mb, memory_bytes, worker_gpus
from attnsearch.errors import ConfigError, OutOfMemory, StoreError
from attnsearch.files import bytes_below, free_bytes
from attnsearch.search.costs import Cost, StudyForecast, TrialCost, Trials, forecast_of
from attnsearch.search.extremes import Setting, draw_settings, extreme_setting
from attnsearch.search.launchers.local import threads_of_worker, worker_environment
from attnsearch.search.launchers.standby import n_asked
from attnsearch.search.measure import MeasureOrder, measure_trial
from attnsearch.search.objective import IMAGES_AT_RUNGS
from attnsearch.search.plan import SearchPlan
from attnsearch.search.study import chooses_by_scores

logger = logging.getLogger(__name__)

N_DRAWS = 4
_MB, _GB = 1e6, 1e9


def forecast(loaded: LoadedStudy, root: Path, *, n_workers: int | None = None) -> StudyForecast:
    """Checks a study as a start does, runs short trials, and adds up what the whole study will cost.

    Neither the study nor its database is written to: the short trials have a temporary folder, which is removed.

    Args:
        root: the results folder.
        n_workers: as for `run_study`.
    Raises:
        ConfigError: a check fails, or workers need more memory than the machine has.
        StoreError: the study needs more room than the disk of the results has.
        AttnSearchError: a short trial cannot run.
    """
    plan = SearchPlan.check(loaded, root)
    for warning in plan.warnings:
        logger.warning(warning)
    workers = max(1, n_asked(plan.loaded, n_workers))
    preparation = Cost(time.process_time(), time.process_time())  # imports and checks, as a search has done by now
    with tempfile.TemporaryDirectory(prefix="attnsearch-dry-run-") as folder:
        measured = _Measurements(plan, workers, Path(folder)).trials()
    found = forecast_of(plan.loaded, measured, preparation, n_workers=workers)
    require_disk(plan, found)
    return found


@dataclass(frozen=True)
class _Measurements:
    """Short trials of one study."""

    plan: SearchPlan
    n_workers: int
    folder: Path

    def trials(self) -> Trials:
        """The largest setting alone, then the others side by side.

        Raises:
            ConfigError: workers at the largest setting need more memory than there is.
        """
        loaded = self.plan.loaded
        largest, smallest = (extreme_setting(loaded, self.plan.tables, is_largest=one) for one in (True, False))
        drawn = draw_settings(loaded, n=N_DRAWS)
        logger.info("measuring the largest setting, %s", largest.description)
        first = self._measure([largest], n_parallel=1)[0]
        require_memory(first, n_workers=self.n_workers)
        known = {largest.description: first}
        others = {one.description: one for one in (smallest, *drawn) if one.description not in known}
        if others:
            logger.info("measuring %d other settings", len(others))
            found = self._measure([*others.values()], n_parallel=min(self.n_workers, len(others)))
            known |= zip(others, found, strict=True)
        return Trials(tuple(known[one.description] for one in drawn), first, known[smallest.description])

    def _measure(self, settings: Sequence[Setting], *, n_parallel: int) -> list[TrialCost]:
        """What each setting costs; each process is a new one, a copy of one that has imported the package alone."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([measure_trial.__module__])
        with ProcessPoolExecutor(n_parallel, mp_context=context, max_tasks_per_child=1) as pool:
            orders = [self._order(one, index % n_parallel) for index, one in enumerate(settings)]
            running = [pool.submit(measure_trial, order) for order in orders]
            try:
                return [_result(setting, future) for setting, future in zip(settings, running, strict=True)]
            finally:
                pool.shutdown(cancel_futures=True)  # where one fails, nobody waits for the others

    def _order(self, setting: Setting, index: int) -> MeasureOrder:
        loaded = self.plan.loaded
        n_threads = threads_of_worker(loaded, n_workers=self.n_workers)
        is_scored = loaded.study.halving is not None and chooses_by_scores(loaded.study)
        return MeasureOrder(
            experiment=setting.experiment.model_dump_json(),
            settings=setting.settings,
            tables=self.plan.tables,
            environment=worker_environment(None, index, gpus=self._gpus, n_threads=n_threads),
            n_threads=n_threads,
            folder=Path(tempfile.mkdtemp(dir=self.folder)),
            n_at_rung=IMAGES_AT_RUNGS[0] if is_scored else 0,
        )

    @cached_property
    def _gpus(self) -> tuple[str, ...]:
        return worker_gpus(self.plan.experiment.runtime.device)


def _result(setting: Setting, future: Future[TrialCost]) -> TrialCost:
    """What was measured.

    Raises:
        ConfigError: the setting does not fit into memory.
    """
    try:
        return future.result()
    except OutOfMemory as error:
        raise ConfigError(f"space: {setting.description} runs out of memory ({error}); {_SMALLER}") from error
    except BrokenProcessPool as error:
        raise ConfigError(
            f"space: a short trial at {setting.description} was killed, as happens where it needs more than the "
            f"{memory_bytes() / _GB:.1f} GB of memory of this machine; {_SMALLER}"
        ) from error


_SMALLER = "lower train.batch_size or data.image_size_px in the space, or raise train.accumulation"


def require_memory(largest: TrialCost, *, n_workers: int) -> None:
    """Checks that all workers fit at the largest setting, on a machine with nothing else on it.

    Raises:
        ConfigError: they do not; the message has the numbers.
    """
    own = round(anonymous_mb() * _MB)
    needed, there = n_workers * largest.memory_bytes + own, memory_bytes()
    if needed > there:
        raise ConfigError(
            f"n_workers: {n_workers} workers of up to {largest.memory_bytes / _GB:.2f} GB and the search itself with "
            f"{own / _GB:.2f} GB need {needed / _GB:.1f} GB, and this machine has {there / _GB:.1f} GB; lower "
            f"n_workers, or {_SMALLER}"
        )
    if largest.gpu_bytes > largest.gpu_total_bytes:
        raise ConfigError(
            f"space: the largest setting needs {largest.gpu_bytes / _GB:.1f} GB of a GPU that has "
            f"{largest.gpu_total_bytes / _GB:.1f} GB; {_SMALLER}"
        )


def require_disk(plan: SearchPlan, found: StudyForecast) -> None:
    """Checks that the study fits on the disk of its results, beside what it has written already.

    Raises:
        StoreError: it does not; the message has the numbers.
    """
    needed = max(0, found.disk.peak - bytes_below(plan.layout.study_dir))
    free = free_bytes(plan.layout.study_dir)
    if needed > free:
        raise StoreError(
            f"{plan.layout.study_dir}: {found.n_trials} trials (n_trials) need up to {needed / _GB:.2f} GB, "
            f"checkpoints {(found.disk.weights + found.disk.resume) / _GB:.2f} GB and maps "
            f"{found.disk.maps / _GB:.2f} GB among them, and {free / _GB:.2f} GB are free on the disk; free some with "
            "`attnsearch prune-files`, lower n_trials or evaluation.n_images, or choose another results folder"
        )
