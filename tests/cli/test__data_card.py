"""Notes and errors of a data set, as they are printed."""

from __future__ import annotations

import pytest

from attnsearch.cli._data_card import print_problems
from attnsearch.data.listing import DataProblem


def test_notes_of_each_sort_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    few = [DataProblem("count", "a", "other numbers", is_error=False)]
    print_problems([*(DataProblem("nested", str(n), f"{n} is small", is_error=False) for n in range(5)), *few])
    assert capsys.readouterr().out.splitlines() == [
        *(f"note: {n} is small" for n in range(3)),
        "note: the same holds for 2 more images; --json lists all",
        *("note: other numbers", "every image can be used"),
    ]
