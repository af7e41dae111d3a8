"""Colours and line breaks for people at a terminal; pipes and NO_COLOR get plain text in whole lines."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from textwrap import wrap
from typing import TextIO

RED, GREEN, YELLOW, CYAN, FAINT = "31", "32", "33", "36", "2"
STATE_COLOURS = {
    **{"complete": GREEN, "finished": GREEN, "running": CYAN, "waiting": YELLOW, "paused": YELLOW, "stopped": YELLOW},
    **{"pruned": FAINT, "fail": RED, "failed": RED, "unreadable": RED},
}
_FIRST_WORD = re.compile(r"[a-z]+")
_LABEL = re.compile(r" *(?:\S+ {2,})?")


def is_terminal(file: TextIO) -> bool:
    """Whether somebody looks at it."""
    return file.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str, file: TextIO) -> str:
    """The text in a colour, where a terminal shows it and NO_COLOR is not set."""
    if not is_terminal(file) or os.environ.get("NO_COLOR"):
        return text
    return f"\033[{colour}m{text}\033[0m"


def painted_state(text: str, file: TextIO) -> str:
    """The text in the colour of the state that it begins with, as `paused, place 5 of 9` does; others as they are."""
    word = _FIRST_WORD.match(text)
    colour = STATE_COLOURS.get(word[0]) if word else None
    is_state = word is not None and text[word.end() : word.end() + 1] in ("", ",")
    return painted(text, colour, file) if colour and is_state else text


def terminal_width() -> int:
    """Columns of the terminal, 80 where nobody knows."""
    return shutil.get_terminal_size((80, 24)).columns


def fitted(text: str, file: TextIO) -> str:
    """Text whose long lines are broken between words for a terminal, below the text that follows a label.

    What has no space, such as a path, stays whole.
    """
    if not is_terminal(file):
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, terminal_width()))


def _broken(line: str, width: int) -> Iterable[str]:
    if len(line) <= width:
        return [line]
    label = _LABEL.match(line)
    indent = " " * (len(label[0]) if label and label[0].strip() else len(line) - len(line.lstrip()) + 2)
    return wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
