"""Tables as text: as wide as they need to be, or in parts that fit a terminal, so that nothing is cut off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from textwrap import wrap

GAP = 2


def table_lines(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
    width: int | None = None,
    paint: Callable[[str], str] = str,
) -> Iterator[str]:
    """The lines of a table.

    Args:
        width: cells of the terminal; None is any number. A table that is wider becomes several, each of which begins
            with the first column.
        paint: what a cell becomes when its place is known.
    """
    yield from [] if title is None else [title] if width is None else wrap(title, width)
    texts = [columns, *rows]
    parts = [list(range(len(columns)))] if width is None else _parts(_widths(texts), width)
    for part in parts:
        yield from _part_lines([[row[index] for index in part] for row in texts], width, paint)
    yield ""


def _parts(widths: Sequence[int], width: int) -> list[list[int]]:
    """Columns that fit beside the first one, in order."""
    parts, used = [[0]], widths[0]
    for index, own in enumerate(widths[1:], start=1):
        if len(parts[-1]) > 1 and used + GAP + own > width - 2:
            parts.append([0])
            used = widths[0]
        parts[-1].append(index)
        used += GAP + own
    return parts


def _part_lines(texts: Sequence[Sequence[str]], width: int | None, paint: Callable[[str], str]) -> Iterator[str]:
    """The lines of a table, in which cells that are still too wide are broken."""
    widths = _widths(texts)
    if width is not None and (over := sum(widths) + GAP * (len(widths) - 1) - (width - 2)) > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(8, widths[widest] - over)
    heads, *body = [_cell_lines(row, widths) for row in texts]
    yield ""
    yield from (_joined(line, widths, str) for line in heads)
    yield f" {'─' * (sum(widths) + GAP * len(widths) - 1)}"[:width]
    yield from (_joined(line, widths, paint) for row in body for line in row)


def _cell_lines(row: Sequence[str], widths: Sequence[int]) -> list[tuple[str, ...]]:
    """The lines of a row."""
    cells = [[text] if _width(text) <= space else wrap(text, space) for text, space in zip(row, widths, strict=True)]
    return list(zip_longest(*cells, fillvalue=""))


def _joined(cells: Sequence[str], widths: Sequence[int], paint: Callable[[str], str]) -> str:
    spaces = [" " * (space - _width(text) + GAP) for text, space in zip(cells, widths, strict=True)]
    return f"  {''.join(f'{paint(text)}{space}' for text, space in zip(cells, spaces, strict=True))}".rstrip()


def _widths(texts: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(_width, column)) for column in zip(*texts, strict=True)]


def _width(text: str) -> int:
    """The cells of a terminal that a text takes."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
