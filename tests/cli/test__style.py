"""Colours and line breaks on a terminal alone."""

from __future__ import annotations

import io

import pytest

from attnsearch.cli import _style
from attnsearch.cli._style import RED, fitted, painted, painted_state


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")


def test_only_a_terminal_that_wants_colours_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert painted("x", RED, Terminal()) == "\033[31mx\033[0m"
    assert painted("x", RED, io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert painted("x", RED, Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert painted("x", RED, Terminal()) == "x"


def test_states_have_colours_and_names_that_begin_like_them_have_none() -> None:
    assert painted_state("paused, place 5 of 9", Terminal()).startswith("\033[33m")
    assert painted_state("fail", Terminal()) == "\033[31mfail\033[0m"
    assert painted_state("failures", Terminal()) == "failures"
    assert painted_state("complete_birds", Terminal()) == "complete_birds"


def test_long_lines_break_between_words_below_their_text() -> None:
    text = "  selected   trials 0, 1, 2 and 3 are not surely beaten on 48 images"
    lines = fitted(text, Terminal()).split("\n")
    assert max(map(len, lines)) <= 40
    assert all(line.startswith(" " * 13) for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert fitted(text, io.StringIO()) == text


def test_paths_stay_whole() -> None:
    path = "/a" * 40
    assert path in fitted(f"  picture    {path}", Terminal()).split("\n")[-1]
    assert _style.terminal_width() == 40
