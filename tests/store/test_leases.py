from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from attnsearch.errors import LeaseLost
from attnsearch.store.database import open_reader
from attnsearch.store.leases import Leases

STUDY = "0b8a1f5e-8c5d-4a40-9a59-0d2f3c0d7e11"


class Clock:
    """Time that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(engine: Engine, clock: Clock) -> Leases:
    return Leases(engine, STUDY, clock=clock)


def die(leases: Leases, *, epoch: int | None = None) -> int:
    """Count of stalled attempts after one more at trial 7 was killed; `epoch` is the last that it finished."""
    attempt = leases.claim(7, "w", duration_s=300)
    leases.renew(7, attempt, epoch=epoch, duration_s=300)
    return leases.take_back(7, attempt)


def test_attempts_count_from_one_per_trial(leases: Leases) -> None:
    assert [leases.claim(7, worker, duration_s=300) for worker in "uvw"] == [1, 2, 3]
    assert leases.claim(8, "w", duration_s=300) == 1


def test_claim_whose_answer_was_lost_is_not_a_second_attempt(leases: Leases) -> None:
    assert [leases.claim(7, "w", duration_s=300) for _ in range(2)] == [1, 1]
    assert leases.take_back(7) == 1


def test_release_whose_answer_was_lost_counts_once(leases: Leases) -> None:
    attempt = leases.claim(7, "w", duration_s=300)
    assert [leases.release(7, attempt, stalled=True) for _ in range(2)] == [1, 1]


def test_epochs_and_stalled_trials_of_a_study_are_counted(leases: Leases, engine: Engine) -> None:
    Leases(engine, "another study").renew(
        1, Leases(engine, "another study").claim(1, "w", duration_s=9), epoch=50, duration_s=9
    )
    for number, epoch in ((3, 4), (7, 0), (8, 6)):
        attempt = leases.claim(number, "w", duration_s=300)
        leases.renew(number, attempt, epoch=epoch, duration_s=300)
        leases.release(number, attempt, stalled=True)
    assert (leases.n_epochs(), leases.n_epochs(without=8)) == (10, 4)
    assert leases.stalled() == {7: 1}


def test_same_trial_number_of_another_study_is_another_trial(leases: Leases, engine: Engine) -> None:
    leases.claim(7, "w", duration_s=300)

    assert Leases(engine, "another study").claim(7, "w", duration_s=300) == 1


def test_holder_passes_the_check_and_keeps_its_record(leases: Leases, clock: Clock) -> None:
    attempt = leases.claim(7, "w", duration_s=300)
    leases.check(7, attempt)
    lease = leases.of_trial(7)

    assert lease is not None
    assert (lease.number, lease.attempt, lease.worker, lease.expires_at) == (7, 1, "w", clock.now + 300)
    assert (lease.epoch, lease.stalled, lease.state) == (0, 0, "held")


def test_renewal_counts_from_now(leases: Leases, clock: Clock) -> None:
    attempt = leases.claim(7, "w", duration_s=300)
    clock.now += 100
    assert leases.seconds_left(7) == 200
    leases.renew(7, attempt, duration_s=600)

    assert leases.seconds_left(7) == 600


def test_late_worker_goes_on_if_nobody_took_its_trial(leases: Leases, clock: Clock) -> None:
    attempt = leases.claim(7, "w", duration_s=300)
    clock.now += 1000
    leases.renew(7, attempt, duration_s=300)

    assert leases.seconds_left(7) == 300


@pytest.mark.parametrize("end", ["take_back", "release", "claim"])
def test_paused_worker_is_fenced_off(leases: Leases, end: str) -> None:
    stale = leases.claim(7, "paused", duration_s=300)
    if end == "take_back":
        leases.take_back(7)
    elif end == "release":
        leases.release(7, stale, stalled=False)
    else:
        leases.claim(7, "fresh", duration_s=300)

    writes = [lambda: leases.check(7, stale), lambda: leases.renew(7, stale, epoch=9, duration_s=300)]
    if end != "release":  # which may be repeated
        writes.append(lambda: leases.release(7, stale, stalled=True))
    for write in writes:
        with pytest.raises(LeaseLost, match="attempt 1 at trial 7"):
            write()
    lease = leases.of_trial(7)
    assert lease is not None
    assert lease.epoch == 0


def test_trial_never_claimed_belongs_to_nobody(leases: Leases) -> None:
    with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* belongs to nobody"):
        leases.check(7, 1)
    assert leases.of_trial(7) is None
    assert leases.seconds_left(7) == 0
    assert leases.take_back(7) == 0


def test_attempts_without_a_new_epoch_are_counted_in_a_row(leases: Leases) -> None:
    assert [die(leases), die(leases), die(leases)] == [1, 2, 3]


def test_new_epoch_starts_the_count_anew(leases: Leases) -> None:
    assert [die(leases), die(leases, epoch=1), die(leases, epoch=1), die(leases), die(leases, epoch=2)] == [
        *(1, 0, 1, 2, 0)
    ]


def test_clean_stop_neither_counts_nor_forgives(leases: Leases) -> None:
    die(leases)
    attempt = leases.claim(7, "w", duration_s=300)
    leases.release(7, attempt, stalled=False)

    assert die(leases) == 2


def test_clean_stop_after_a_new_epoch_starts_the_count_anew(leases: Leases) -> None:
    die(leases)
    attempt = leases.claim(7, "w", duration_s=300)
    leases.renew(7, attempt, epoch=4, duration_s=300)
    leases.release(7, attempt, stalled=False)

    assert die(leases) == 1


def test_stalled_release_counts(leases: Leases) -> None:
    attempt = leases.claim(7, "w", duration_s=300)
    leases.release(7, attempt, stalled=True)

    assert die(leases) == 2


def test_claim_over_a_silent_attempt_counts_it(leases: Leases) -> None:
    leases.claim(7, "killed with its supervisor", duration_s=300)

    assert die(leases) == 2


def test_two_supervisors_count_one_death_once(leases: Leases) -> None:
    attempt = leases.claim(7, "w", duration_s=300)

    assert [leases.take_back(7, attempt), leases.take_back(7, attempt)] == [1, 1]


def test_late_supervisor_cannot_end_the_next_attempt(leases: Leases) -> None:
    seen_dead = leases.claim(7, "w", duration_s=300)
    leases.take_back(7, seen_dead)
    attempt = leases.claim(7, "fresh", duration_s=300)

    with pytest.raises(LeaseLost, match="belongs to attempt 2"):
        leases.take_back(7, seen_dead)
    leases.check(7, attempt)


def test_reader_sees_leases(leases: Leases, url: str) -> None:
    leases.claim(7, "w", duration_s=300)
    lease = Leases(open_reader(url), STUDY).of_trial(7)

    assert lease is not None
    assert lease.worker == "w"


def test_threads_that_claim_at_once_get_different_attempts(leases: Leases) -> None:
    with ThreadPoolExecutor(4) as pool:
        attempts = list(pool.map(lambda name: leases.claim(7, name, duration_s=300), "abcdefgh"))

    assert sorted(attempts) == list(range(1, 9))
