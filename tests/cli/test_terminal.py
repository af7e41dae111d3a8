"""What commands print on a terminal of 80 columns: nothing is cut off or wider, and states have colours."""

from __future__ import annotations

import re

import pytest

from attnsearch.cli import _console, _style
from tests.cli.conftest import FEW, STUDIES, Run

WIDE = 30
"""Letters from which on a word may be wider than its line, as paths are."""


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands believe that somebody looks at 80 columns."""
    for module in (_console, _style):
        monkeypatch.setattr(module, "is_terminal", lambda file: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def check_lines(lines: list[str]) -> None:
    """No line is wider than the terminal, unless its one word is, and none is cut off."""
    assert lines
    for line in lines:
        assert len(line) <= 80 or len(max(line.split(), key=len)) > WIDE, line
        assert "…" not in line


@pytest.mark.parametrize("words", ["list", "show loupe", "status loupe", "evaluate loupe", "confusion loupe"])
def test_every_line_fits_80_columns(words: str, run: Run) -> None:
    check_lines(run(*words.split()))


def test_scores_and_their_comparison_fit_80_columns(run: Run) -> None:
    for study in STUDIES:
        check_lines(run("faithfulness", study, *FEW))
    check_lines(run("compare", *STUDIES))


def test_errors_fit_80_columns_too(run: Run) -> None:
    check_lines(run("evaluate", "nosuch", code=2))
    check_lines(run("compare", "loupe:0,7", code=2))


def test_states_are_coloured_unless_nobody_wants_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\033[" not in "".join(run("show", "loupe"))
    monkeypatch.delenv("NO_COLOR")
    shown = "\n".join(run("show", "loupe"))
    assert "\033[32mcomplete\033[0m" in shown
    plain = re.sub(r"\033\[\d+m", "", shown).splitlines()
    check_lines(plain)
