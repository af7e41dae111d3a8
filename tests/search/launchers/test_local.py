"""Which workers a search replaces, how long it waits, and when it gives up; the workers are played."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from attnsearch.device import ASSIGNED_GPU, VISIBLE_GPUS, pick_device, worker_gpus
from attnsearch.errors import ConfigError, SearchStopped, StoreError
from attnsearch.search.handle import StudyHandle
from attnsearch.search.launchers import local as module
from attnsearch.search.launchers.local import Restarts, WorkerPool, signals_held, worker_environment
from attnsearch.search.run import supervise
from attnsearch.types import URL_VARIABLE

Open = Callable[..., StudyHandle]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that a crew sees; a test moves them."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def crew_of(handle: StudyHandle) -> WorkerPool:
    pool = WorkerPool(handle, n_workers=1)
    pool.start()
    return pool


def watch(crew: WorkerPool, clock: list[float]) -> None:
    """As the supervisor does, a second at a time."""
    while crew.is_working():
        clock[0] += 1.0


@pytest.mark.parametrize(
    ("code", "words"),
    [(-9, ""), (75, "CUDA error: unknown error"), (130, ""), (1, "")],  # the last: a signal before Python was ready
)
def test_worker_that_ended_early_is_replaced_after_a_pause(
    open_tiny: Open, play: Any, clock: list[float], code: int, words: str
) -> None:
    started = play([code, None], words)
    crew = crew_of(open_tiny())
    assert crew.is_working()
    assert len(started) == 1
    clock[0] += 5.0
    assert crew.is_working()
    assert len(started) == 2


def test_worker_that_found_nothing_more_to_do_is_not(open_tiny: Open, play: Any) -> None:
    started = play([0])
    assert not crew_of(open_tiny()).is_working()
    assert len(started) == 1


@pytest.mark.parametrize(("code", "kind"), [(1, StoreError), (2, ConfigError)])
def test_fault_of_a_worker_stops_the_study_with_its_words(
    open_tiny: Open, play: Any, code: int, kind: type[Exception]
) -> None:
    play([code])
    with pytest.raises(kind, match=r"^data\.root: no such folder$"):
        crew_of(open_tiny()).is_working()


def test_third_worker_in_a_row_without_an_epoch_stops_the_study_with_its_reason(
    open_tiny: Open, play: Any, clock: list[float]
) -> None:
    started = play([75, -9, 75])
    crew = crew_of(open_tiny())
    with pytest.raises(
        SearchStopped, match=r"3 workers in a row .* because: data\.root: no such folder; .*worker\.log"
    ):
        watch(crew, clock)
    # pauses of 5 and 30 s, the second end seen at 106
    assert [worker.started_at for worker in started] == [100.0, 105.0, 136.0]


def test_workers_that_somebody_ends_stop_no_study(open_tiny: Open, play: Any, clock: list[float]) -> None:
    started = play([130] * 9 + [0])
    crew = crew_of(open_tiny())
    watch(crew, clock)
    assert len(started) == 10


def test_epoch_of_any_trial_starts_the_count_again() -> None:
    restarts = Restarts(n_epochs=0)
    for start in range(20):
        restarts.count(started_at=start, now=start + 0.5, n_epochs=start // 2)
        assert not restarts.is_useless


def test_workers_that_one_event_ended_count_once() -> None:
    restarts = Restarts(n_epochs=7)
    for index in range(8):
        restarts.count(started_at=index / 10, now=10 + index / 10, n_epochs=7)
    assert (restarts.n_fruitless, restarts.pause_s, restarts.is_useless) == (1, 5.0, False)


def fail_to_start() -> None:
    raise OSError("no process is left")


@pytest.mark.parametrize(
    ("harm", "kind", "n_started"),
    [(lambda: signal.raise_signal(signal.SIGINT), KeyboardInterrupt, 2), (fail_to_start, OSError, 1)],
)
def test_what_comes_while_workers_are_started_leaves_none_behind(
    open_tiny: Open,
    play: Any,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[], None],
    kind: type[BaseException],
    n_started: int,
) -> None:
    started = play([None, None, None])
    start = module.start_worker

    def start_harmed(handle: Any, index: int, **settings: Any) -> Any:
        if index == 1:
            harm()
        return start(handle, index, **settings)

    monkeypatch.setattr(module, "start_worker", start_harmed)
    handle = open_tiny()
    with pytest.raises(kind):
        supervise(handle, WorkerPool(handle, n_workers=3), should_stop=lambda: False, tick=lambda _handle: None)
    assert [worker.poll() for worker in started] == [-signal.SIGTERM] * n_started
    assert all(worker.is_closed for worker in started)


def test_held_signals_arrive_after_the_block() -> None:
    seen: list[str] = []

    def step() -> None:
        with signals_held():
            signal.raise_signal(signal.SIGINT)
            seen.append("rest of the block")

    with pytest.raises(KeyboardInterrupt):
        step()
    assert seen == ["rest of the block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def assigned(n_workers: int, gpus: tuple[str, ...]) -> list[tuple[str | None, str | None]]:
    environments = [worker_environment(None, index, gpus=gpus, n_threads=1) for index in range(n_workers)]
    return [(environment.get(VISIBLE_GPUS), environment.get(ASSIGNED_GPU)) for environment in environments]


def test_workers_take_the_gpus_in_turn_and_see_their_own_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "4,GPU-8f3c")
    assert assigned(3, ("4", "GPU-8f3c")) == [("4", "4"), ("GPU-8f3c", "GPU-8f3c"), ("4", "4")]
    assert assigned(2, ("GPU-8f3c",)) == [("GPU-8f3c", "GPU-8f3c")] * 2


def test_workers_of_the_processor_keep_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE_GPUS, "")
    assert assigned(1, ()) == [("", None)]


def test_a_search_on_the_third_gpu_runs_on_the_third_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setenv(VISIBLE_GPUS, "5,6,7")
    environment = worker_environment(None, 1, gpus=worker_gpus("cuda:2"), n_threads=1)
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert environment[VISIBLE_GPUS] == "7"
    assert pick_device("cuda:2") == torch.device("cuda", 0)


def test_worker_gets_the_database_as_it_was_written_and_never_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(URL_VARIABLE, "sqlite:///other.db")
    written = "postgresql://$NAME:$WORD@host/x"
    for storage, expected in ((written, written), (None, "")):
        assert worker_environment(storage, 0, gpus=(), n_threads=1)[URL_VARIABLE] == expected
