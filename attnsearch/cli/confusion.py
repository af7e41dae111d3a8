"""The command `confusion`: which classes a trial takes for which, how sure it is, what its branches say alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, print_written
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage, StudyArgument
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.results.comparison import TrialConfusion

MAX_NAMED = 10
"""Classes that are named in one line; the table has all of them."""


def confusion(
    study: StudyArgument,
    overrides: Overrides = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="By default the published one.")] = None,
    split: Annotated[Split, typer.Option("--split", help="Which images; a test evaluation is logged.")] = "val",
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Most confused pairs to print.")] = 10,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show which classes a trial confuses: most confused pairs, accuracies of classes and branches, calibration."""
    from attnsearch.results.comparison import write_confusion

    shown = write_confusion(study, trial, split, overrides=overrides or (), root=results, storage=storage)
    if as_json:
        print_confusion_json(shown, n_pairs=pairs)
    else:
        print_confusion(shown, n_pairs=pairs)


def print_confusion(shown: TrialConfusion, *, n_pairs: int) -> None:
    """Heads, most confused pairs, maps and queries where there are several, and classes that are never predicted."""
    _print_classes(shown, n_pairs)
    if shown.maps:
        rows = [(row.name, *map(number, (row.sparsity, row.gini, row.entropy, row.overlap))) for row in shown.maps]
        print_table(("map", "sparsity", "gini", "entropy", "overlap with the others"), rows)
    if shown.queries:
        closest = sorted(shown.queries, key=lambda row: -row.similarity)[:n_pairs]
        lines = [(row.name, row.most_similar, number(row.similarity)) for row in closest]
        print_table(("class", "most similar query", "cosine"), lines)
    _note_never_predicted([row.name for row in shown.report.classes if not row.n_predicted])
    print_written(*shown.files)


def _note_never_predicted(names: Sequence[str]) -> None:
    if names:
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        classes = "1 class is" if len(names) == 1 else f"{len(names)} classes are"
        print_line(f"note: {classes} never predicted: {', '.join(names[:MAX_NAMED])}{more}")


def print_confusion_json(shown: TrialConfusion, *, n_pairs: int) -> None:
    """A line for each head, most confused pair, map and query."""
    names = shown.report.class_names
    for head in shown.report.heads:
        print_json(
            {"study": shown.trial.study.layout.study, "trial": shown.trial.number, "split": shown.split, **vars(head)}
        )
    for pair in shown.report.pairs(n_pairs):
        print_json({**vars(pair), "first": names[pair.first], "second": names[pair.second]})
    for row in (*shown.maps, *shown.queries):
        print_json(vars(row))


def _print_classes(shown: TrialConfusion, n_pairs: int) -> None:
    report, names = shown.report, shown.report.class_names
    heads = [
        (row.name, *map(number, (row.top_1, row.top_5, row.mean_class_accuracy, row.calibration_error, row.confidence)))
        for row in report.heads
    ]
    title = (
        f"{shown.trial.study.layout.study}, trial {shown.trial.number}, {int(report.matrix.sum())} {shown.split} images"
    )
    columns: tuple[str, ...] = ("head", "top-1", "top-5", "balanced accuracy", "calibration error", "mean confidence")
    print_table(columns, heads, title=title)
    pairs = [
        (names[row.first], names[row.second], str(row.n_errors), str(row.first_as_second), str(row.second_as_first),
         number(row.rate))
        for row in report.pairs(n_pairs)
    ]  # fmt: skip
    columns = ("class", "and class", "errors", "first as second", "second as first", "fraction of their images")
    print_table(columns, pairs, title="most confused pairs")
