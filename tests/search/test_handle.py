"""Several first starts at one moment: one creates, the others find."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import optuna
import pytest
from optuna.trial import TrialState

from attnsearch.search.context import Worker
from attnsearch.search.handle import StudyHandle, create_handle, open_handle
from attnsearch.search.plan import SearchPlan, layout_of
from attnsearch.search.queue import claim_next
from attnsearch.search.study import UUID
from attnsearch.search.trials import read_storage
from attnsearch.store.creation import create_database
from attnsearch.store.inspection import inspect_database
from attnsearch.store.urls import default_url
from tests.search.studies import ON_EACH_DATABASE, identity_of, loaded_study

Open = Callable[..., StudyHandle]
T = TypeVar("T")


def at_once(n: int, step: Callable[[int], T]) -> list[T]:
    """What `step` returns to each of n threads that start it together."""
    barrier = threading.Barrier(n)

    def wait_and_step(index: int) -> T:
        barrier.wait()
        return step(index)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(wait_and_step, range(n)))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database that nobody has used yet."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_url"))
    return default_url(layout_of(loaded_study(), tmp_path))


def start(url: str, root: Path, name: str = "hunt") -> str:
    """What a start does to the database; returns the UUID of the study."""
    loaded = loaded_study(name=name, enqueue=[{"train.optimizer.lr": 2e-3}])
    inspect_database(url)
    handle = create_handle(loaded, layout_of(loaded, root), url, identity_of(loaded))
    uuid = str(handle.study.user_attrs[UUID])
    handle.database.close()
    return uuid


def test_first_starts_of_two_studies_share_an_empty_database(empty_url: str, tmp_path: Path) -> None:
    at_once(2, lambda index: start(empty_url, tmp_path, f"hunt{index}"))

    assert inspect_database(empty_url, must_exist=True) == "ours"
    assert sorted(optuna.get_all_study_names(read_storage(empty_url))) == ["hunt0", "hunt1"]


def test_first_starts_of_one_study_make_it_once(empty_url: str, tmp_path: Path) -> None:
    uuids = at_once(3, lambda index: start(empty_url, tmp_path))

    assert len(set(uuids)) == 1
    (trial,) = optuna.load_study(study_name="hunt", storage=read_storage(empty_url)).trials
    assert trial.state == TrialState.WAITING


def test_start_after_one_that_was_killed_between_our_tables_and_optunas(tmp_path: Path) -> None:
    loaded = loaded_study()
    layout = layout_of(loaded, tmp_path)
    create_database(default_url(layout))

    SearchPlan.check(loaded, tmp_path)
    assert start(default_url(layout), tmp_path)


@pytest.mark.slow
@ON_EACH_DATABASE
def test_workers_that_claim_at_once_keep_to_the_budget(open_tiny: Open, backend: str, tmp_path: Path) -> None:
    handle = open_tiny(n_trials=4)
    roots = [tmp_path if backend == "sqlite" else tmp_path / str(index) for index in range(6)]  # a server has no folder

    def claim_all(index: int) -> int:
        own = open_handle(handle.loaded, layout_of(handle.loaded, roots[index]), handle.database.url)
        n_claims = 0
        while claim_next(own, Worker(f"here:{index}:{n_claims}", None)) not in ("wait", "done"):
            n_claims += 1
        own.database.close()
        return n_claims

    assert sum(at_once(6, claim_all)) == 4
    assert len(handle.trials()) == 4
