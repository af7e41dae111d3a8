"""What a shell offers when Tab is pressed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from attnsearch.cli import _completion
from tests.documents import ROOT


def test_studies_configs_and_profiles_are_offered_by_their_beginning() -> None:
    assert _completion.shipped_studies("first") == ["first_search"]
    assert _completion.shipped_configs("loupe_b") == ["loupe_baseline"]
    assert _completion.profiles("") == ["demo", "photos"]
    assert _completion.settings("train.optimizer.l") == ["train.optimizer.lr="]
    assert _completion.settings("n_tri") == ["n_trials="]


def test_studies_of_the_results_are_offered(finished_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_completion, "RESULTS_FOLDER", finished_run)
    assert _completion.stored_studies("br") == ["br_npa_low_res"]
    assert _completion.stored_studies("demo/") == ["demo/br_npa_low_res"]
    monkeypatch.setattr(_completion, "RESULTS_FOLDER", finished_run / "nothing")
    assert _completion.stored_studies("") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("sea", "search"),
        ("search first", "first_search"),
        ("search cnn train.ep", "train.epochs="),
        ("train cn", "cnn"),
    ],
)
def test_a_shell_gets_one_answer_and_torch_is_not_imported(line: str, offered: str, tmp_path: Path) -> None:
    words = ["attnsearch", *line.split()]
    asked = {
        "COMP_WORDS": " ".join(words),
        "COMP_CWORD": str(len(words) - 1),
        "_ATTNSEARCH_COMPLETE": "complete_bash",
        "PYTHONPATH": str(ROOT),
    }
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr))\n"
    code += "from attnsearch.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split()[:1] == [offered]
    assert done.stderr.split() == ["False"]
