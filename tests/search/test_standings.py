"""Where trials of a halving study stand, as readers are told."""

from __future__ import annotations

from attnsearch.search.halving import Bracket, HalvingTrial, Rung, Value
from attnsearch.search.standings import Standing, standings_of, state_of_bracket

RUNGS = (Rung(2, 2), Rung(4, 1))


def trial(number: int, *values: float, status: str = "paused") -> HalvingTrial:
    return HalvingTrial(number, 1, status, tuple(Value((value,)) for value in values))  # type: ignore[arg-type]


SEEN = (
    trial(0, 0.9, 0.95),
    trial(1, 0.1, status="pruned"),
    trial(2, 0.5, status="running"),
    trial(3, status="running"),
)


def test_paused_and_pruned_trials_have_the_place_of_their_last_rung() -> None:
    standings = standings_of([Bracket(1, 4, RUNGS, SEEN)])
    assert standings == {0: Standing(1, 2, 4, 1, 1), 1: Standing(1, 1, 2, 3, 3)}
    assert str(standings[1]) == "at epoch 2, rung 1, place 3 of 3"


def test_state_of_a_bracket_counts_who_is_in_and_who_continues() -> None:
    state = state_of_bracket(Bracket(1, 5, RUNGS, SEEN))
    assert str(state) == (
        "bracket 1: 4 of 5 started; rung 1 at epoch 2: 3 of 5 in, 2 of 2 continue; "
        "rung 2 at epoch 4: 1 of 2 in, 0 of 1 continue; 0 of 1 complete"
    )


def test_rung_whose_ranks_are_noise_says_why_all_continue() -> None:
    rungs = (Rung(2, 3, is_noise=True), Rung(4, 2))
    seen = tuple(trial(number, 0.1 * number) for number in range(3))
    assert str(state_of_bracket(Bracket(1, 3, rungs, seen)).rungs[0]) == (
        "epoch 2: 3 of 3 in, all continue, as halves of validation disagree on the ranks"
    )


def test_bracket_without_rungs_trains_all_to_the_end() -> None:
    assert str(state_of_bracket(Bracket(2, 2, (), ()))) == "bracket 2: 0 of 2 started; 0 of 2 complete"
