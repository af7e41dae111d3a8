"""The class map of a study: the names in the order of the labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from attnsearch.store.damage import content_errors
from attnsearch.store.files import atomic_write

_FIX = "a search or `attnsearch train` writes it again"


def write_classes(path: Path, names: Sequence[str]) -> None:
    """Writes `label,class_name`, labels from 0.

    Raises:
        StoreError: the disk refuses.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("label", "class_name"), *enumerate(names)])
    atomic_write(path, text.getvalue())


def read_classes(path: Path) -> tuple[str, ...]:
    """The names that `write_classes` wrote.

    Raises:
        StoreError: the file is missing or damaged.
    """
    with content_errors(path, _FIX), path.open(encoding="utf-8", newline="") as file:
        names = tuple(row["class_name"] for row in csv.DictReader(file))
        if None in names:
            raise ValueError(f"label {names.index(None)} has no class_name")
        return names
