"""The rows of Optuna's tables that are about trials, each table read by one statement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, DateTime, Select, TableClause, column, or_, select, table

from attnsearch.store.database import HasEngine

MAX_LISTED = 500
"""Trials that a statement names one by one; of more, it names the first and the last one."""
_STUDIES = table("studies", column("study_id"))
_TRIALS = table(
    "trials",
    *map(column, ("trial_id", "study_id", "number", "state")),
    *(column(name, DateTime) for name in ("datetime_start", "datetime_complete")),
)


def _children(name: str, key: str, *columns: str) -> TableClause:
    return table(name, *map(column, ("trial_id", *columns, key)))


_PARAMS = _children("trial_params", "param_id", "param_name", "param_value", "distribution_json")
_VALUES = _children("trial_values", "trial_value_id", "objective", "value", "value_type")
_REPORTS = _children(
    *("trial_intermediate_values", "trial_intermediate_value_id"),
    *("step", "intermediate_value", "intermediate_value_type"),
)
_USER, _SYSTEM = (
    _children(f"trial_{kind}_attributes", f"trial_{kind}_attribute_id", "key", "value_json")
    for kind in ("user", "system")
)
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class OptunaRows:
    """Some trials of a study; the rows of each list begin with the id of the trial.

    Attributes:
        trials: id, number, name of the state, start and end in UTC; ordered by id.
        params: name, internal value and JSON of the distribution, in the order in which they were set.
        values, reports: place of the objective, or step; value; name of its kind.
        user, system: key and JSON.
    """

    trials: Rows
    params: Rows = field(default_factory=list)
    values: Rows = field(default_factory=list)
    reports: Rows = field(default_factory=list)
    user: Rows = field(default_factory=list)
    system: Rows = field(default_factory=list)


def read_optuna_rows(
    view: HasEngine, study_id: int, *, among: Sequence[int] = (), newer_than: int = -1, has_reports: bool = True
) -> OptunaRows | None:
    """The trials of a study, in one transaction; None where there is no such study.

    Args:
        view: Optuna's storage on the database.
        among, newer_than: ids: these trials and those after `newer_than`.
        has_reports: whether `reports` are read.
    """
    with _reading(view) as connection:
        if connection.execute(select(_STUDIES).where(_STUDIES.c.study_id == study_id)).first() is None:
            return None
        trials = _trials(connection, study_id, among, newer_than)
        if not trials:
            return OptunaRows([])
        ids = [trial[0] for trial in trials]
        tables = (_PARAMS, _VALUES, *([_REPORTS] if has_reports else []), _USER, _SYSTEM)
        found = [_rows_of(connection, one, ids) for one in tables]
        params, values, *reports, user, system = found
        return OptunaRows(trials, params, values, reports[0] if reports else [], user, system)


@contextmanager
def _reading(view: HasEngine) -> Iterator[Connection]:
    with view.engine.begin() as connection:
        yield connection


def _trials(connection: Connection, study_id: int, among: Sequence[int], newer_than: int) -> Rows:
    key = _TRIALS.c.trial_id
    query = select(*(one for one in _TRIALS.c if one.name != "study_id")).where(_TRIALS.c.study_id == study_id)
    if newer_than >= 0 and len(among) <= MAX_LISTED:
        query = query.where(or_(key > newer_than, key.in_(among)))
    wanted = set(among)
    rows = list(map(tuple, connection.execute(query.order_by(key)).all()))
    return [row for row in rows if row[0] > newer_than or row[0] in wanted]


def _rows_of(connection: Connection, of_trials: TableClause, ids: Sequence[int]) -> Rows:
    """The rows of some trials in the order in which they were written, without their own key."""
    trial, *columns, key = of_trials.c
    query = select(trial, *columns).order_by(key)
    if len(ids) <= MAX_LISTED:
        return list(map(tuple, connection.execute(query.where(trial.in_(ids))).all()))
    wanted = set(ids)
    found = plain_rows(connection, query.where(trial.between(min(ids), max(ids))))
    return found if len(wanted) > max(ids) - min(ids) else [row for row in found if row[0] in wanted]


def plain_rows(connection: Connection, query: Select[Any]) -> Rows:
    """The rows of a query of numbers and texts as the driver gives them, a few times faster than as objects."""
    return list(connection.execute(query).cursor.fetchall())
