"""Per-epoch records: rows of the database while a search runs, and one CSV per trial."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.files import Check, atomic_write, csv_text
from attnsearch.store.inspection import content_errors
from attnsearch.types import SPLITS, BestEpochs, EpochRecord

if TYPE_CHECKING:
    import pandas as pd

_COSTS = ("lr", "seconds", "images_per_s", "peak_memory_mb")


def epoch_rows(records: Iterable[EpochRecord]) -> list[dict[str, Any]]:
    """Records as rows `epoch`, `split`, `metric`, `value` (None = NaN, which SQLite cannot hold)."""
    return [row for record in records for row in _rows(record)]


def epochs_frame(rows: Iterable[Mapping[Any, Any]]) -> pd.DataFrame:
    """Rows of `epoch_rows`, each with its `trial`, as `TrialRecords.read_epochs` returns them; they must be sorted.

    An undefined value is as one that was not measured.
    """
    import pandas as pd

    cells: dict[tuple[int, int], dict[str, float]] = {}
    for row in rows:
        trial, epoch, value = row["trial"], row["epoch"], row["value"]
        if value is not None:
            cell = cells.setdefault((trial, epoch), {"trial": trial, "epoch": epoch})
            cell[f"{row['split']}/{row['metric']}"] = value
    columns = ["trial", "epoch", *sorted({name for cell in cells.values() for name in cell} - {"trial", "epoch"})]
    frame = pd.DataFrame(list(cells.values()), columns=columns)
    return frame.astype({name: "int64" if name in ("trial", "epoch") else "float64" for name in columns})


def epoch_cells(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of `epoch_rows` that a wide table of one trial was made of; an undefined value has none."""
    keys = [str(key) for key in frame.columns if key not in ("trial", "epoch")]
    named = [(key, *key.split("/", 1)) for key in keys]
    return [
        {"epoch": int(row["epoch"]), "split": split, "metric": metric, "value": float(row[key])}
        for row in frame.to_dict("records")
        for key, split, metric in named
        if not math.isnan(row[key])
    ]


def best_epochs_in(frame: pd.DataFrame, metrics: Sequence[str]) -> BestEpochs:
    """All epochs of a wide table, which has a column `trial`, where some metrics are defined."""
    measured = frame.reindex(columns=["trial", *metrics]).dropna()
    return BestEpochs(measured["trial"].nunique(), measured[list(metrics)].to_numpy(dtype="float64"))


def _rows(record: EpochRecord) -> list[dict[str, Any]]:
    costs = {name: getattr(record, name) for name in ("n_images", *_COSTS)}
    values = named_values(record) | costs
    where = {"epoch": record.epoch, "split": record.split}
    return [{**where, "metric": name, "value": _finite_or_null(value)} for name, value in values.items()]


def named_values(record: EpochRecord) -> dict[str, float]:
    """What a record measured, by metric name: `loss`, its terms as `loss_<term>`, and the metrics by their own names.

    Raises:
        ValueError: a metric bears a split or the name of something else.
    """
    named_twice = [name for name in (*record.metrics, *record.terms) if "/" in name]
    if named_twice:
        raise ValueError(f"metric must be named without its split, which the record has, got {named_twice[0]!r}")
    losses = {"loss": record.loss, **{f"loss_{name}": value for name, value in record.terms.items()}}
    taken = (losses.keys() | {"n_images", *_COSTS}) & record.metrics.keys()
    if taken:
        raise ValueError(f"metric must not be named {', '.join(sorted(taken))}, which the record uses itself")
    return losses | dict(record.metrics)


def _finite_or_null(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def write_csv(path: Path, records: Sequence[EpochRecord], *, check: Check | None = None) -> None:
    """Writes one row per epoch: `epoch`, `<split>_<metric>` …, `lr`, `seconds`, `images_per_s`, `peak_memory_mb`.

    Learning rate and images per second are those of training, seconds add up all splits, memory is the largest.
    Floats keep all their digits; an undefined value (NaN) is an empty cell.

    Raises:
        StoreError: the disk refuses.
    """
    by_split = sorted(records, key=lambda record: SPLITS.index(record.split))
    by_epoch = groupby(sorted(by_split, key=attrgetter("epoch")), key=attrgetter("epoch"))
    rows = [_epoch_row(list(group)) for _, group in by_epoch]
    names = dict.fromkeys(f"{record.split}_{name}" for record in by_split for name in named_values(record))
    columns = ["epoch", *names, *_COSTS]
    cells = ([_cell(row.get(name, math.nan)) for name in columns] for row in rows)
    atomic_write(path, csv_text([columns, *cells]), check=check)


def write_metrics_row(path: Path, scores: Mapping[str, float]) -> None:
    """Writes one row: the scores of one split, by metric name.

    Raises:
        StoreError: the disk refuses.
    """
    atomic_write(path, ",".join(scores) + "\n" + ",".join(map(_cell, scores.values())) + "\n")


def read_csv(path: Path) -> pd.DataFrame:
    """Reads what `write_csv` wrote, with the exact floats.

    Raises:
        StoreError: the file is missing or no such CSV.
    """
    import pandas as pd

    with content_errors(path, "delete it and resume the trial", what="is not a CSV of epochs"):
        text = pd.read_csv(path, dtype=str)  # pandas' own reading of floats may miss the last digit
        if list(text.columns[:1]) != ["epoch"]:
            raise ValueError(f"its first column must be 'epoch', got {list(text.columns[:1])}")
        return text.astype({name: "int64" if name == "epoch" else "float64" for name in text.columns})


def read_split_scores(path: Path) -> dict[str, float]:
    """Reads what `write_metrics_row` wrote; an empty cell is NaN.

    Raises:
        StoreError: the file is missing or damaged.
    """
    with content_errors(path, "publish the study again with `attnsearch search`"):
        with path.open(newline="", encoding="utf-8") as file:
            names, cells = islice(csv.reader(file), 2)
        return {name: float(cell) if cell else math.nan for name, cell in zip(names, cells, strict=True)}


def _epoch_row(group: Sequence[EpochRecord]) -> Mapping[str, float]:
    """One row from the records of one epoch, training first."""
    measured = {f"{record.split}_{name}": value for record in group for name, value in named_values(record).items()}
    return {
        "epoch": group[0].epoch,
        **measured,
        "lr": group[0].lr,
        "seconds": sum(record.seconds for record in group),
        "images_per_s": group[0].images_per_s,
        "peak_memory_mb": max(record.peak_memory_mb for record in group),
    }


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "" if math.isnan(value) else repr(float(value))
