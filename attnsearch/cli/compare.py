"""`attnsearch compare`: scored trials image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, print_written
from attnsearch.cli._options import RESULTS, AsJson, Results, Sources
from attnsearch.metrics.registry import better_direction

if TYPE_CHECKING:
    from attnsearch.evaluation.compare import Comparison, MetricMean, PairedDifference


def compare(
    studies: Sources,
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
    print_written(*saved.files)


def print_comparison(comparison: Comparison) -> None:
    """Means with intervals, then pairs with corrected p-values, then how far images agree on the order.

    Trials have letters, so that a line holds them under names of any length.
    """
    names = list(dict.fromkeys(one.name for one in comparison.levels))
    letters = dict(zip(names, letters_of(len(names)), strict=True))
    for name in names:
        print_line(f"{letters[name]} = {_with_grid(name, comparison)}")
    print_table(("metric", *letters.values()), _mean_rows(comparison, names), title="mean and 95 % interval")
    pairs = [
        (one.metric, f"{letters[one.first]} - {letters[one.second]}", _with_interval(one.difference, one),
         number(one.p_paired_corrected), number(one.p_welch_corrected))
        for one in comparison.pairs
    ]  # fmt: skip
    columns: tuple[str, ...] = ("metric", "pair", "difference", "p paired", "p Welch")
    print_table(
        columns,
        pairs,
        title=f"differences with 95 % intervals on the {comparison.counted} that both have; p by Holm's correction",
    )
    orders = [
        (metric, number(comparison.alphas[metric]), number(check.same), number(check.chance), number(check.corrected))
        for metric, check in comparison.winners.items()
    ]
    columns = ("metric", "alpha", "same winner", "by chance", "its other half")
    title = "order of the trials: Krippendorff's alpha; the winner of random halves, and its score on the other half"
    print_table(columns, orders, title=title)


def letters_of(n_names: int) -> list[str]:
    """A, B, .. Z, AA, AB and so on."""
    return [f"{chr(64 + i // 26) if i >= 26 else ''}{chr(65 + i % 26)}" for i in range(n_names)]


def _with_grid(name: str, comparison: Comparison) -> str:
    """The trial, with the grid of its maps and how many images it was scored on."""
    of_name = [one for one in comparison.levels if one.name == name]
    grids = ", ".join(dict.fromkeys(f"maps {one.grid}" for one in of_name if one.grid))
    return ", ".join(filter(None, (name, grids, f"{max(one.n_images for one in of_name)} {comparison.counted}")))


def _mean_rows(comparison: Comparison, names: Sequence[str]) -> list[tuple[str, ...]]:
    """A row for each metric, with an arrow in the better direction, and a cell for each trial that has it."""
    cells = {(one.metric, one.name): _mean(one) for one in comparison.levels}
    metrics = dict.fromkeys(one.metric for one in comparison.levels)
    return [(_with_arrow(metric), *(cells.get((metric, name), "-") for name in names)) for metric in metrics]


def _mean(one: MetricMean) -> str:
    defined = f" ({one.n_images - one.n_undefined} of {one.n_images})" if one.n_undefined else ""
    return f"{_with_interval(one.mean, one)}{defined}"


def _with_interval(value: float, one: MetricMean | PairedDifference) -> str:
    """The value and half of its symmetric interval."""
    return f"{number(value)} ± {(one.high - one.low) / 2:.2g}"


def _with_arrow(metric: str) -> str:
    return f"{metric} {'↑' if better_direction(f'val/{metric}', 'maximize') == 'maximize' else '↓'}"
