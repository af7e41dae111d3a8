"""How `data check` shows what it finds: the card or the table of identities, notes and errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.cli._console import print_line, print_table, report_error
from attnsearch.errors import MISUSED, ConfigError

if TYPE_CHECKING:
    from attnsearch.data.check import DataCheck
    from attnsearch.data.listing import DataProblem

MAX_NOTES = 3


def write_card(found: DataCheck, target: Path) -> None:
    """Writes the card of a data set of classes.

    Raises:
        ConfigError: there is none.
        StoreError: the disk refuses.
    """
    from attnsearch.data.card_page import write_card_page

    if found.card is None:
        raise ConfigError(f"--html {target}: only data sets of classes whose images can be read have a card")
    write_card_page(found.card, found.problems, target)


def print_numbers(found: DataCheck) -> None:
    """The card of classes, or the table of identities."""
    if found.card:
        print_line("\n".join(found.card.lines()))
    if counted := found.identities:
        print_table(counted.columns(), counted.rows(), title=counted.title)
        print_line("\n".join(f"{name}: {count}" for name, count in counted.counts().items()))


def print_problems(problems: Sequence[DataProblem]) -> None:
    """Notes, and on stderr every error."""
    notes: dict[str, list[str]] = {}
    for problem in problems:
        if not problem.is_error:
            notes.setdefault(problem.kind, []).append(problem.message)
    for messages in notes.values():
        for message in messages[:MAX_NOTES]:
            print_line(f"note: {message}")
        if len(messages) > MAX_NOTES:
            print_line(f"note: the same holds for {len(messages) - MAX_NOTES} more images; --json lists all")
    errors = [problem.message for problem in problems if problem.is_error]
    if errors:
        report_error("\n".join(errors), MISUSED)
    else:
        print_line("every image can be used")
