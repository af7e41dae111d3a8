"""Rows of a split that are the same for every trial: stratified by class, in an order that hashes of the ids decide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from attnsearch.data.hold_out import hash_text
from attnsearch.data.tables import ImageTable


def fixed_subset(table: ImageTable, n_images: int | None) -> NDArray[np.int64]:
    """The rows of a split whose maps are kept, ascending: the same for every trial, and stratified by class.

    Within a class, images are ordered by a hash of their ids; each class gives its fraction. In re-identification,
    queries come in this order, each followed by a match of it, and then the others. More images always include the
    fewer.

    Args:
        n_images: how many; None or more than there are means all.
    """
    if n_images is None or n_images >= len(table):
        return np.arange(len(table), dtype=np.int64)
    rows = np.arange(len(table), dtype=np.int64)
    if table.is_query is None:
        order = _stratified(table, rows)
    else:
        pairs = islice(_with_matches(table, fixed_queries(table, None)), 2 * n_images)
        order = list(dict.fromkeys([*pairs, *_stratified(table, rows[~table.is_query])]))
    return np.sort(np.array(order[:n_images], dtype=np.int64))


def fixed_queries(table: ImageTable, n_queries: int | None) -> list[int]:
    """The rows of queries that have a match, in an order that is stratified by identity; the first n of them.

    Raises:
        UsageError: a split of classes.
    """
    keys, labels = table.removal_keys.tolist(), table.labels.tolist()
    assert table.is_query is not None
    seen_with = {label: {keys[row] for row in rows} for label, rows in _gallery_rows(table).items()}
    queries = [
        row for row in np.flatnonzero(table.is_query).tolist() if seen_with.get(labels[row], set()) - {keys[row]}
    ]
    return _stratified(table, queries)[:n_queries]


def spread_rows(table: ImageTable, n_images: int) -> list[int]:
    """A few rows of a split, the same for every trial, in the order of their classes; queries in re-identification.

    Each is of another class while there are classes, of many those that lie evenly between the first and the last.
    """
    if table.is_query is not None:
        return sorted(fixed_queries(table, n_images))
    of_class: dict[int, list[int]] = defaultdict(list)
    for row in _stratified(table, np.arange(len(table))):
        of_class[int(table.labels[row])].append(row)
    if len(of_class) >= n_images:
        chosen = np.linspace(0, len(of_class) - 1, n_images).round().astype(int)
        return [of_class[sorted(of_class)[place]][0] for place in chosen]
    in_turns = [row for turn in zip_longest(*of_class.values()) for row in turn if row is not None]
    return sorted(in_turns[:n_images], key=lambda row: (int(table.labels[row]), row))


def fixed_halves(table: ImageTable) -> NDArray[np.int64]:
    """(N,) the half of a split that each image is of, 0 or 1, stratified by class: the same for every trial.

    In re-identification halves are of the queries that have a match; -1 for every other image.
    """
    rows = np.arange(len(table), dtype=np.int64)
    order = _stratified(table, rows) if table.is_query is None else fixed_queries(table, None)
    halves = np.full(len(table), -1, dtype=np.int64)
    for half in range(2):
        halves[order[half::2]] = half
    return halves


def explained_rows(table: ImageTable, kept: NDArray[np.int64]) -> list[int]:
    """Of rows (n,) whose maps are kept, those that can be scored: all, or queries in the order of `fixed_queries`."""
    if table.is_query is None:
        return [int(row) for row in kept]
    is_kept = np.isin(np.arange(len(table)), kept)
    return [row for row in fixed_queries(table, None) if is_kept[row]]


def _with_matches(table: ImageTable, queries: Iterable[int]) -> Iterator[int]:
    """The row of each query, followed by that of a match of it, the first by a hash of both ids."""
    keys, labels, gallery = table.removal_keys.tolist(), table.labels.tolist(), _gallery_rows(table)
    for query in queries:
        matches = [row for row in gallery[labels[query]] if keys[row] != keys[query]]
        yield query
        yield min(matches, key=lambda row: hash_text(f"{table.image_ids[query]}\n{table.image_ids[row]}"))


def _gallery_rows(table: ImageTable) -> dict[int, list[int]]:
    """Identity -> rows of its gallery images."""
    rows: dict[int, list[int]] = defaultdict(list)
    assert table.is_query is not None
    for row in np.flatnonzero(~table.is_query).tolist():
        rows[int(table.labels[row])].append(row)
    return rows


def _stratified(table: ImageTable, rows: Sequence[int] | NDArray[np.int64]) -> list[int]:
    """Some rows in an order of which every beginning has about the same fraction of each class."""
    of_class: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        of_class[int(table.labels[row])].append((hash_text(table.image_ids[row]), int(row)))
    order = [
        ((rank + 0.5) / len(members), digest, row)
        for members in of_class.values()
        for rank, (digest, row) in enumerate(sorted(members))
    ]
    return [row for _, _, row in sorted(order)]
