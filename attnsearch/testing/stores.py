"""A `TrialStore` in memory, for tests that need what is written and no database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from attnsearch.metrics.registry import is_score
from attnsearch.store.epoch_values import scorings_in
from attnsearch.store.epochs import best_epochs_in, epoch_cells, epoch_rows, epochs_frame
from attnsearch.store.evaluation_log import LoggedEvaluation
from attnsearch.store.file_records import FileRecord
from attnsearch.store.image_scores import ScoreTable, best_epoch_rows, score_rows, scores_frame
from attnsearch.store.leases import HELD, PUBLICATION, Lease, Leases
from attnsearch.types import BestEpochs, EpochRecord

if TYPE_CHECKING:
    import pandas as pd


class MemoryLeases(Leases):
    """`Leases` in a dictionary, for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self._leases: dict[int, Lease] = {}
        self._lock = threading.Lock()

    def of_trial(self, number: int) -> Lease | None:
        return self._leases.get(number)

    def held_by(self, worker: str) -> Lease | None:
        return next((lease for lease in self.held() if lease.worker == worker), None)

    def held(self) -> list[Lease]:
        return [lease for lease in self._of_trials() if lease.state == HELD]

    def n_changes(self) -> int:
        return sum(2 * lease.attempt - (lease.state == HELD) for lease in self._of_trials())

    def n_epochs(self, *, without: int | None = None) -> int:
        return sum(lease.epoch for lease in self._of_trials() if lease.number != without)

    def stalled(self) -> dict[int, int]:
        return {lease.number: lease.stalled for lease in self._of_trials() if lease.stalled}

    def _of_trials(self) -> list[Lease]:
        return [lease for lease in self._leases.values() if lease.number != PUBLICATION]

    def _change(self, number: int, change: Callable[[Lease], Lease]) -> Lease:
        with self._lock:
            after = change(self._leases.get(number, Lease(number)))
            if after.attempt:
                self._leases[number] = after
            return after


class MemoryTrialStore:
    """`TrialStore` of one study in dictionaries, for the threads of one process.

    Attributes:
        is_away: whether its server is away; a test sets it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        self.is_away = False
        self.leases = MemoryLeases(clock)
        self._lock = threading.Lock()
        self._epochs: dict[tuple[int, int, str, str], float | None] = {}
        self._scores: dict[tuple[int, str], list[dict[str, Any]]] = {}
        self._artifacts: dict[int, dict[str, FileRecord]] = {}
        self._evaluations: list[LoggedEvaluation] = []

    def was_away_within(self, seconds: float) -> bool:
        return self.is_away

    def exclusive(self) -> AbstractContextManager[object]:
        return self._lock

    def write_epochs(self, number: int, records: Sequence[EpochRecord], *, attempt: int | None) -> None:
        if not records:
            return
        self._check(number, attempt)
        last = max(record.epoch for record in records)
        for key in [key for key in self._epochs if key[0] == number and key[1] > last]:
            del self._epochs[key]
        self._put_epochs(number, epoch_rows(records))

    def _put_epochs(self, number: int, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._epochs[number, row["epoch"], row["split"], row["metric"]] = row["value"]

    def read_epochs(self, numbers: Collection[int] | None = None) -> pd.DataFrame:
        names = ("trial", "epoch", "split", "metric")
        rows = [{**dict(zip(names, key, strict=True)), "value": value} for key, value in sorted(self._epochs.items())]
        return epochs_frame(row for row in rows if numbers is None or row["trial"] in numbers)

    def read_best_epochs(self, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool) -> BestEpochs:
        return best_epochs_in(self.read_epochs(numbers), metrics)

    def write_scores(self, number: int, table: ScoreTable, *, attempt: int | None) -> None:
        self._check(number, attempt)
        if attempt is not None:
            for key in [key for key in self._epochs if key[0] == number and is_score(key[3])]:
                del self._epochs[key]
            self._put_epochs(number, best_epoch_rows(table))
        self._scores[number, table.digest] = score_rows(table)

    def read_scores(self) -> pd.DataFrame:
        rows = [{"trial": number, **row} for (number, _), scored in self._scores.items() for row in scored]
        order = ("trial", "split", "metric", "digest")
        return scores_frame(sorted(rows, key=lambda row: tuple(row[name] for name in order)))

    def write_artifacts(self, number: int, files: Mapping[str, FileRecord], *, attempt: int | None) -> None:
        if files:
            self._check(number, attempt)
            self._artifacts.setdefault(number, {}).update(files)

    def write_copy(self, number: int, epochs: pd.DataFrame, scores: pd.DataFrame) -> None:
        self._put_epochs(number, epoch_cells(epochs))
        for rows in scorings_in(scores):
            self._scores[number, rows[0]["digest"]] = rows

    def read_artifacts(self, numbers: Collection[int] | None = None) -> dict[int, dict[str, FileRecord]]:
        return {
            number: dict(sorted(files.items()))
            for number, files in sorted(self._artifacts.items())
            if numbers is None or number in numbers
        }

    def log_evaluations(self, new: Sequence[LoggedEvaluation]) -> None:
        self._evaluations += new

    def read_evaluations(self) -> list[LoggedEvaluation]:
        return list(self._evaluations)

    def _check(self, number: int, attempt: int | None) -> None:
        if attempt is not None:
            self.leases.check(number, attempt)
