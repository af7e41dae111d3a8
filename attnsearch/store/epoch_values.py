"""Epochs and scores in the tables: the numbers of studies and metrics, and rows that hold many metrics of an epoch."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, ScalarSelect, Select, delete, func, select, update

from attnsearch.store.epochs import epochs_frame
from attnsearch.store.optuna_rows import plain_rows
from attnsearch.store.tables import (
    BLOCK,
    VALUES,
    insert_into,
    metrics_table,
    old_epochs_table,
    score_values_table,
    scorings_table,
    studies_table,
    upsert,
    values_table,
)
from attnsearch.types import BestEpochs

if TYPE_CHECKING:
    import pandas as pd

Metric = tuple[str, str]
"""Split and name."""
MAX_LISTED = 500
"""Trials that a query names one by one; of more, all trials of the study are read."""
_EPOCHS = 2**31
"""More than a trial can have."""


def study_number(uuid: str) -> ScalarSelect[Any]:
    """The number of a study, as part of a query: NULL for one that has written nothing."""
    return select(studies_table.c.id).where(studies_table.c.uuid == uuid).scalar_subquery()


def numbered_study(connection: Connection, uuid: str) -> int:
    """The number of a study, which gets one where it has none."""
    query = select(studies_table.c.id).where(studies_table.c.uuid == uuid)
    found = connection.execute(query).scalar()
    if found is None:
        connection.execute(insert_into(connection, studies_table).values(uuid=uuid).on_conflict_do_nothing())
        found = connection.execute(query).scalar_one()
    return int(found)


def named_in(rows: Iterable[Mapping[str, Any]]) -> set[Metric]:
    """The metrics that rows are of."""
    return {(row["split"], row["metric"]) for row in rows}


def numbered_metrics(connection: Connection, metrics: Iterable[Metric]) -> dict[Metric, int]:
    """The numbers of metrics, each of which gets one where it has none.

    New ones are inserted in one order by all processes, so that two transactions never wait for each other.
    """
    wanted = sorted(set(metrics))
    found = _numbers(connection)
    missing = [{"split": split, "name": name} for split, name in wanted if (split, name) not in found]
    if missing:
        connection.execute(insert_into(connection, metrics_table).on_conflict_do_nothing(), missing)
        found = _numbers(connection)
    return {metric: found[metric] for metric in wanted}


def _numbers(connection: Connection) -> dict[Metric, int]:
    rows = connection.execute(select(metrics_table.c.split, metrics_table.c.name, metrics_table.c.id))
    return {(split, name): number for split, name, number in rows}


def put_values(
    connection: Connection, study: int, trial: int, rows: Sequence[Mapping[str, Any]], ids: Mapping[Metric, int]
) -> None:
    """Writes values of some metrics; those of other metrics at these epochs stay.

    Args:
        rows: `epoch`, `split`, `metric` and `value`, None = undefined.
        ids: from `numbered_metrics`.
    """
    blocks: dict[int, dict[int, dict[str, Any]]] = {}
    for row in rows:
        block, index = divmod(ids[row["split"], row["metric"]], BLOCK)
        key = {"study": study, "trial": trial, "epoch": row["epoch"], "block": block}
        blocks.setdefault(block, {}).setdefault(row["epoch"], key)[VALUES[index]] = row["value"]
    for of_epochs in blocks.values():
        names = [name for name in VALUES if any(name in row for row in of_epochs.values())]
        insert = insert_into(connection, values_table)
        changed = {name: insert.excluded[name] for name in names}
        put = insert.on_conflict_do_update(index_elements=list(values_table.primary_key.columns), set_=changed)
        connection.execute(put, [dict.fromkeys(names) | row for row in of_epochs.values()])


def clear_values(connection: Connection, study: int, trial: int, names: Collection[str]) -> None:
    """Removes the values of some metrics, of all splits, at all epochs of a trial."""
    columns: dict[int, dict[str, None]] = {}
    for (_, name), number in _numbers(connection).items():
        if name in names:
            columns.setdefault(number // BLOCK, {})[VALUES[number % BLOCK]] = None
    table = values_table.c
    for block, emptied in columns.items():
        where = (table.study == study, table.trial == trial, table.block == block)
        connection.execute(update(values_table).where(*where).values(emptied))


def put_scores(
    connection: Connection, study: int, trial: int, rows: Sequence[Mapping[str, Any]], ids: Mapping[Metric, int]
) -> None:
    """Writes one scoring, in the place of an earlier one of its digest.

    Args:
        rows: from `score_rows`.
    """
    table, values = scorings_table.c, score_values_table
    key = {"study": study, "trial": trial, "digest": rows[0]["digest"]}
    about = {name: rows[0][name] for name in ("split", "version", "settings")}
    connection.execute(insert_into(connection, scorings_table).values(key | about).on_conflict_do_nothing())
    where = (table.study == study, table.trial == trial, table.digest == key["digest"])
    scoring = connection.execute(select(table.id).where(*where)).scalar_one()
    measured = ("value", "standard_error", "n_images", "n_undefined")
    connection.execute(delete(values).where(values.c.scoring == scoring))
    connection.execute(
        upsert(connection, values),
        [
            {"scoring": scoring, "metric": ids[row["split"], row["metric"]], **{name: row[name] for name in measured}}
            for row in rows
        ],
    )


def scorings_in(frame: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """The rows of each scoring of one trial, as `put_scores` takes them, from the table of `read_scores`."""
    scorings: dict[str, list[dict[str, Any]]] = {}
    for cells in frame.drop(columns="trial").to_dict("records"):
        counts = {name: int(cells[name]) for name in ("n_images", "n_undefined", "version")}
        means = {name: None if cells[name] != cells[name] else cells[name] for name in ("value", "standard_error")}
        row = {**{str(name): value for name, value in cells.items()}, **counts, **means}
        scorings.setdefault(row["digest"], []).append(row)
    return list(scorings.values())


def read_old_epochs(
    connection: Connection, uuid: str, numbers: Collection[int] | None, metrics: Collection[str] | None = None
) -> pd.DataFrame:
    """As `read_values`, from the tables of version 1; only epochs with one of `metrics`, None = all."""
    table = old_epochs_table.c
    query = select(table.trial, table.epoch, table.split, table.metric, table.value).where(table.study == uuid)
    rows = connection.execute(query.order_by(table.trial, table.epoch)).mappings()
    return epochs_frame(
        row
        for row in rows
        if (numbers is None or row["trial"] in numbers)
        and (metrics is None or f"{row['split']}/{row['metric']}" in metrics)
    )


def read_best_epochs(
    connection: Connection, uuid: str, numbers: Collection[int], metrics: Sequence[str], *, is_higher: bool
) -> BestEpochs:
    """As `TrialRecords.read_best_epochs`: what is best in each trial, then the epochs of the trials that are best."""
    of_metrics = _keyed_numbers(connection)
    if not set(metrics) <= of_metrics.keys():
        return BestEpochs(0, np.empty((0, len(metrics))))
    query = _epochs_with_all(uuid, [of_metrics[metric] for metric in metrics])
    trial, epoch, *cells = query.selected_columns
    best = [(func.max if is_higher else func.min)(cell) for cell in cells]
    rows = plain_rows(connection, query.with_only_columns(trial, *best).group_by(trial).order_by(trial))
    of_trials = np.array(rows, dtype=np.float64).reshape(len(rows), 1 + len(cells))
    of_trials = of_trials[np.isin(of_trials[:, 0], list(numbers))]
    if not len(of_trials):
        return BestEpochs(0, of_trials[:, 1:])
    firsts = (of_trials.argmax if is_higher else of_trials.argmin)(axis=0)[1:]
    chosen = {int(number) for number in of_trials[firsts, 0]}
    found = plain_rows(connection, query.where(trial.in_(chosen)).order_by(trial, epoch))
    return BestEpochs(len(of_trials), np.array([values for _, _, *values in found], dtype=np.float64))


def _epochs_with_all(uuid: str, metrics: Sequence[int]) -> Select[Any]:
    """Trial, epoch and the values of some metrics, by their numbers, where all of these are defined."""
    blocks = {block: values_table.alias().c for block in sorted({number // BLOCK for number in metrics})}
    first, *others = blocks.values()
    cells = [blocks[number // BLOCK][VALUES[number % BLOCK]] for number in metrics]
    return select(first.trial, first.epoch, *cells).where(
        first.study == study_number(uuid),
        *(table.block == block for block, table in blocks.items()),
        *(other[name] == first[name] for other in others for name in ("study", "trial", "epoch")),
        *(cell.is_not(None) for cell in cells),
    )


def _keyed_numbers(connection: Connection) -> dict[str, int]:
    """`split/metric` -> its number."""
    return {f"{split}/{name}": number for (split, name), number in _numbers(connection).items()}


def read_values(connection: Connection, uuid: str, numbers: Collection[int] | None) -> pd.DataFrame:
    """The epochs of a study as `TrialRecords.read_epochs` returns them."""
    keys = _keyed_numbers(connection)
    blocks = {number // BLOCK: list[tuple[str, int]]() for number in keys.values()}
    for key, number in keys.items():
        blocks[number // BLOCK].append((key, number % BLOCK))
    parts = [_read_block(connection, uuid, numbers, block, columns) for block, columns in sorted(blocks.items())]
    return _joined([part for part in parts if len(part.keys)])


@dataclass(frozen=True)
class _Block:
    """The rows of one block: `keys` (R,) are the trial and the epoch in one number, `values` (R, len(names))."""

    keys: NDArray[np.int64]
    values: NDArray[np.float64]
    names: list[str]


def _read_block(
    connection: Connection, uuid: str, numbers: Collection[int] | None, block: int, columns: Sequence[tuple[str, int]]
) -> _Block:
    """Some columns of a block, those and the rows left out that have no value."""
    table = values_table.c
    query = select(table.trial, table.epoch, *(table[VALUES[index]] for _, index in columns))
    query = query.where(table.study == study_number(uuid), table.block == block)
    if numbers is not None and len(numbers) <= MAX_LISTED:
        query = query.where(table.trial.in_(list(numbers)))
    rows = plain_rows(connection, query)
    cells = np.array(rows, dtype=np.float64).reshape(len(rows), 2 + len(columns))
    if numbers is not None:
        cells = cells[np.isin(cells[:, 0], list(numbers))]
    is_measured = ~np.isnan(cells[:, 2:])
    of_epoch, of_metric = (np.asarray(is_measured.any(axis=axis)) for axis in (1, 0))
    names = [name for (name, _), has_any in zip(columns, of_metric.tolist(), strict=True) if has_any]
    trials, epochs = cells[of_epoch, :2].astype(np.int64).T
    return _Block(trials * _EPOCHS + epochs, cells[of_epoch, 2:][:, of_metric], names)


def _joined(blocks: Sequence[_Block]) -> pd.DataFrame:
    """The blocks side by side, a row per trial and epoch."""
    import pandas as pd

    keys = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *(block.keys for block in blocks)]))
    columns: dict[str, NDArray[np.float64]] = {}
    for block in blocks:
        places = np.searchsorted(keys, block.keys)
        for name, values in zip(block.names, block.values.T, strict=True):
            columns[name] = np.full(len(keys), np.nan)
            columns[name][places] = values
    index = {"trial": keys // _EPOCHS, "epoch": keys % _EPOCHS}
    return pd.DataFrame({**index, **{name: columns[name] for name in sorted(columns)}})
