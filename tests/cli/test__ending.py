"""What a search says when it ends before a trial is complete."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from attnsearch.cli._ending import outcome_values, summary_lines
from attnsearch.results.reader import load_study
from attnsearch.store.urls import default_url
from tests.search.studies import build_halving

TIMES = {"seconds": 3.0, "processor_seconds": 2.0}


@pytest.mark.parametrize(("outcome", "said"), [("time_limit", "time limit"), ("interrupted", "interrupted")])
def test_search_without_a_complete_trial_says_which_one_leads(tmp_path: Path, outcome: str, said: str) -> None:
    layout = build_halving(tmp_path, (0.5, 0.75, 0.25))
    study = load_study(layout.study_dir)
    ended: Any = SimpleNamespace(outcome=outcome, plan=SimpleNamespace(url=default_url(layout)))
    first, leading, *_ = summary_lines(study, ended, TIMES)
    assert first == f"study hunt: {said}; trials: 3 paused"
    assert leading == (
        "  leading    trial 1 with val/accuracy 0.75 after 1 of 2 epochs, paused at epoch 1, rung 1, place 1 of 3; "
        "nothing is published before a trial is complete, and the same command continues the search"
    )
    values = outcome_values(study, ended, TIMES)
    assert (values["trials"], values["best"], values["published"]) == ({"paused": 3}, [], [])
    assert values["leading"]["trial"] == 1


def test_search_with_a_complete_trial_names_the_best_instead(tmp_path: Path) -> None:
    layout = build_halving(tmp_path)
    study = load_study(layout.study_dir)
    ended: Any = SimpleNamespace(outcome="interrupted", plan=SimpleNamespace(url=default_url(layout)))
    lines = summary_lines(study, ended, TIMES)
    assert lines[0] == "study hunt: interrupted; trials: 1 paused, 1 complete, 1 pruned"
    assert lines[1].startswith("  best       trial 1, epoch 2")
    assert lines[3].startswith("  accuracy  0.8")
    assert lines[4] == "  maps       not scored"
    assert outcome_values(study, ended, TIMES)["leading"] is None
