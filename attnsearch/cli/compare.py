"""`attnsearch compare`: scored trials image by image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Results
from attnsearch.metrics.registry import better_direction

if TYPE_CHECKING:
    from attnsearch.evaluation.compare import Comparison


def compare(
    studies: Annotated[
        list[str], typer.Argument(help="Two or more: STUDY is its published trial, STUDY:7 or STUDY:1,2,3 name trials.")
    ],
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="A,B", help="By default all that were scored for all of them.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Names the files of the comparison; by default those of its trials.")
    ] = None,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Compare scored trials image by image: intervals, paired and Welch tests corrected for many, a figure."""
    from attnsearch.results.comparison import compare_sources

    saved = compare_sources(studies, metrics.split(",") if metrics else (), name=name, root=results)
    if as_json:
        for row in (*saved.comparison.levels, *saved.comparison.pairs):
            print_json(vars(row))
        return
    print_comparison(saved.comparison)
    for note in saved.notes:
        print_line(f"note: {note}")
    for path in saved.files:
        print_line(f"written: {path}")


def print_comparison(comparison: Comparison) -> None:
    """Means with intervals, then pairs with corrected p-values, then how far images agree on the order."""
    means = [
        (one.metric, better_direction(f"val/{one.metric}", "maximize"), one.name, one.grid,
         f"{one.n_images - one.n_undefined} of {one.n_images}",
         number(one.mean), f"{number(one.low)} to {number(one.high)}")
        for one in comparison.levels
    ]  # fmt: skip
    print_table(("metric", "direction", "trial", "grid", comparison.counted, "mean", "95 %"), means)
    pairs = [
        (one.metric, f"{one.first} - {one.second}", str(one.n_images), number(one.difference),
         f"{number(one.low)} to {number(one.high)}", number(one.p_paired_corrected), number(one.p_welch_corrected))
        for one in comparison.pairs
    ]  # fmt: skip
    print_table(
        ("metric", "pair", comparison.counted, "difference", "95 %", "p paired (Holm)", "p Welch (Holm)"), pairs
    )
    orders = [
        (metric, number(comparison.alphas[metric]), number(check.same), number(check.chance), number(check.corrected))
        for metric, check in comparison.winners.items()
    ]
    columns = ("metric", "Krippendorff's alpha", "same winner on halves", "by chance", "its score on the other half")
    print_table(columns, orders, title="order of the trials")
