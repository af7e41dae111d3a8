"""Optuna's storage on a database: a statement per table for all trials, and repeats where a connection is lost."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from attnsearch.store.optuna_rows import OptunaRows, Rows, read_optuna_rows
from attnsearch.store.servers import repeated

_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


class TrialStorage(RDBStorage):
    """Optuna's storage, which reads many trials in seven statements: its own takes two or three for each trial.

    Args:
        has_reports: whether trials are read with what they reported of their epochs, most of the rows of a study.
        options: as those of `RDBStorage`.
    """

    def __init__(self, url: str, *, has_reports: bool = True, **options: Any) -> None:
        super().__init__(url, **options)
        self._has_reports = has_reports

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        older = sorted(one for one in included_trial_ids if one <= trial_id_greater_than)
        with without_collector():
            rows = read_optuna_rows(
                self, study_id, among=older, newer_than=trial_id_greater_than, has_reports=self._has_reports
            )
            if rows is None:
                raise KeyError(f"no study has the id {study_id}")
            trials = _frozen(rows)
        return trials if states is None else [trial for trial in trials if trial.state in states]


def _frozen(rows: OptunaRows) -> list[FrozenTrial]:
    distributions, states = _Distributions(), {state.name: state for state in TrialState}
    params: dict[int, dict[str, Any]] = {row[0]: {} for row in rows.trials}
    axes: dict[int, dict[str, BaseDistribution]] = {one: {} for one in params}
    for trial_id, name, value, text in rows.params:
        axis = axes[trial_id][name] = distributions[text]
        params[trial_id][name] = axis.to_external_repr(value)
    values, reports = (_numbers(params, of_kind) for of_kind in (rows.values, rows.reports))
    user, system = (_attributes(params, of_kind) for of_kind in (rows.user, rows.system))
    return [
        FrozenTrial(
            number=number,
            state=states[state],
            value=None,
            values=_in_order(values[trial_id]),
            datetime_start=_local(start),
            datetime_complete=_local(end),
            params=params[trial_id],
            distributions=axes[trial_id],
            user_attrs=user[trial_id],
            system_attrs=system[trial_id],
            intermediate_values=reports[trial_id],
            trial_id=trial_id,
        )
        for trial_id, number, state, start, end in rows.trials
    ]


def _numbers(ids: Iterable[int], rows: Rows) -> dict[int, dict[int, float]]:
    """Trial -> step, or place of an objective -> value."""
    found: dict[int, dict[int, float]] = {one: {} for one in ids}
    for trial_id, place, value, kind in rows:
        found[trial_id][place] = value if kind == "FINITE" and value is not None else _NOT_FINITE[kind]
    return found


def _attributes(ids: Iterable[int], rows: Rows) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {one: {} for one in ids}
    for (trial_id, key, _), value in zip(rows, _parsed([text for *_, text in rows]), strict=True):
        found[trial_id][key] = value
    return found


def _parsed(texts: Sequence[str]) -> list[Any]:
    """The values of JSON texts, of whole ones at once."""
    try:
        values: list[Any] = json.loads(f"[{','.join(texts)}]")
    except ValueError:
        values = []
    return values if len(values) == len(texts) else [json.loads(text) for text in texts]


def _in_order(values: dict[int, float]) -> list[float] | None:
    return [values[place] for place in range(len(values))] if values else None


def _local(moment: datetime | None) -> datetime | None:
    """Optuna stores UTC and gives its trials local times, both naive."""
    return None if moment is None else moment.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)


class _Distributions(dict[str, BaseDistribution]):
    """JSON -> distribution, each made once: trials of a study share a few."""

    def __missing__(self, text: str) -> BaseDistribution:
        self[text] = json_to_distribution(text)
        return self[text]


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's collector looks at all objects again and again while many are made, none of which is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class RepeatingStorage(TrialStorage):
    """A storage that repeats what was cut off by a lost connection; a second time it changes nothing.

    Not `create_new_study`, `create_new_trial` and `set_trial_state_values`: their callers look first what has become of
    the first attempt.
    """


for _name in (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "get_trial",
    "get_trial_id_from_study_id_trial_number",
    "_get_trials",
    "_get_best_trial_id",
    "set_study_user_attr",
    "set_study_system_attr",
    "_set_trial_param",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
):
    setattr(RepeatingStorage, _name, repeated(getattr(TrialStorage, _name)))
