"""What `confusion` does: which classes a trial takes for which, how sure it is, and what its branches say alone."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli.checkpoints import best_number, kept_of
from attnsearch.cli.found import find_run
from attnsearch.config.load import with_overrides, without_variables
from attnsearch.errors import ConfigError
from attnsearch.files import atomic_write
from attnsearch.store.layout import StudyLayout, TrialLayout
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.evaluation.confusion import ConfusionReport, MapRow, QueryRow

QUERIES = "query_embed.weight"
"""INTR's class queries, in its checkpoint."""
MAX_NAMED = 10
"""Classes that are named in one line; the table has all of them."""


@dataclass(frozen=True)
class Shown:
    """An analysis, the trial that it is of, and its files."""

    layout: StudyLayout
    number: int
    split: Split
    analysis: ConfusionReport
    maps: tuple[MapRow, ...]
    queries: tuple[QueryRow, ...]
    files: tuple[Path, ...]


def analyse(
    name: str,
    trial: int | None,
    split: Split,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> Shown:
    """Classifies a split with a trial's kept checkpoint, and writes its tables into the trial's folder.

    Args:
        trial: None is the published one, or the best.
        storage: as `reader_url`.
    Raises:
        ConfigError: no such study or trial, or one without a kept checkpoint.
        DataError: the data set cannot be used or has no such split.
        StoreError: the disk refuses.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.confusion import analyse_predictions, describe_maps, similar_queries
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.models.checkpoint import read_model_checkpoint
    from attnsearch.store.archive import read_archive
    from attnsearch.store.trial_store import log_test_evaluation

    layout = find_run(name, root)
    chosen = _chosen(layout, storage) if trial is None else trial
    files = layout.trial(chosen)
    kept = read_model_checkpoint(kept_of(layout, chosen))
    config = with_overrides(without_variables(kept.config), overrides)
    data = open_data(config.data)
    data.tables.of(split)
    if split == "test":
        log_test_evaluation(layout, chosen, kept.epoch, split)
    with Evaluation.open(kept, data, config=config) as evaluation:
        found = analyse_predictions(evaluation.predict(split))
    archive = files.archive(split)
    maps = describe_maps(read_archive(archive)) if archive.images.exists() and archive.maps.exists() else ()
    queries = kept.state.get(QUERIES)
    similar = () if queries is None else similar_queries(queries, kept.class_names)
    written = _write(found, files, split)
    for path, rows in ((files.maps_csv(split), maps), (files.queries_csv(), similar)):
        if rows:
            atomic_write(
                path, _csv([list(vars(rows[0])), *([_cell(cell) for cell in vars(row).values()] for row in rows)])
            )
            written = (*written, path)
    return Shown(layout, chosen, split, found, maps, similar, written)


def _chosen(layout: StudyLayout, storage: str | None) -> int:
    from attnsearch.store.manifest import read_manifest

    manifest = read_manifest(layout)
    if manifest is not None:
        return int(manifest["sets"][0]["trial"])
    if not layout.study_yaml.exists():
        raise ConfigError(f"run {layout.study!r} has not ended; start it again, or name the trial with --trial 0")
    return best_number(layout, storage)


def _write(found: ConfusionReport, files: TrialLayout, split: Split) -> tuple[Path, ...]:
    matrix, classes = files.confusion_csv(split), files.classes_csv(split)
    head = ["true class", *found.class_names]
    rows = [[name, *map(int, row)] for name, row in zip(found.class_names, found.matrix, strict=True)]
    atomic_write(matrix, _csv([head, *rows]))
    table = [
        [row.name, row.n_images, row.n_predicted, _cell(row.accuracy), _cell(row.precision)] for row in found.classes
    ]
    atomic_write(classes, _csv([["class_name", "n_images", "n_predicted", "accuracy", "precision"], *table]))
    return matrix, classes


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _cell(value: str | int | float) -> str:
    """Floats keep all their digits; an undefined one is an empty cell."""
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return str(value)


def print_analysis(shown: Shown, *, n_pairs: int, as_json: bool) -> None:
    """Heads, most confused pairs, maps and queries where there are several, and classes that are never predicted."""
    if as_json:
        _print_json(shown, n_pairs)
        return
    _print_classes(shown, n_pairs)
    if shown.maps:
        rows = [(row.name, *map(number, (row.sparsity, row.gini, row.entropy, row.overlap))) for row in shown.maps]
        print_table(("map", "sparsity", "gini", "entropy", "overlap with the others"), rows)
    if shown.queries:
        closest = sorted(shown.queries, key=lambda row: -row.similarity)[:n_pairs]
        lines = [(row.name, row.most_similar, number(row.similarity)) for row in closest]
        print_table(("class", "most similar query", "cosine"), lines)
    never = [row.name for row in shown.analysis.classes if not row.n_predicted]
    if never:
        more = f" and {len(never) - MAX_NAMED} more" if len(never) > MAX_NAMED else ""
        classes = "1 class is" if len(never) == 1 else f"{len(never)} classes are"
        print_line(f"note: {classes} never predicted: {', '.join(never[:MAX_NAMED])}{more}")
    for path in shown.files:
        print_line(f"written: {path}")


def _print_json(shown: Shown, n_pairs: int) -> None:
    names = shown.analysis.class_names
    for head in shown.analysis.heads:
        print_json({"study": shown.layout.study, "trial": shown.number, "split": shown.split, **vars(head)})
    for pair in shown.analysis.pairs(n_pairs):
        print_json({**vars(pair), "first": names[pair.first], "second": names[pair.second]})
    for row in (*shown.maps, *shown.queries):
        print_json(vars(row))


def _print_classes(shown: Shown, n_pairs: int) -> None:
    found, names = shown.analysis, shown.analysis.class_names
    heads = [
        (one.name, *map(number, (one.top_1, one.top_5, one.mean_class_accuracy, one.calibration_error, one.confidence)))
        for one in found.heads
    ]
    title = f"{shown.layout.study}, trial {shown.number}, {int(found.matrix.sum())} {shown.split} images"
    columns: tuple[str, ...] = ("head", "top-1", "top-5", "mean of classes", "calibration error", "mean confidence")
    print_table(columns, heads, title=title)
    pairs = [
        (names[one.first], names[one.second], str(one.n_errors), str(one.first_as_second), str(one.second_as_first),
         number(one.rate))
        for one in found.pairs(n_pairs)
    ]  # fmt: skip
    columns = ("class", "and class", "errors", "first as second", "second as first", "share of their images")
    print_table(columns, pairs, title="most confused pairs")
