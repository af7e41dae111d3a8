"""Rungs, places and promotions, checked by brute force over all orders in which trials arrive."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from optuna.study._multi_objective import _fast_non_domination_rank

from attnsearch.search.halving import (
    Bracket,
    HalvingTrial,
    Rung,
    Value,
    best_first,
    bracket_sizes,
    crowding_distances,
    first_rung,
    n_finishing,
    non_domination_ranks,
    rungs_of,
    settled_rungs,
)


def seats(rungs: Sequence[Rung]) -> list[tuple[int, int]]:
    return [(rung.epoch, rung.n_continue) for rung in rungs]


def epochs_of(n_trials: int, epochs: int, rungs: Sequence[Rung]) -> int:
    total, before, running = 0, 0, n_trials
    for rung in (*rungs, Rung(epochs, 0)):
        total += running * (rung.epoch - before)
        before, running = rung.epoch, rung.n_continue
    return total


@pytest.mark.parametrize(
    ("n_trials", "epochs", "first", "n_finish", "expected", "total"),
    [
        (25, 50, 5, 2, [(5, 13), (10, 7), (20, 4), (40, 2)], 360),
        (8, 8, 2, 2, [(2, 4), (4, 2)], 32),
        (9, 20, 2, 2, [(2, 5), (4, 3), (8, 2)], 64),
        (24, 20, 2, 6, [(2, 12), (4, 6)], 168),
        (2, 20, 2, 2, [], 40),
        (9, 2, 2, 2, [], 18),
    ],
)
def test_rungs_halve_the_trials_and_double_the_epochs(
    n_trials: int, epochs: int, first: int, n_finish: int, expected: list[tuple[int, int]], total: int
) -> None:
    rungs = rungs_of(n_trials, epochs, first=first, n_finish=n_finish)
    assert seats(rungs) == expected
    assert epochs_of(n_trials, epochs, rungs) == total


@pytest.mark.parametrize(
    ("epochs", "warmup", "expected"), [(50, 0, 5), (20, 0, 2), (8, 0, 2), (50, 5, 6), (50, 4.5, 6), (51, 0, 6)]
)
def test_first_rung_lies_behind_a_tenth_and_the_warm_up(epochs: int, warmup: float, expected: int) -> None:
    assert first_rung(epochs, warmup_epochs=warmup) == expected


@pytest.mark.parametrize(
    ("n_trials", "size", "expected"),
    [(25, 9, (9, 8, 8)), (25, None, (25,)), (4, 9, (4,)), (14, 9, (7, 7)), (0, 9, ()), (18, 9, (9, 9))],
)
def test_brackets_are_even(n_trials: int, size: int | None, expected: tuple[int, ...]) -> None:
    assert bracket_sizes(n_trials, size=size) == expected


def test_non_domination_ranks_are_optunas() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).integers(0, 5, (12, 1 + seed % 3)).astype(float)
        assert np.array_equal(non_domination_ranks(points), _fast_non_domination_rank(-points))


def test_crowding_distance_is_the_sum_of_normalised_gaps() -> None:
    points = np.array([[0.0, 4.0], [1.0, 3.0], [3.0, 1.0], [4.0, 0.0]])
    assert crowding_distances(points).tolist() == [math.inf, 1.5, 1.5, math.inf]
    assert crowding_distances(np.array([[1.0, 1.0], [1.0, 1.0]])).tolist() == [math.inf, math.inf]


def trial(number: int, *values: float | tuple[float, ...], status: str = "paused", **fields: object) -> HalvingTrial:
    reached = tuple(Value(value if isinstance(value, tuple) else (value,)) for value in values)
    return HalvingTrial(number, 1, status, reached, **fields)  # type: ignore[arg-type]


def test_order_of_one_objective_is_by_value_then_by_number() -> None:
    trials = [trial(0, 0.1), trial(1, 0.3), trial(2, 0.3), trial(3, math.nan), trial(4, status="running")]
    assert [one.number for one in best_first(trials, 0)] == [1, 2, 0, 3]


def test_order_of_several_objectives_is_by_front_then_by_crowding() -> None:
    front = [trial(0, (0.0, 4.0)), trial(1, (1.0, 3.0)), trial(2, (1.2, 2.8)), trial(3, (4.0, 0.0))]
    behind = [trial(4, (0.5, 0.5))]
    assert [one.number for one in best_first(behind + front, 0)] == [0, 3, 2, 1, 4]


def test_trials_that_break_a_constraint_come_last() -> None:
    broken = [replace(trial(n, 0.9), values=(Value((0.9,), excess),)) for n, excess in ((0, 0.2), (1, 0.1))]
    assert [one.number for one in best_first([*broken, trial(2, 0.1)], 0)] == [2, 1, 0]


def test_trial_that_ended_by_itself_keeps_its_place_at_later_rungs() -> None:
    early = trial(0, 0.5, status="complete", final=Value((0.9,)))
    failed = trial(1, 0.8, status="failed")
    assert [one.number for one in best_first([early, failed, trial(2, 0.5, 0.7)], 1)] == [0, 2, 1]
    cut = trial(4, 0.6, status="pruned")  # a cut that moved, as trials joined, may take it back
    assert [one.number for one in best_first([cut, early], 1)] == [0, 4]
    assert trial(3, status="failed").is_dropped_out
    assert trial(5, status="pruned").is_dropped_out
    assert not failed.is_dropped_out


def run_bracket(worths: Sequence[tuple[float, ...]], order: Sequence[int]) -> Bracket:
    """A bracket whose trials arrive at their rungs in the order that `order` gives to what may run."""
    n_trials = len(worths)
    rungs = rungs_of(n_trials, 16, first=2, n_finish=2)
    waiting = list(order)
    bracket = Bracket(1, n_trials, rungs, ())
    for _ in range(100):
        continuing, ending = bracket.decided()
        trials = {one.number: one for one in bracket.trials}
        for one in ending:
            trials[one.number] = replace(one, status="pruned")
        if waiting:
            number = waiting.pop(0)
            trials[number] = arrived(trial(number, status="running"), worths, rungs)
        elif continuing:
            best = max(continuing, key=lambda one: order.index(one.number))
            trials[best.number] = arrived(replace(best, status="running"), worths, rungs)
        elif not ending:
            return bracket
        bracket = Bracket(1, n_trials, rungs, tuple(trials.values()))
    raise AssertionError("a bracket must come to its end")


def arrived(one: HalvingTrial, worths: Sequence[tuple[float, ...]], rungs: Sequence[Rung]) -> HalvingTrial:
    """A trial after its next leg: at its rung, where it is worth what it is worth at last, or at its end."""
    worth, reached = worths[one.number], len(one.values)
    if reached == len(rungs):
        return replace(one, status="complete", final=Value(worth))
    noise = 0.3 * math.sin(7.0 * one.number + 3.0 * reached)
    return replace(one, status="paused", values=(*one.values, Value(tuple(value + noise for value in worth))))


def legs(bracket: Bracket) -> dict[int, int]:
    return {one.number: len(one.values) + (one.status == "complete") for one in bracket.trials}


def test_all_orders_of_arrival_promote_the_same_trials() -> None:
    worths = [(value,) for value in (0.1, 0.9, 0.4, 0.3, 0.8, 0.2, 0.7, 0.5)]
    expected = legs(run_bracket(worths, range(8)))
    assert sorted(expected.values()) == [1, 1, 1, 1, 2, 2, 3, 3]
    for order in itertools.islice(itertools.permutations(range(8)), 0, None, 37):
        assert legs(run_bracket(worths, order)) == expected


def test_all_orders_of_arrival_promote_the_same_trials_of_several_objectives() -> None:
    generator = random.Random(3)
    worths = [(generator.random(), generator.random()) for _ in range(8)]
    expected = legs(run_bracket(worths, range(8)))
    for order in itertools.islice(itertools.permutations(range(8)), 0, None, 211):
        assert legs(run_bracket(worths, order)) == expected


def test_trial_is_promoted_as_soon_as_nothing_can_change_it() -> None:
    rungs = (Rung(2, 2), Rung(4, 1))
    seen = [trial(0, 0.9), trial(1, 0.1), trial(2, 0.5)]
    continuing, ending = Bracket(1, 4, rungs, tuple(seen)).decided()
    assert [one.number for one in continuing] == [0]  # one is still out and takes one place at most
    assert [one.number for one in ending] == [1]
    assert Bracket(1, 4, rungs, tuple(seen)).n_open == 1
    assert Bracket(1, 3, rungs, tuple(seen)).decided()[0] == [seen[0], seen[2]]


def test_place_counts_those_that_have_come_as_far() -> None:
    rungs = (Rung(2, 2), Rung(4, 1))
    seen = (trial(0, 0.9, 0.95), trial(1, 0.1), trial(2, 0.5, status="running"), trial(3, status="running"))
    at_rungs = Bracket(1, 4, rungs, seen).at_rungs
    assert [[one.number for one, _ in at_rung] for at_rung in at_rungs] == [[0, 2, 1], [0]]


def test_bracket_with_fewer_trials_than_planned_ends() -> None:
    rungs = rungs_of(9, 16, first=2, n_finish=2)  # for nine, and the budget was lowered to three
    trials = tuple(trial(number, float(number)) for number in range(3))
    continuing, ending = Bracket(1, 3, rungs, trials).decided()
    assert {one.number for one in continuing} == {0, 1, 2}
    assert not ending
    at_second = tuple(trial(number, float(number), float(number)) for number in range(3))
    assert [one.number for one in Bracket(1, 3, rungs, at_second).decided()[0]] == [2, 1, 0]


def test_epochs_left_of_a_new_bracket_are_all_of_it() -> None:
    for n_trials, epochs in ((25, 50), (9, 20), (2, 20), (24, 20)):
        rungs = rungs_of(n_trials, epochs, first=2, n_finish=2)
        assert Bracket(1, n_trials, rungs, ()).epochs_left(epochs, {}) == epochs_of(n_trials, epochs, rungs)


def test_epochs_left_fall_by_each_epoch_to_none() -> None:
    """Over a whole bracket that arrives in any order, what is left and what was trained are one sum."""
    worths = [(value,) for value in (0.1, 0.9, 0.4, 0.3, 0.8, 0.2, 0.7, 0.5)]
    whole = epochs_of(8, 16, rungs_of(8, 16, first=2, n_finish=2))
    for seed in range(10):
        ended = run_bracket(worths, random.Random(seed).sample(range(8), 8))
        trained = {one.number: trained_epochs(one, ended.rungs, 16) for one in ended.trials}
        assert ended.epochs_left(16, trained) == 0
        assert sum(trained.values()) == whole


def trained_epochs(one: HalvingTrial, rungs: Sequence[Rung], epochs: int) -> int:
    return epochs if one.status == "complete" else rungs[len(one.values) - 1].epoch


def test_epochs_left_know_of_trials_that_run_and_of_those_that_ended_early() -> None:
    rungs = (Rung(2, 2), Rung(4, 1))  # 4 trials: 4 x 2, 2 x 2 and 1 x 6 of 10 epochs
    running = trial(0, 0.9, status="running")  # promoted, and at epoch 3
    seen = (running, trial(1, 0.1), trial(2, status="waiting"), trial(3, status="failed"))
    assert Bracket(1, 4, rungs, seen).epochs_left(10, {0: 3, 1: 2, 2: 1, 3: 1}) == (1 + 2) + (1 + 2) + 6
    ended = (trial(0, 0.9, status="complete", final=Value((0.9,))), trial(1, 0.8, 0.8, status="failed"))
    assert Bracket(1, 2, rungs, ended).epochs_left(10, {0: 3, 1: 5}) == 0


def test_objective_that_is_undefined_everywhere_leaves_the_order_to_the_others() -> None:
    trials = [trial(0, (0.1, math.nan)), trial(1, (0.3, math.nan)), trial(2, (0.2, math.nan))]
    assert [one.number for one in best_first(trials, 0)] == [1, 2, 0]


def halved(number: int, *pairs: tuple[float, float], status: str = "paused") -> HalvingTrial:
    """A trial with the monitor on both halves of validation at each rung."""
    values = tuple(Value((sum(pair) / 2,), halves=pair) for pair in pairs)
    return HalvingTrial(number, 1, status, values)  # type: ignore[arg-type]


@pytest.mark.parametrize(("n_trials", "one", "several"), [(2, 2, 2), (9, 2, 3), (11, 3, 3), (25, 5, 7)])
def test_a_fifth_of_a_bracket_finishes_and_a_quarter_with_several_objectives(
    n_trials: int, one: int, several: int
) -> None:
    assert n_finishing(n_trials, has_several=False) == one
    assert n_finishing(n_trials, has_several=True) == several


PLANNED = rungs_of(8, 16, first=2, n_finish=2)
NOISE = [(0.1, 0.4), (0.2, 0.3), (0.3, 0.2), (0.4, 0.1), (0.1, 0.3), (0.3, 0.1), (0.2, 0.4), (0.4, 0.2)]
ORDER = [(value, value + 0.01) for value in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)]


def settled(trials: Sequence[HalvingTrial], *, epochs: int = 16) -> list[tuple[int, int, bool]]:
    rungs = settled_rungs(PLANNED, trials, n_trials=8, epochs=epochs)
    return [(rung.epoch, rung.n_continue, rung.is_tentative) for rung in rungs]


def test_rung_whose_halves_disagree_decides_nothing_and_the_next_one_takes_its_place() -> None:
    assert seats(PLANNED) == [(2, 4), (4, 2)]
    noisy = [halved(number, pair) for number, pair in enumerate(NOISE)]
    assert settled(noisy) == [(2, 8, False), (4, 4, True), (8, 2, False)]
    assert [rung.is_noise for rung in settled_rungs(PLANNED, noisy, n_trials=8, epochs=16)] == [True, False, False]
    assert settled(noisy, epochs=4) == [(2, 8, False)]
    decided = [halved(number, pair, ORDER[number]) for number, pair in enumerate(NOISE)]
    assert settled(decided) == [(2, 8, False), (4, 4, False), (8, 2, False)]


def test_rung_whose_halves_agree_decides_and_later_ones_do_so_too() -> None:
    first = [halved(number, pair) for number, pair in enumerate(ORDER)]
    assert settled(first) == [(2, 4, False), (4, 2, False)]
    saturated = [halved(number, pair, NOISE[number]) for number, pair in enumerate(ORDER)]
    assert settled(saturated) == [(2, 4, False), (4, 2, False)]


def test_values_that_are_all_equal_decide_nothing() -> None:
    assert settled([halved(number, (0.125, 0.125)) for number in range(8)])[0] == (2, 8, False)


def test_monitor_without_halves_and_few_trials_decide_at_once() -> None:
    assert settled([trial(0, 0.5)]) == [(2, 4, False), (4, 2, False)]
    few = settled_rungs((Rung(2, 2),), [halved(0, (0.1, 0.4))], n_trials=3, epochs=16)
    assert seats(few) == [(2, 2)]
    assert not few[0].is_tentative


def test_nobody_ends_before_it_is_known_whether_a_rung_decides() -> None:
    seen = [halved(number, pair) for number, pair in enumerate(ORDER[:7])]
    rungs = settled_rungs(PLANNED, seen, n_trials=8, epochs=16)
    assert rungs[0].is_tentative
    continuing, ending = Bracket(1, 8, rungs, tuple(seen)).decided()
    assert [one.number for one in continuing] == [6, 5, 4]  # whatever the last one is worth
    assert not ending
    early = [replace(one, values=(*one.values, *one.values)) if one.number == 6 else one for one in seen]
    assert Bracket(1, 8, rungs, tuple(early)).decided()[0] == [seen[5], seen[4]]  # none from the second rung


@pytest.mark.parametrize("first", [NOISE, ORDER])
def test_all_orders_of_arrival_settle_rungs_alike(first: list[tuple[float, float]]) -> None:
    expected = legs(run_settled(first, range(8)))
    for seed in range(40):
        assert legs(run_settled(first, random.Random(seed).sample(range(8), 8))) == expected
    assert sorted(expected.values()) == ([2] * 4 + [3] * 2 + [4] * 2 if first is NOISE else [1] * 4 + [2] * 2 + [3] * 2)


def run_settled(first: Sequence[tuple[float, float]], order: Sequence[int]) -> Bracket:
    """As `run_bracket`, with halves: `first` at the first rung, and `ORDER` at later ones."""
    trials: dict[int, HalvingTrial] = {}
    waiting = list(order)
    for _ in range(100):
        rungs = settled_rungs(PLANNED, tuple(trials.values()), n_trials=8, epochs=16)
        bracket = Bracket(1, 8, rungs, tuple(trials.values()))
        continuing, ending = bracket.decided()
        trials |= {one.number: replace(one, status="pruned") for one in ending}
        if waiting or continuing:
            before = halved(waiting.pop(0)) if waiting else max(continuing, key=lambda one: order.index(one.number))
            values = [pair for value in before.values if (pair := value.halves) is not None]
            if len(values) == len(rungs):
                trials[before.number] = replace(before, status="complete", final=before.values[-1])
            else:
                trials[before.number] = halved(before.number, *values, (ORDER if values else first)[before.number])
        elif not ending:
            return bracket
    raise AssertionError("a bracket must come to its end")
