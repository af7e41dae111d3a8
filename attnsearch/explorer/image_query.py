"""Which images of an archive a page shows: filters, order and pages, from the query of a URL."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from attnsearch.errors import ConfigError
from attnsearch.explorer.archives import ImageScores, OpenArchive

PAGE = 48
"""Images of a page."""
ROLES = ("all", "query", "gallery")
VERDICTS = ("all", "right", "wrong", "misplaced")
ORDERS = ("row", "turns", "confidence", "image", "true", "predicted")


@dataclass(frozen=True)
class ImageQuery:
    """What to show of an archive.

    Attributes:
        role: one of `ROLES`, in re-identification.
        true, predicted: labels, or None for any.
        verdict: one of `VERDICTS`; "misplaced" is correct with a miss in the pointing game.
        low, high: bounds of the confidence.
        metric: a score, its bounds being `least` and `most`; "" for none.
        order: one of `ORDERS`, or the name of a score; `turns` takes one image of each class, then the next ones.
        page: from 1.
        spread: instead of a page, so many images spread evenly over those that fit; 0 for a page.
    """

    role: str = "all"
    true: int | None = None
    predicted: int | None = None
    verdict: str = "all"
    low: float = -math.inf
    high: float = math.inf
    metric: str = ""
    least: float = -math.inf
    most: float = math.inf
    order: str = "row"
    is_descending: bool = False
    page: int = 1
    spread: int = 0


def parse_query(arguments: Mapping[str, str]) -> ImageQuery:
    """Reads the query of a URL.

    Raises:
        ConfigError: a value that cannot be read.
    """
    return ImageQuery(
        role=choice_of(arguments, "role", ROLES),
        true=whole_number(arguments, "true"),
        predicted=whole_number(arguments, "predicted"),
        verdict=choice_of(arguments, "verdict", VERDICTS),
        low=_number(arguments, "low", -math.inf),
        high=_number(arguments, "high", math.inf),
        metric=arguments.get("metric", ""),
        least=_number(arguments, "least", -math.inf),
        most=_number(arguments, "most", math.inf),
        order=arguments.get("order") or "row",
        is_descending=arguments.get("down", "") == "1",
        page=max(1, whole_number(arguments, "page") or 1),
        spread=min(PAGE, whole_number(arguments, "spread") or 0),
    )


def _number(arguments: Mapping[str, str], key: str, default: float) -> float:
    text = arguments.get(key, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise ConfigError(f"{key} must be a number, got {text!r}")
    return value


def choice_of(arguments: Mapping[str, str], key: str, choices: Sequence[str]) -> str:
    """One of some words in the query of a URL; without it the first one.

    Raises:
        ConfigError: another word.
    """
    value = arguments.get(key) or choices[0]
    if value not in choices:
        raise ConfigError(f"{key} must be one of {', '.join(choices)}, got {value!r}")
    return value


def whole_number(arguments: Mapping[str, str], key: str) -> int | None:
    """A whole number in the query of a URL, or None.

    Raises:
        ConfigError: it cannot be read.
    """
    text = arguments.get(key, "")
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise ConfigError(f"{key} must be a whole number, got {text!r}")
    return int(text)


def matching_rows(opened: OpenArchive, query: ImageQuery, scores: ImageScores, hits: list[bool | None]) -> list[int]:
    """All rows of the archive that fit, in order.

    Raises:
        ConfigError: an order or a metric that does not exist.
    """
    if query.metric and query.metric not in scores.values:
        raise ConfigError(f"metric must be one of {', '.join(scores.values) or 'none'}, got {query.metric!r}")
    rows = [row for row in range(len(opened.archive.image_ids)) if _fits(opened, query, scores, hits[row], row)]
    key = _turns(opened, rows).__getitem__ if query.order == "turns" else _key(opened, query.order, scores)
    return ordered(rows, key, is_descending=query.is_descending)


def _turns(opened: OpenArchive, rows: Sequence[int]) -> dict[int, float]:
    """Row -> its place where classes come by turns, each in the order of the archive."""
    labels = opened.archive.labels.tolist()
    n_seen: Counter[int] = Counter()
    places, n_classes = {}, 1 + max(labels, default=0)
    for row in rows:
        places[row] = float(n_seen[labels[row]] * n_classes + labels[row])
        n_seen[labels[row]] += 1
    return places


def _fits(opened: OpenArchive, query: ImageQuery, scores: ImageScores, hit: bool | None, row: int) -> bool:
    archive, is_correct = opened.archive, opened.verdicts[row]
    verdicts = {"right": is_correct is True, "wrong": is_correct is False,
                "misplaced": is_correct is True and hit is False}  # fmt: skip
    if not verdicts.get(query.verdict, True) or query.role not in ("all", opened.roles[row]):
        return False
    if query.true not in (None, archive.labels[row]) or query.predicted not in (None, archive.predictions[row]):
        return False
    score = scores.values[query.metric].get(archive.image_ids[row], math.nan) if query.metric else math.nan
    return _is_within(float(archive.confidences[row]), query.low, query.high) and (
        not query.metric or _is_within(score, query.least, query.most)
    )


def _is_within(value: float, low: float, high: float) -> bool:
    """Whether a value lies within bounds; an undefined one does where there are none."""
    return low <= value <= high or (math.isinf(low) and math.isinf(high))


def _key(opened: OpenArchive, order: str, scores: ImageScores) -> Callable[[int], float | str]:
    archive = opened.archive
    keys: dict[str, Callable[[int], float | str]] = {
        "row": lambda row: row,
        "confidence": lambda row: float(archive.confidences[row]),
        "image": lambda row: archive.image_ids[row],
        "true": lambda row: archive.class_names[int(archive.labels[row])],
        "predicted": lambda row: archive.class_names[int(archive.predictions[row])],
    }
    if order in keys:
        return keys[order]
    if order not in scores.values:
        raise ConfigError(f"order must be one of {', '.join([*ORDERS, *scores.values])}, got {order!r}")
    column = scores.values[order]
    return lambda row: column.get(archive.image_ids[row], math.nan)


def rows_to_show(rows: Sequence[int], query: ImageQuery) -> tuple[list[int], int, int]:
    """The rows of one page, its number and the number of pages; or rows spread over all pages."""
    shown, page, n_pages = page_of(rows, query.page)
    if not query.spread:
        return shown, page, n_pages
    n_shown = min(query.spread, len(rows))
    return [rows[(2 * index + 1) * len(rows) // (2 * n_shown)] for index in range(n_shown)], page, n_pages


def page_of(rows: Sequence[int], page: int, *, size: int = PAGE) -> tuple[list[int], int, int]:
    """The rows of one page, its number, which is the last one's at most, and the number of pages."""
    n_pages = max(1, -(-len(rows) // size))
    page = min(page, n_pages)
    return list(rows[(page - 1) * size : page * size]), page, n_pages


def ordered(rows: list[int], key: Callable[[int], float | str], *, is_descending: bool) -> list[int]:
    """Undefined scores stand last in both directions; equal ones keep the order of the archive."""
    keys = {row: key(row) for row in rows}
    undefined = [row for row, value in keys.items() if isinstance(value, float) and math.isnan(value)]
    defined = [row for row in rows if row not in set(undefined)]
    return [*sorted(defined, key=lambda row: keys[row], reverse=is_descending), *undefined]


def neighbours(ids: Sequence[str], rows: Mapping[str, int], image_id: str) -> dict[str, str | None]:
    """The images before and after one, in the order of an archive; None at its ends."""
    row = rows.get(image_id)
    before = ids[row - 1] if row else None
    after = ids[row + 1] if row is not None and row + 1 < len(ids) else None
    return {"previous": before, "next": after}
