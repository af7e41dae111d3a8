"""Some images of a data set, for trials that are only measured."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from attnsearch.config.data import DataConfig
from attnsearch.data.built_folders import CACHE_VARIABLE
from attnsearch.data.cache import is_cached
from attnsearch.data.fixed_rows import fixed_subset
from attnsearch.data.loader import DataSource, open_data
from attnsearch.data.tables import DataTables, ImageTable


@dataclass(frozen=True)
class Counts:
    """Images of each split, at most.

    Attributes:
        identities: of train, at least, where it holds identities: a batch needs some.
    """

    train: int
    val: int
    test: int
    identities: int = 2


def cut_tables(tables: DataTables, counts: Counts) -> DataTables:
    """The same classes with fewer images of each; of train, where it holds identities, some of them whole.

    The hash of the validation images stays, so that a teacher knows the data set again.
    """
    train = _fewer(tables.train, counts.train)
    if tables.train.match_rule is not None:
        train = _first_identities(tables.train, counts)
    test = None if tables.test is None else _fewer(tables.test, counts.test)
    return replace(tables, train=train, val=_fewer(tables.val, counts.val), test=test)


def _first_identities(table: ImageTable, counts: Counts) -> ImageTable:
    """Whole identities; rows are sorted by them."""
    last = int(table.labels[min(counts.train, len(table)) - 1])
    n_classes = min(len(table.class_names), max(counts.identities, last + 1))
    taken = table.take(np.flatnonzero(table.labels < n_classes))
    return replace(taken, class_names=table.class_names[:n_classes])


def _fewer(table: ImageTable, n_images: int) -> ImageTable:
    return table if n_images >= len(table) else table.take(fixed_subset(table, max(1, n_images)))


def open_some(cfg: DataConfig, tables: DataTables, counts: Counts, *, cache: Path) -> DataSource:
    """The data set where its images are decoded, else so many of them, which are decoded now.

    From here on this process builds caches in a folder of its own.

    Raises:
        DataError, StoreError: as `open_data`.
    """
    if not is_cached(tables, cfg.cached):
        os.environ[CACHE_VARIABLE] = str(cache)
        tables = cut_tables(tables, counts)
    source = open_data(cfg, tables=tables)
    os.environ[CACHE_VARIABLE] = str(cache)
    return source
