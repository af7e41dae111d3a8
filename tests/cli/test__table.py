"""Tables: as wide as they need to be in a pipe, in parts on a terminal, and never cut off."""

from __future__ import annotations

from attnsearch.cli._table import table_lines

COLUMNS = ("trial", "state", *(f"hyperparameter_{index}" for index in range(8)))
ROWS = [[str(row), "complete", *(f"{row}.{index}" for index in range(8))] for row in range(3)]


def test_a_pipe_gets_one_line_for_each_row() -> None:
    lines = list(table_lines(COLUMNS, ROWS, title="all"))
    assert lines[0] == "all"
    assert [line.split() for line in lines[4:7]] == ROWS
    assert lines[-1] == ""


def test_a_terminal_gets_parts_that_fit_with_the_first_column_in_each() -> None:
    lines = list(table_lines(COLUMNS, ROWS, width=80))
    assert max(map(len, lines)) <= 80
    heads = [line.split() for line in lines if line.startswith("  trial")]
    assert len(heads) > 1
    assert [name for head in heads for name in head[1:]] == list(COLUMNS[1:])
    assert sum(line.split()[0] == "1" for line in lines if line.strip()[:1] == "1") == len(heads)


def test_names_that_are_wider_than_the_terminal_are_broken_and_not_cut() -> None:
    name = "a" * 100
    lines = list(table_lines(("trial", "value"), [[name, "1"]], width=40))
    assert max(map(len, lines)) <= 40
    assert "".join(line.split()[0] for line in lines if "a" in line and "trial" not in line) == name


def test_cells_are_painted_after_they_are_placed() -> None:
    plain = list(table_lines(COLUMNS[:3], [row[:3] for row in ROWS], width=80))
    painted = list(table_lines(COLUMNS[:3], [row[:3] for row in ROWS], width=80, paint=lambda text: f"<{text}>"))
    assert [line.replace("<", "").replace(">", "") for line in painted] == plain


def test_wide_characters_take_two_cells() -> None:
    lines = list(table_lines(("class", "n"), [["鸟类", "1"], ["bird", "2"]]))
    assert lines[3].index("1") == lines[4].index("2") - 2
