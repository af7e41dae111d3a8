"""The class map of a study: the names in the order of the labels."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from attnsearch.store.files import atomic_write, disk_errors


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
        StoreError: the file is missing.
    """
    with disk_errors(path), path.open(encoding="utf-8", newline="") as file:
        return tuple(row["class_name"] for row in csv.DictReader(file))
