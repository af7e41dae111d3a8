"""Trials are read as Optuna's own storage reads them, in few statements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, event

from attnsearch.search.handle import StudyHandle
from attnsearch.search.storage import TrialStorage
from attnsearch.store import optuna_rows
from attnsearch.store.database import connect_reader
from tests.search.studies import ON_EACH_DATABASE

Open = Callable[..., StudyHandle]
NETS = ("a", "b", None, 3, True)
AXES = {
    "net": CategoricalDistribution(NETS),
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "n": IntDistribution(1, 64, log=True),
    "share": FloatDistribution(0.0, 1.0, step=0.25),
}
VALUES = (0.1 + 0.2, math.inf, -math.inf, 1e-308, -0.0)
ATTRIBUTES = ("text", {"a": [1, None]}, 0.3, [], "ä€", True)


def random_trial(rng: np.random.Generator, n_objectives: int) -> FrozenTrial:
    """A trial in any state, with some of what a trial can have."""
    state = list(TrialState)[rng.integers(len(TrialState))]
    names = [name for name in AXES if rng.random() < 0.7]
    params = {
        "net": NETS[rng.integers(len(NETS))],
        "lr": float(10 ** rng.uniform(-5, -1)),
        "n": int(rng.integers(1, 65)),
        "share": float(rng.integers(0, 5) / 4),
    }
    steps = rng.permutation(6)[: rng.integers(0, 7)].tolist()
    reports = {int(step): float(rng.choice([*VALUES, math.nan])) for step in steps}
    needs_values = state == TrialState.COMPLETE or (state == TrialState.PRUNED and rng.random() < 0.5)
    return optuna.create_trial(
        state=state,
        params={name: params[name] for name in names},
        distributions={name: AXES[name] for name in names},
        values=[float(rng.choice(VALUES)) for _ in range(n_objectives)] if needs_values else None,
        intermediate_values=reports,
        user_attrs={f"user {index}": ATTRIBUTES[index] for index in rng.permutation(6)[: rng.integers(0, 7)].tolist()},
        system_attrs={"note": 1} if rng.random() < 0.5 else {},
    )


def seen(trials: list[FrozenTrial]) -> list[Any]:
    """All of each trial, the mappings without their order; NaN is not itself."""
    return [
        repr([{k: sorted(v.items(), key=repr) if isinstance(v, dict) else v
              for k, v in vars(trial).items()}])
        for trial in trials
    ]  # fmt: skip


@ON_EACH_DATABASE
@pytest.mark.parametrize("n_listed", [0, 500])
def test_trials_are_those_of_optunas_own_storage(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, n_listed: int
) -> None:
    monkeypatch.setattr(optuna_rows, "MAX_LISTED", n_listed)
    rng = np.random.default_rng((13, 1))
    database = open_tiny().database
    studies = [optuna.create_study(storage=database.storage, directions=["maximize"] * n) for n in (1, 2)]
    for _ in range(60):
        which = int(rng.integers(2))
        studies[which].add_trial(random_trial(rng, which + 1))
    options = {"skip_compatibility_check": True, "skip_table_creation": True}
    own, optunas = (
        connect_reader(database.url, lambda url, kind=kind, **more: kind(url, **options, **more))
        for kind in (TrialStorage, RDBStorage)
    )
    for study in studies:
        number = study._study_id
        ids = [trial._trial_id for trial in optunas.get_all_trials(number)]
        asked: list[tuple[Any, set[int], int]] = [
            *((None, set(), after) for after in (-1, ids[0], ids[len(ids) // 2], ids[-1])),
            (None, {ids[1], ids[3], ids[-1]}, ids[len(ids) // 2]),
            ((TrialState.COMPLETE, TrialState.WAITING), set(), -1),
        ]
        for arguments in asked:
            assert seen(own._get_trials(number, *arguments)) == seen(optunas._get_trials(number, *arguments))
        assert [trial.params for trial in own.get_all_trials(number)] == [trial.params for trial in study.trials]
        few = connect_reader(
            database.url, lambda url, **more: TrialStorage(url, has_reports=False, **options, **more)
        ).get_all_trials(number)
        assert [trial.intermediate_values for trial in few] == [{}] * len(ids)
        assert [trial.values for trial in few] == [trial.values for trial in study.trials]
    with pytest.raises(KeyError):
        own.get_all_trials(10**6)


def count(engine: Engine) -> list[str]:
    """A list to which the statements of an engine are added."""
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
    return statements


def test_number_of_statements_does_not_grow_with_the_trials(open_tiny: Open) -> None:
    handle = open_tiny()
    rng = np.random.default_rng((13, 2))
    counts = []
    for _ in range(2):
        for _ in range(20):
            handle.study.add_trial(random_trial(rng, 1))
        made = connect_reader(
            handle.database.url,
            lambda url, **more: TrialStorage(url, skip_compatibility_check=True, skip_table_creation=True, **more),
        )
        statements = count(made.engine)
        made.get_all_trials(handle.study._study_id)
        counts.append(len(statements))
    assert counts[0] == counts[1] <= 7
