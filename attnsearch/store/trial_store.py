"""What a search writes down of its trials, and what others read: epochs, scores and the checksums of files.

`TrialStore` is the interface, `SqlTrialStore` keeps it in the database of the study; a form in memory is in
`attnsearch.testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, Table, delete, select

from attnsearch.metrics.registry import score_metrics
from attnsearch.store.creation import create_database
from attnsearch.store.database import Connections, clock_of, open_reader, open_writer, server_age_s, transaction, url_of
from attnsearch.store.epoch_values import (
    clear_values,
    named_in,
    numbered_metrics,
    numbered_study,
    put_scores,
    put_values,
    read_best_epochs,
    read_old_epochs,
    read_values,
    scorings_in,
)
from attnsearch.store.epochs import best_epochs_in, epoch_cells, epoch_rows
from attnsearch.store.evaluation_log import (
    EvaluationLog,
    LoggedEvaluation,
    insert_evaluations,
    select_evaluations,
)
from attnsearch.store.file_records import FileRecord
from attnsearch.store.image_scores import ScoreTable, best_epoch_rows, score_rows, scores_frame
from attnsearch.store.inspection import database_content_errors, inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.leases import Leases, SqlLeases, creation_lock, require_lease, study_lock
from attnsearch.store.servers import repeated
from attnsearch.store.tables import artifacts_table, old_scores_table, schema_of, scores_view, upsert, values_table
from attnsearch.types import BestEpochs, EpochRecord

if TYPE_CHECKING:
    import pandas as pd

_OLD_KINDS = {"kept": "best"}
"""What version 0.1 called a kind of file -> its name now."""


class TrialRecords(Protocol):
    """What is stored of the trials of one study, for reading only."""

    def read_epochs(self, numbers: Collection[int] | None = None) -> pd.DataFrame:
        """The epochs as a wide table.

        Args:
            numbers: of the trials; None = all.
        Returns:
            One row per trial and epoch, sorted: `trial`, `epoch`, then one column per `split/metric` that has a value
            (float, NaN = undefined or not measured), `split/loss` and the training costs among them.
        Raises:
            StoreError: the database refuses.
        """

    def read_best_epochs(self, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool) -> BestEpochs:
        """The epochs of some trials that are best in one of some metrics, of those where all of these are defined.

        Args:
            metrics: `split/metric`.
            is_higher: whether the highest value is the best one.
        Raises:
            StoreError: the database refuses.
        """

    def read_scores(self) -> pd.DataFrame:
        """All scorings: a row per trial, scoring and metric.

        Returns:
            Columns `trial`, `split`, `metric`, `value` (NaN = undefined), `standard_error` (NaN = of fewer than two
            images), `n_images`, `n_undefined`, `version`, `settings` (JSON) and `digest`, sorted by the first three.
            Rows of different versions or settings must not be compared.
        Raises:
            StoreError: the database refuses, or was made before there were scores.
        """

    def read_artifacts(self, numbers: Collection[int] | None = None) -> dict[int, dict[str, FileRecord]]:
        """Trial number -> kind -> file; `numbers` None = all trials.

        Raises:
            StoreError: the database refuses.
        """


class TrialStore(TrialRecords, EvaluationLog, Protocol):
    """What the processes of one study write of its trials. Each write is idempotent: a second one changes nothing."""

    @property
    def leases(self) -> Leases:
        """Who may write which trial."""

    @property
    def is_away(self) -> bool:
        """Whether the server of the database does not answer just now; a file always does."""

    def was_away_within(self, seconds: float) -> bool:
        """Whether the server was away, or was started, in the last `seconds`, so that no lease could be renewed."""

    def now(self) -> float:
        """UTC seconds since 1970, by the clock that leases expire by; all machines of a study share it."""

    def exclusive(self) -> AbstractContextManager[object]:
        """The lock that every change of a trial's state is made under: ask and claim, tell, take back.

        Not re-entrant.

        Raises:
            StoreError: another process holds it for two minutes, or the disk or the server refuses.
        """

    def write_epochs(self, number: int, records: Sequence[EpochRecord], *, attempt: int | None) -> None:
        """Writes all epochs of a trial so far, in one transaction.

        Those of later epochs are removed: an attempt that resumes from an older checkpoint does not own them.

        Args:
            records: every record of the trial, from epoch 1; nothing is done without any.
            attempt: checked against the lease in the same transaction; None for a trial without a lease.
        Raises:
            LeaseLost: another attempt owns the trial; nothing was written.
            StoreError: the database refuses.
        """

    def write_scores(self, number: int, table: ScoreTable, *, attempt: int | None) -> None:
        """Puts the means of one scoring beside those of others; the same scoring replaces itself.

        Those of a running trial also become metrics of its best epoch, as the accuracy is; there an undefined score
        counts, see `ScoreTable.trial_means`.

        Args:
            attempt: of the running trial, checked against the lease in the same transaction; None for a trial that has
                ended, whose epochs stay as they are.
        Raises:
            LeaseLost: another attempt owns the trial; nothing was written.
            StoreError: the database refuses, or was made before there were scores.
        """

    def write_artifacts(self, number: int, files: Mapping[str, FileRecord], *, attempt: int | None) -> None:
        """Lists files of a trial by kind, such as "maps" or "best"; a kind listed before is replaced.

        Args:
            attempt: checked against the lease in the same transaction; None for a trial without a lease.
        Raises:
            LeaseLost: another attempt owns the trial; nothing was written.
            StoreError: the database refuses.
        """

    def write_copy(self, number: int, epochs: pd.DataFrame, scores: pd.DataFrame) -> None:
        """Writes what was measured of a trial of another study, for one that has its place in this study.

        Args:
            epochs, scores: the rows of that trial, as `read_epochs` and `read_scores` of its study return them.
        Raises:
            StoreError: the database refuses.
        """


class SqlTrialRecords:
    """`TrialRecords` in a database.

    Args:
        engine: a reader's or a writer's.
    """

    def __init__(self, engine: Engine, study_uuid: str) -> None:
        self._engine, self._study = engine, study_uuid

    @repeated
    def read_epochs(self, numbers: Collection[int] | None = None) -> pd.DataFrame:
        with self._reading() as connection:
            if schema_of(connection) == 1:
                return read_old_epochs(connection, self._study, numbers)
            return read_values(connection, self._study, numbers)

    @repeated
    def read_best_epochs(self, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool) -> BestEpochs:
        with self._reading() as connection:
            if schema_of(connection) == 1:
                return best_epochs_in(read_old_epochs(connection, self._study, numbers, metrics), metrics)
            return read_best_epochs(connection, self._study, numbers, metrics, is_higher=is_higher)

    @repeated
    def read_scores(self) -> pd.DataFrame:
        with self._reading() as connection:
            table = old_scores_table if schema_of(connection) == 1 else scores_view
            order = (table.c.trial, table.c.split, table.c.metric, table.c.digest)
            query = select(table).where(table.c.study == self._study).order_by(*order)
            return scores_frame([row._asdict() for row in connection.execute(query)])

    @repeated
    def read_artifacts(self, numbers: Collection[int] | None = None) -> dict[int, dict[str, FileRecord]]:
        table = artifacts_table
        files: dict[int, dict[str, FileRecord]] = {}
        with self._reading() as connection:
            query = select(table).where(table.c.study == self._study, *_among(table, numbers))
            for row in connection.execute(query.order_by(table.c.trial, table.c.kind)):
                shape = tuple(int(size) for size in row.shape.split("x")) if row.shape else ()
                file = FileRecord(row.path, shape, row.dtype, row.sha256, row.bytes)
                files.setdefault(row.trial, {})[_OLD_KINDS.get(row.kind, row.kind)] = file
        return files

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database_content_errors(url_of(self._engine)), transaction(self._engine) as connection:
            yield connection


class SqlTrialStore(SqlTrialRecords):
    """`TrialStore` in a database: its lock is the server's own on PostgreSQL, and a file beside SQLite's.

    Args:
        layout: of the study's files, for the lock.
        clock: UTC seconds since 1970; None is the clock of the database.
    """

    def __init__(
        self,
        connections: Connections,
        study_uuid: str,
        layout: StudyLayout,
        *,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(connections.engine, study_uuid)
        self._connections, self._lock_file = connections, layout.ask_lock
        self.now = clock or clock_of(connections.engine)
        self.leases: Leases = SqlLeases(connections.engine, study_uuid, clock=self.now)

    @property
    def is_away(self) -> bool:
        return self._connections.is_away

    def was_away_within(self, seconds: float) -> bool:
        return self._connections.was_away_within(seconds) or server_age_s(self._engine) < seconds

    def exclusive(self) -> AbstractContextManager[None]:
        return study_lock(self._engine, self._study, file=self._lock_file)

    @repeated
    def write_epochs(self, number: int, records: Sequence[EpochRecord], *, attempt: int | None) -> None:
        if not records:
            return
        table, rows, last = values_table.c, epoch_rows(records), max(record.epoch for record in records)
        with self._writing(number, attempt) as connection:
            study = numbered_study(connection, self._study)
            ids = numbered_metrics(connection, named_in(rows))
            of_later = (table.study == study, table.trial == number, table.epoch > last)
            connection.execute(delete(values_table).where(*of_later))
            put_values(connection, study, number, rows, ids)

    @repeated
    def write_scores(self, number: int, table: ScoreTable, *, attempt: int | None) -> None:
        rows, of_epoch = score_rows(table), [] if attempt is None else best_epoch_rows(table)
        with self._writing(number, attempt) as connection:
            study = numbered_study(connection, self._study)
            ids = numbered_metrics(connection, named_in([*rows, *of_epoch]))
            if attempt is not None:  # those of an earlier best epoch go
                clear_values(connection, study, number, [metric.name for metric in score_metrics()])
                put_values(connection, study, number, of_epoch, ids)
            put_scores(connection, study, number, rows, ids)

    @repeated
    def write_artifacts(self, number: int, files: Mapping[str, FileRecord], *, attempt: int | None) -> None:
        if not files:
            return
        rows = [{"kind": kind, **asdict(file), "shape": "x".join(map(str, file.shape))} for kind, file in files.items()]
        key = {"study": self._study, "trial": number}
        with self._writing(number, attempt) as connection:
            connection.execute(upsert(connection, artifacts_table), [{**key, **row} for row in rows])

    @repeated
    def read_evaluations(self) -> list[LoggedEvaluation]:
        with self._reading() as connection:
            return select_evaluations(connection, self._study)

    def log_evaluations(self, new: Sequence[LoggedEvaluation]) -> None:
        with transaction(self._engine) as connection:
            insert_evaluations(connection, self._study, new)

    @repeated
    def write_copy(self, number: int, epochs: pd.DataFrame, scores: pd.DataFrame) -> None:
        rows, scorings = epoch_cells(epochs), scorings_in(scores)
        with self._writing(number, None) as connection:
            study = numbered_study(connection, self._study)
            ids = numbered_metrics(connection, named_in([*rows, *(row for scoring in scorings for row in scoring)]))
            put_values(connection, study, number, rows, ids)
            for scoring in scorings:
                put_scores(connection, study, number, scoring, ids)

    @contextmanager
    def _writing(self, number: int, attempt: int | None) -> Iterator[Connection]:
        """One transaction; it begins with a check that the attempt, where there is one, still holds the trial."""
        with transaction(self._engine) as connection:
            if attempt is not None:
                require_lease(connection, self._study, number, attempt)
            yield connection


def _among(table: Table, numbers: Collection[int] | None) -> tuple[ColumnElement[bool], ...]:
    """The condition that a trial is one of these."""
    return () if numbers is None else (table.c.trial.in_(list(numbers)),)


def open_trial_records(url: str, study_uuid: str) -> TrialRecords:
    """What is stored of a study: it blocks no writer, and holds no connection between two calls.

    Raises:
        StoreError: the driver of the server is missing.
        ConfigError: not a URL of a usable kind.
    """
    return SqlTrialRecords(open_reader(url), study_uuid)


@contextmanager
def opened_trial_store(url: str, study_uuid: str, layout: StudyLayout) -> Iterator[TrialStore]:
    """The store of a study for the block; tables that a database of an earlier version lacks are made.

    Raises:
        StoreError: foreign, corrupt, newer or absent database, or one that cannot be reached.
    """
    inspect_database(url, must_exist=True)
    with creation_lock(url):
        create_database(url)
    connections = Connections(url, open_writer(url))
    try:
        yield SqlTrialStore(connections, study_uuid, layout)
    finally:
        connections.close()
