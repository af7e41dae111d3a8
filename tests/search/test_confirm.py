"""Winners of a search are trained again: which settings and seeds, what is said of them, and stops lose nothing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from attnsearch.config.load import LoadedStudy, load_stored_study, load_study
from attnsearch.config.study import Confirm
from attnsearch.errors import ConfigError
from attnsearch.results.reader import load_study as read_study
from attnsearch.results.selection import confirmation_lines
from attnsearch.results.study import StudyReader
from attnsearch.search.confirm import asked_or_begun, compare_repeats, confirm_study, linked_study, run_and_confirm
from attnsearch.search.run import SearchOutcome, run_study
from attnsearch.search.study import derive_seed
from attnsearch.search.trials import TrialRow
from attnsearch.store.evaluation_log import read_test_evaluations
from attnsearch.store.study_files import Confirmation
from tests.conftest import TINY
from tests.documents import ROOT
from tests.search.faults import wait_for
from tests.search.studies import loaded_study

METRICS = ("val/accuracy", "val/relevance_gain")


def row(number: int, accuracy: float, gain: float, **changed: Any) -> TrialRow:
    cells: dict[str, Any] = {"state": "complete", "params": {}, "best_epoch": 1, "epochs_run": 1, "seconds": 1.0}
    cells |= {"images_per_s": 1.0, "is_feasible": True, "error": None, "started": None, "ended": None}
    metrics = dict(zip(METRICS, (accuracy, gain), strict=True))
    return TrialRow(number=number, values=(accuracy,), metrics=metrics, **cells | changed)


def repeats(values: dict[int, Sequence[tuple[float, float]]]) -> list[TrialRow]:
    """Repetitions by the trial that they are of."""
    pairs = [(of_trial, repeat, *pair) for of_trial, pairs in values.items() for repeat, pair in enumerate(pairs)]
    return [
        row(number, accuracy, gain, params={"of_trial": of_trial, "repeat": repeat})
        for number, (of_trial, repeat, accuracy, gain) in enumerate(pairs)
    ]


def linked(*numbers: int, n_seeds: int) -> LoadedStudy:
    sampler = {"name": "repeat", "trials": list(numbers), "settings": [{}] * len(numbers)}
    return loaded_study(name="hunt_confirm", space={}, sampler=sampler, n_trials=n_seeds * len(numbers))


def verdicts(found: Confirmation) -> dict[str, tuple[int, str]]:
    return {one.metric: (one.winner, one.verdict) for one in found.metrics}


def test_verdicts_are_of_the_trial_that_the_search_had_as_the_best_in_each_metric() -> None:
    searched = [row(3, 0.9, 0.2), row(7, 0.8, 0.5), row(1, 0.7, 0.4)]
    trained = repeats({
        3: [(0.90, 0.20), (0.91, 0.21), (0.89, 0.19)],
        7: [(0.80, 0.50), (0.81, 0.52), (0.79, 0.48)],
        1: [(0.70, 0.50), (0.71, 0.48), (0.69, 0.49)],
    })  # fmt: skip
    found = compare_repeats(linked(3, 7, 1, n_seeds=3).study, searched, trained)
    assert verdicts(found) == {"val/accuracy": (3, "separated"), "val/relevance_gain": (7, "not separated")}
    accuracy, gain = confirmation_lines(found)
    assert accuracy.startswith(
        "with 3 fresh seeds, trial 3 is separated from all others in val/accuracy: trial 3 has 0.9 (0.8859 to 0.9141); "
    )
    assert "trial 7 is not separated from 1 in val/relevance_gain: trial 7 has 0.5 (" in gain
    assert [trial.trial for trial in found.metrics[1].trials] == [7, 1, 3]


def test_winner_by_the_one_objective_is_the_trial_that_the_search_chose() -> None:
    """Of two that a race could not separate it may choose the one whose score is lower."""
    searched = [row(4, 0.79, 0.5), row(2, 0.8, 0.4)]
    trained = repeats({4: [(0.8, 0.5), (0.81, 0.5)], 2: [(0.8, 0.4), (0.79, 0.4)]})
    found = compare_repeats(linked(4, 2, n_seeds=2).study, searched, trained)
    assert [(one.winner, [trial.trial for trial in one.trials]) for one in found.metrics] == [(4, [4, 2]), (4, [4, 2])]


def test_another_trial_ahead_is_no_confirmation() -> None:
    searched = [row(0, 0.9, 0.5), row(1, 0.8, 0.4)]
    trained = repeats({0: [(0.8, 0.5), (0.81, 0.51)], 1: [(0.82, 0.1), (0.83, 0.11)]})
    found = compare_repeats(linked(0, 1, n_seeds=2).study, searched, trained)
    assert verdicts(found) == {"val/accuracy": (0, "not confirmed"), "val/relevance_gain": (0, "separated")}
    assert "trial 0 is not confirmed, 1 ahead in val/accuracy" in confirmation_lines(found)[0]


def test_repetitions_that_failed_are_missing_and_few_seeds_separate_nothing() -> None:
    searched = [row(0, 0.9, 0.5), row(1, 0.1, 0.4)]
    trained = repeats({0: [(0.9, 0.5), (0.9, 0.5)], 1: [(0.1, 0.4), (0.1, 0.4)]})
    trained = [trained[0], *(replace(one, state="fail", metrics={}) for one in trained[1:])]
    found = compare_repeats(linked(0, 1, n_seeds=2).study, searched, trained)
    assert verdicts(found)["val/accuracy"] == (0, "not separated")
    assert [trial.n_seeds for trial in found.metrics[0].trials] == [1, 0]
    assert confirmation_lines(found)[0].endswith("trial 0 has 0.9, 1 of 2 seeds; trial 1 failed")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a search of three trials."""
    root = tmp_path_factory.mktemp("searched") / "results"
    run(root)(load_study("br_npa_low_res", profile="demo", overrides=[*TINY, "n_trials=3"]))
    return root


def run(root: Path, **settings: Any) -> Callable[[LoadedStudy], SearchOutcome]:
    return partial(run_study, root=root, n_workers=0, **settings)


def confirmed(
    root: Path, *, seeds: int = 2, name: str | None = None, **settings: Any
) -> tuple[StudyReader, SearchOutcome]:
    reader = read_study(root / "demo/br_npa_low_res")
    source = load_stored_study(reader.layout.study_yaml)
    asked = asked_or_begun(source.study, reader.layout, name, top=2, seeds=seeds)
    return reader, confirm_study(source, reader.layout, asked, run(root, **settings), name=name)


@pytest.mark.slow
def test_best_trials_are_trained_again_with_other_seeds(searched: Path) -> None:
    reader, ended = confirmed(searched)
    best = sorted(reader.rows.trials, key=lambda trial: (-trial.values[0], trial.number))[:2]
    again = read_study(searched / "demo/br_npa_low_res_confirm")
    assert [(trial.params["of_trial"], trial.params["repeat"]) for trial in again.rows.trials] == [
        (best[place].number, repeat) for repeat in range(2) for place in range(2)
    ]
    seed = reader.settings.seed
    for trial in again.rows.trials:
        source, own = reader.trial(int(trial.params["of_trial"])).config, again.trial(trial.number).config
        assert own.seed == derive_seed(
            seed, "br_npa_low_res_confirm", int(trial.params["of_trial"]), int(trial.params["repeat"])
        )
        assert own.seed != source.seed
        ignored = {"seed": 0, "name": "x"}
        assert own.model_copy(update=ignored) == source.model_copy(update=ignored)
    assert ended.published is None
    assert read_test_evaluations(again.layout) == []  # nothing is chosen, so nothing is evaluated on test
    found = reader.confirmation
    assert found is not None
    assert (found.study, found.n_seeds) == ("br_npa_low_res_confirm", 2)
    assert [trial.n_seeds for trial in found.metrics[0].trials] == [2, 2]
    assert found.metrics[0].winner == best[0].number
    table = list(csv.DictReader(reader.layout.confirmation_json.with_suffix(".csv").read_text().splitlines()))
    assert [int(line["trial"]) for line in table if line["metric"] == "val/accuracy"] == [one.number for one in best]
    assert any(line.startswith("with 2 fresh seeds, trial") for line in reader.selection().lines)


def copied(root: Path, target: Path) -> Path:
    """A copy by another process: to close a file of SQLite's here would drop the locks that this process holds."""
    subprocess.run(["cp", "-r", str(root), str(target / "results")], check=True)
    return target / "results"


def values_of(root: Path, name: str) -> dict[tuple[int, int], tuple[float, ...]]:
    """(trial, repetition) -> objectives."""
    rows = read_study(root / "demo" / name).rows.trials
    return {(int(row.params["of_trial"]), int(row.params["repeat"])): row.values for row in rows}


@pytest.mark.slow
def test_a_stopped_confirmation_continues_and_ends_alike(searched: Path, tmp_path: Path) -> None:
    copy = copied(searched, tmp_path)
    confirmed(copy, name="again")
    asked = iter([False] * 3)
    _, stopped = confirmed(searched, name="again", should_stop=lambda: next(asked, True))
    assert stopped.outcome == "interrupted"
    reader, ended = confirmed(searched, name="again")
    assert ended.outcome == "finished"
    again = values_of(searched, "again")
    assert len(again) == 4
    assert again == values_of(copy, "again")
    assert reader.confirmation is not None
    assert reader.confirmation.study == "again"


@pytest.mark.slow
def test_a_killed_confirmation_continues_and_ends_alike(searched: Path, tmp_path: Path) -> None:
    copy = copied(searched, tmp_path)
    confirmed(copy, name="killed")
    words = ["confirm", "br_npa_low_res", "--top", "2", "--seeds", "2", "--workers", "1", "--name", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "attnsearch", *words, "--results", str(searched)]
    with subprocess.Popen(command, env=environment) as process:
        wait_for(lambda: (searched / "demo/killed/trials/00001/log.txt").exists() or None)
        process.kill()
    _, ended = confirmed(searched, name="killed")
    assert ended.outcome == "finished"
    killed = values_of(searched, "killed")
    assert len(killed) == 4
    assert killed == values_of(copy, "killed")


@pytest.mark.slow
def test_more_seeds_are_added_and_other_trials_refused(searched: Path) -> None:
    reader, _ = confirmed(searched, seeds=3)
    assert reader.confirmation is not None
    assert reader.confirmation.n_seeds == 3
    source = load_stored_study(reader.layout.study_yaml)
    assert asked_or_begun(source.study, reader.layout, None, top=None, seeds=None) == Confirm(top=2, seeds=3)
    with pytest.raises(
        ConfigError, match=r"holds repetitions of \d, \d, and the best trials are .* choose another --name"
    ):
        confirm_study(source, reader.layout, Confirm(top=3, seeds=2), run(searched))


@pytest.mark.slow
def test_a_study_confirms_itself_where_it_says_so(tmp_path: Path) -> None:
    overrides = [*TINY, "n_trials=2", "train.epochs=1", "confirm={top: 2, seeds: 2}"]
    ended = run_and_confirm(
        load_study("br_npa_low_res", profile="demo", overrides=overrides), root=tmp_path, n_workers=0
    )
    assert ended.plan.study.name == "br_npa_low_res"
    assert ended.published is not None
    assert read_study(ended.plan.layout.study_dir).confirmation is not None


def test_one_trial_cannot_be_confirmed(open_tiny: Callable[..., Any]) -> None:
    handle = open_tiny(n_trials=1)
    handle.study.tell(handle.study.ask(), 0.5)
    with pytest.raises(ConfigError, match="two complete trials at least, got 1"):
        confirm_study(handle.loaded, handle.layout, Confirm(), lambda loaded: pytest.fail("it must not run"))


def test_repetitions_are_a_study_that_samples_nothing(open_tiny: Callable[..., Any]) -> None:
    handle = open_tiny(n_trials=2, pruner={"name": "median"}, confirm={"top": 2, "seeds": 3})
    for value in (0.5, 0.6):
        handle.study.tell(handle.study.ask(), value)
    study = linked_study(handle.loaded, handle.trials(), n_seeds=3, name="again").study
    assert (study.n_trials, dict(study.space), study.pruner, study.confirm) == (6, {}, None, None)
    assert study.repeats is not None
    assert study.repeats.trials == (0, 1)


def test_repeat_takes_no_space() -> None:
    with pytest.raises(ConfigError, match="sampler repeat trains listed settings in full"):
        loaded_study(sampler={"name": "repeat", "trials": [0], "settings": [{}]}, n_trials=2)
