"""Short trials: a loop that was cut short, and the steps of a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.config.load import load_experiment
from attnsearch.data.loader import open_data
from attnsearch.search.costs import Cost
from attnsearch.search.rehearsal import Portion, Steps, perform
from tests.conftest import TINY


def stamps(*seconds: float) -> list[Cost]:
    return [Cost(one, 2 * one) for one in seconds]


def test_steps_in_the_middle_stand_for_those_that_were_left_out() -> None:
    steps = Steps.between(stamps(10, 12, 14), Cost(100, 100))
    assert (steps.n, steps.step) == (3, Cost(2, 4))
    assert steps.beyond(8) == Cost(10, 20)
    assert steps.beyond(3) == Cost(0, 0)


def test_one_step_alone_is_all_of_its_loop() -> None:
    assert Steps.between(stamps(10), Cost(5, 5)).beyond(3) == Cost(10, 10)


@pytest.mark.slow
def test_a_short_trial_is_measured_step_by_step(tmp_path: Path) -> None:
    experiment = load_experiment("br_npa_low_res", profile="demo", overrides=(*TINY, "evaluation.scores.n_images=8"))
    source = open_data(experiment.data)
    done = perform(experiment, source, tmp_path, Portion(n_epochs=2, n_val_batches=1, n_scored=8, chunk_images=8))
    assert (done.n_epochs, done.train.n, done.val.n, done.score.n) == (2, 4, 1, 1)  # 16 images in batches of 4
    costs = (done.begin, done.epoch, done.finish, done.train.step, done.end, done.publication)
    assert all(cost.seconds > 0 for cost in costs)
    assert done.train.step.seconds * 3 < done.recorded[0] < done.epoch.seconds
    assert done.total.seconds >= done.epoch.seconds + done.end.seconds
    sizes = done.sizes
    assert sizes.resume > 2 * sizes.weights > 0  # AdamW keeps two numbers for each weight
    assert min(vars(sizes).values()) > 0


@pytest.mark.slow
def test_model_without_scores_costs_none(tmp_path: Path) -> None:
    experiment = load_experiment("cnn", profile="demo", overrides=(*TINY, "evaluation.scores.families=[]"))
    done = perform(experiment, open_data(experiment.data), tmp_path, Portion(1, 1, 8, 8))
    assert done.n_epochs == 1
    assert done.score.beyond(100) == Cost()
    assert done.sizes.scores == 0
