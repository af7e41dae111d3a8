"""The arithmetic of a forecast, on trials whose cost is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnsearch.search.costs import Cost, Leg, TrialBytes, TrialCost, Trials, forecast_of, makespan, schedule_of
from tests.search.studies import HALVING, loaded_study

BYTES = TrialBytes(weights=100, resume=300, maps=10, tables=5, journal=2, database=1)


def trial_cost(**values: Any) -> TrialCost:
    """A trial of two epochs of 10 s each, 2 s around them and 3 s at its end; half of the time is of the processor."""
    usual: dict[str, Any] = {
        **{"settings": {}, "epochs": 2, "recorded_s": 9.0},
        **{"leg": Cost(2, 1), "epoch": Cost(10, 5), "end": Cost(3, 1.5), "rung": Cost(), "worker": Cost(1, 1)},
        **{"publication": Cost(4, 2), "race": Cost(), "decoding": Cost()},
        **{"memory_bytes": 1000, "gpu_bytes": 0, "gpu_total_bytes": 0, "bytes": BYTES, "published_bytes": 7},
    }
    return TrialCost(**usual | values)


def measured(*draws: TrialCost) -> Trials:
    return Trials(draws, draws[0], draws[-1])


def test_cost_of_a_leg_is_that_of_its_epochs() -> None:
    trial = trial_cost(rung=Cost(1, 1))
    assert trial.whole == Cost(2 + 20 + 3, 1 + 10 + 1.5)
    assert trial.of_leg(Leg(1, begin=0, end=1)) == Cost(2 + 10 + 1, 1 + 5 + 1)
    assert trial.of_leg(Leg(1, begin=1)) == Cost(2 + 10 + 3, 1 + 5 + 1.5)


def test_total_is_that_of_all_trials_by_all_workers() -> None:
    found = forecast_of(loaded_study(n_trials=5), measured(trial_cost()), Cost(6, 6), n_workers=2)
    assert found.total.processor_seconds == 6 + (2 + 1) * 1 + 5 * 12.5 + 2
    assert found.total.seconds == 6 + 2 * 1 + 3 * 25 + 4  # the last of five runs alone
    assert found.unpruned == found.total
    assert found.trial == Cost(25, 12.5)


def test_workers_that_get_no_trial_cost_nothing() -> None:
    found = forecast_of(loaded_study(n_trials=1), measured(trial_cost()), Cost(), n_workers=8)
    assert found.total.processor_seconds == 2 * 1 + 12.5 + 2


def test_halving_costs_the_epochs_of_its_rungs() -> None:
    """Four trials run one of two epochs, and two of them the second one."""
    loaded = loaded_study(n_trials=4, **HALVING)
    assert schedule_of(loaded).legs == (Leg(4, 0, 1), Leg(2, 1, None))
    found = forecast_of(loaded, measured(trial_cost()), Cost(), n_workers=1)
    assert found.total.processor_seconds == 2 * 1 + 6 * (1 + 5) + 2 * 1.5 + 2
    assert found.unpruned.processor_seconds == 2 * 1 + 4 * 12.5 + 2


def test_enqueued_trials_stand_outside_of_brackets() -> None:
    loaded = loaded_study(n_trials=5, enqueue=[{"train.optimizer.lr": 1e-3}], **HALVING)
    assert schedule_of(loaded).legs == (Leg(1), Leg(4, 0, 1), Leg(2, 1, None))


def test_totals_are_those_of_the_draws_in_turn() -> None:
    slow = trial_cost(epoch=Cost(20, 10))
    found = forecast_of(loaded_study(n_trials=3), measured(trial_cost(), slow), Cost(), n_workers=1)
    assert found.total.processor_seconds == 2 * 1 + 12.5 + 22.5 + 12.5 + 2
    assert found.recorded_s == 9


def test_images_are_decoded_once() -> None:
    draws = measured(trial_cost(decoding=Cost(8, 8)), trial_cost())
    assert forecast_of(loaded_study(n_trials=1), draws, Cost(1, 1), n_workers=1).preparation == Cost(9, 9)


@pytest.mark.parametrize(
    ("durations", "n_workers", "expected"), [([3, 3, 3], 1, 9), ([5, 1, 1, 1], 2, 5), ([1, 1, 4], 2, 5)]
)
def test_makespan_is_when_the_last_worker_is_done(durations: list[float], n_workers: int, expected: float) -> None:
    assert makespan(durations, n_workers) == expected


def test_disk_holds_resume_checkpoints_of_running_trials_only() -> None:
    disk = forecast_of(loaded_study(n_trials=6), measured(trial_cost()), Cost(), n_workers=2).disk
    assert (disk.weights, disk.maps, disk.tables, disk.database, disk.published) == (600, 60, 30, 6, 7)
    assert disk.resume == (2 + 2) * 300  # those that stay, and those that are being written
    done = 100 + 1 + 10 + 5 + 2
    assert disk.peak == 4 * done + 2 * (100 + 1) + 1200  # two train and write their checkpoints
    assert disk.left == 5 * (100 + 10) + 30 + 6 + 7  # the best five keep weights and maps


def test_disk_holds_resume_checkpoints_of_paused_trials() -> None:
    loaded = loaded_study(n_trials=8, **HALVING)  # two brackets of four
    disk = forecast_of(loaded, measured(trial_cost()), Cost(), n_workers=1).disk
    assert disk.resume == (4 + 1) * 300
    assert (disk.maps, disk.tables) == (4 * 10, 4 * 5)  # of the trials that are trained to their end
    assert disk.peak == 8 * 101 + 2 * 17 + 5 * 300  # of one bracket two are complete, of the other one all wait


def test_kept_resume_checkpoints_stay() -> None:
    loaded = loaded_study(n_trials=3, retention={"resume": True})
    disk = forecast_of(loaded, measured(trial_cost()), Cost(), n_workers=1).disk
    assert disk.peak == 2 * (100 + 1 + 10 + 5 + 2) + (100 + 1) + 4 * 300
    assert (disk.resume, disk.left) == ((3 + 1) * 300, 3 * (300 + 100 + 10 + 5 + 1) + 7)


def test_race_is_counted_where_scores_are_objectives() -> None:
    trial = trial_cost(race=Cost(2, 2))
    chosen = loaded_study(n_trials=3, objectives={"val/relevance_gain": "maximize"})
    with_race = forecast_of(chosen, measured(trial), Cost(), n_workers=1).total
    without = forecast_of(loaded_study(n_trials=3), measured(trial), Cost(), n_workers=1).total
    assert with_race - without == Cost(6, 6)


def test_memory_is_that_of_the_hungriest_trial() -> None:
    draws = Trials((trial_cost(),), trial_cost(memory_bytes=5000), trial_cost(memory_bytes=10))
    assert forecast_of(loaded_study(), draws, Cost(), n_workers=1).memory_bytes == 5000


def test_differences_of_measurements_are_not_negative() -> None:
    assert (Cost(1, 2) - Cost(2, 1)).at_least_zero() == Cost(0, 1)
    assert replace(trial_cost(), epochs=4).whole.seconds == 45


def test_publication_follows_when_resume_checkpoints_are_gone() -> None:
    trial = trial_cost(published_bytes=10_000)
    disk = forecast_of(loaded_study(n_trials=1), measured(trial), Cost(), n_workers=1).disk
    assert disk.peak == 100 + 1 + 10 + 5 + 10_000
