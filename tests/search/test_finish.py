"""What happens between the last epoch of a trial and its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import attnsearch.search.finish as module
from attnsearch.errors import OutOfMemory
from attnsearch.search.finish import evaluate_kept
from attnsearch.store.layout import TrialLayout
from tests.search.studies import loaded_study


def test_evaluation_that_runs_out_of_memory_is_a_fault_of_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(*arguments: Any, **named: Any) -> dict[str, float]:
        raise RuntimeError("CUDA error: out of memory, 7 GB wanted")

    monkeypatch.setattr(module, "collect", collect)
    unused: Any = None
    with pytest.raises(OutOfMemory, match="7 GB wanted"):
        evaluate_kept(loaded_study().experiment, unused, TrialLayout(tmp_path), unused, check=lambda: None)
