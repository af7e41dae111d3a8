"""A `TrialStore` in memory, for tests that need what is written and no database."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attnsearch.errors import LeaseLost
from attnsearch.metrics.registry import is_score
from attnsearch.store.epochs import epoch_rows, epochs_frame
from attnsearch.store.image_scores import ScoreTable, best_epoch_rows, score_rows, scores_frame
from attnsearch.store.leases import HELD, RELEASED, TAKEN, Lease
from attnsearch.store.trial_store import FileRecord
from attnsearch.types import EpochRecord

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Claimed:
    """A lease, and the last epoch that was finished when its attempt began."""

    lease: Lease
    epoch_at_claim: int = 0

    def n_stalled(self) -> int:
        """Attempts in a row without a new epoch, if this one ends now."""
        return 0 if self.lease.epoch > self.epoch_at_claim else self.lease.stalled + 1


class MemoryLeases:
    """`Leases` in a dictionary, for the threads of one process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._claimed: dict[int, _Claimed] = {}
        self._lock = threading.RLock()

    def claim(self, number: int, worker: str, *, duration_s: float) -> int:
        with self._lock:
            before = self._claimed.get(number, _Claimed(Lease(number, 0, "", 0.0, 0, 0, RELEASED)))
            lease = before.lease
            if lease.state == HELD and lease.worker == worker:
                return lease.attempt
            stalled = before.n_stalled() if lease.state == HELD else lease.stalled
            expires_at = self._clock() + duration_s
            after = Lease(number, lease.attempt + 1, worker, expires_at, lease.epoch, stalled, HELD)
            self._claimed[number] = _Claimed(after, epoch_at_claim=lease.epoch)
            return after.attempt

    def renew(self, number: int, attempt: int, *, duration_s: float, epoch: int | None = None) -> None:
        with self._lock:
            claimed = self._held(number, attempt)
            last = max(claimed.lease.epoch, epoch or 0)
            lease = replace(claimed.lease, expires_at=self._clock() + duration_s, epoch=last)
            self._claimed[number] = replace(claimed, lease=lease)

    def check(self, number: int, attempt: int) -> None:
        with self._lock:
            self._held(number, attempt)

    def release(self, number: int, attempt: int, *, stalled: bool) -> int:
        with self._lock:
            lease = self.of_trial(number)
            if lease is not None and (lease.attempt, lease.state) == (attempt, RELEASED):
                return lease.stalled
            claimed = self._held(number, attempt)
            after = claimed.n_stalled()
            count = after if stalled or after == 0 else claimed.lease.stalled
            return self._end(number, RELEASED, count)

    def take_back(self, number: int, attempt: int | None = None) -> int:
        with self._lock:
            claimed = self._claimed.get(number)
            if claimed is None:
                return 0
            if attempt is not None and claimed.lease.attempt != attempt:
                raise self._lost(number, attempt)
            if claimed.lease.state != HELD:
                return claimed.lease.stalled
            return self._end(number, TAKEN, claimed.n_stalled())

    def of_trial(self, number: int) -> Lease | None:
        claimed = self._claimed.get(number)
        return None if claimed is None else claimed.lease

    def held_by(self, worker: str) -> Lease | None:
        held = (one.lease for one in self._claimed.values() if one.lease.state == HELD)
        return next((lease for lease in held if lease.worker == worker), None)

    def n_epochs(self, *, without: int | None = None) -> int:
        return sum(one.lease.epoch for number, one in self._claimed.items() if number != without)

    def stalled(self) -> dict[int, int]:
        return {number: one.lease.stalled for number, one in self._claimed.items() if one.lease.stalled}

    def seconds_left(self, number: int) -> float:
        lease = self.of_trial(number)
        return lease.expires_at - self._clock() if lease is not None and lease.state == HELD else 0.0

    def _end(self, number: int, state: str, stalled: int) -> int:
        claimed = self._claimed[number]
        self._claimed[number] = replace(claimed, lease=replace(claimed.lease, state=state, stalled=stalled))
        return stalled

    def _held(self, number: int, attempt: int) -> _Claimed:
        claimed = self._claimed.get(number)
        if claimed is None or claimed.lease.attempt != attempt or claimed.lease.state != HELD:
            raise self._lost(number, attempt)
        return claimed

    def _lost(self, number: int, attempt: int) -> LeaseLost:
        lease = self.of_trial(number)
        owner = "nobody" if lease is None else f"attempt {lease.attempt} ({lease.state}, worker {lease.worker!r})"
        return LeaseLost(f"attempt {attempt} at trial {number} may write no more, the trial belongs to {owner}")


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

    def was_away_within(self, seconds: float) -> bool:
        return self.is_away

    def exclusive(self) -> AbstractContextManager[None]:
        return self._exclusive()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            yield

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

    def read_artifacts(self, numbers: Collection[int] | None = None) -> dict[int, dict[str, FileRecord]]:
        return {
            number: dict(sorted(files.items()))
            for number, files in sorted(self._artifacts.items())
            if numbers is None or number in numbers
        }

    def _check(self, number: int, attempt: int | None) -> None:
        if attempt is not None:
            self.leases.check(number, attempt)
