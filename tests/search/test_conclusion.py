"""The end of a study: one process publishes, others leave, and one that was killed is replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from attnsearch.errors import TrialInterrupted
from attnsearch.files import atomic_write
from attnsearch.processes import ProcessName
from attnsearch.search import conclusion as module
from attnsearch.search.conclusion import conclude
from attnsearch.search.handle import StudyHandle
from attnsearch.store.leases import PUBLICATION
from tests.search.studies import ON_EACH_DATABASE, PLAYED_DATA, play_leg

Open = Callable[..., StudyHandle]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in place of races and publications."""
    done: list[str] = []

    def publish(_handle: StudyHandle, _data: object, *, check: Callable[[], None]) -> Path:
        check()
        done.append("published")
        return Path("published.json")

    monkeypatch.setattr(module, "race", lambda _handle, _data, *, check: check())
    monkeypatch.setattr(module, "publish_study", publish)
    return done


@ON_EACH_DATABASE
def test_one_publishes_while_another_leaves(
    open_tiny: Open, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, second = open_tiny(), None

    def race(_handle: StudyHandle, _data: object, *, check: Callable[[], None]) -> None:
        nonlocal second
        second = conclude(handle, PLAYED_DATA, holder="other")

    monkeypatch.setattr(module, "race", race)
    assert conclude(handle, PLAYED_DATA, holder="here") == Path("published.json")
    assert second is None
    assert published == ["published"]


def test_the_lease_is_released_and_of_no_trial(open_tiny: Open, published: list[str]) -> None:
    handle = open_tiny()
    for _ in range(2):
        conclude(handle, PLAYED_DATA, holder="here")
    assert published == ["published"] * 2
    assert handle.store.leases.of_trial(PUBLICATION).state == "released"  # type: ignore[union-attr]
    assert handle.store.leases.held() == []
    assert handle.store.leases.n_changes() == handle.store.leases.n_epochs() == 0


@pytest.mark.parametrize("is_dead", [True, False])
def test_a_publication_that_was_killed_is_taken_over(open_tiny: Open, published: list[str], is_dead: bool) -> None:
    handle = open_tiny()
    process = ProcessName.of_this_process()
    holder = f"here:{replace(process, start=1) if is_dead else process}:01ab"
    handle.store.leases.claim(PUBLICATION, holder, duration_s=60)
    assert (conclude(handle, PLAYED_DATA, holder="other") is not None) == is_dead
    assert len(published) == is_dead


@pytest.mark.parametrize("is_dead", [True, False])
def test_what_a_killed_worker_left_half_written_is_removed(
    open_tiny: Open, published: list[str], is_dead: bool
) -> None:
    handle = open_tiny()
    process = ProcessName.of_this_process()
    writer = replace(process, start=1) if is_dead else process
    path = handle.layout.study_dir / f".resume.1.pt.{writer}-0123abcd.tmp"
    path.touch()
    conclude(handle, PLAYED_DATA, holder="here")
    assert path.exists() != is_dead


def test_resume_checkpoint_that_a_killed_worker_left_behind_its_finished_trial_is_removed(
    open_tiny: Open, published: list[str]
) -> None:
    handle = open_tiny()
    number = play_leg(handle, {"val/accuracy": 0.5})
    resumes = [handle.layout.trial(one).resume(1) for one in (number, number + 1)]  # the second one is not finished
    for path in resumes:
        atomic_write(path, "weights")
    conclude(handle, PLAYED_DATA, holder="here")
    assert [path.exists() for path in resumes] == [False, True]


def test_one_whose_lease_was_taken_replaces_nothing(
    open_tiny: Open, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_tiny()

    def race(_handle: StudyHandle, _data: object, *, check: Callable[[], None]) -> None:
        handle.store.leases.claim(PUBLICATION, "other", duration_s=60)

    monkeypatch.setattr(module, "race", race)
    assert conclude(handle, PLAYED_DATA, holder="here") is None
    assert published == []
    assert handle.store.leases.of_trial(PUBLICATION).worker == "other"  # type: ignore[union-attr]


def test_a_long_publication_renews_its_lease(
    open_tiny: Open, published: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, renewed = open_tiny(lease_s=1.0), threading.Event()
    renew = handle.store.leases.renew

    def noted(number: int, attempt: int, **settings: Any) -> None:
        renew(number, attempt, **settings)
        renewed.set()

    monkeypatch.setattr(handle.store.leases, "renew", noted)
    monkeypatch.setattr(module, "race", lambda _handle, _data, *, check: renewed.wait(30))
    conclude(handle, PLAYED_DATA, holder="here")
    assert renewed.is_set()


def test_a_stop_ends_the_race(open_tiny: Open, published: list[str]) -> None:
    handle = open_tiny()
    with pytest.raises(TrialInterrupted):
        conclude(handle, PLAYED_DATA, holder="here", should_stop=lambda: True)
    assert published == []
    assert handle.store.leases.of_trial(PUBLICATION).state == "released"  # type: ignore[union-attr]
