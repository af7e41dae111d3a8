"""What of a study's files may go."""

from __future__ import annotations

import json
from collections.abc import Callable

from attnsearch.search.publish import FORMAT, removable
from attnsearch.search.session import Session
from attnsearch.store.files import atomic_write

Open = Callable[..., Session]


def test_files_of_a_published_trial_stay_when_a_better_one_is_not_published_yet(open_tiny: Open) -> None:
    session = open_tiny(retention={"best_k": 1})
    for accuracy in (0.5, 0.4, 0.9):
        trial = session.study.ask()
        session.study.tell(trial, accuracy)
        atomic_write(session.layout.trial(trial.number).kept, "weights")
    sets = [{"trial": 0, "epoch": 2, "folder": "."}]
    atomic_write(session.layout.published_json, json.dumps({"format": FORMAT, "sets": sets, "files": []}))
    assert [file.number for file in removable(session)] == [1]
