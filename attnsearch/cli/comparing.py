"""What `compare` does: finds scored trials, compares them, writes tables and BR-NPA's figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Results
from attnsearch.cli.found import runs_in
from attnsearch.cli.listing import MIN_ALPHA
from attnsearch.errors import ConfigError
from attnsearch.metrics.registry import better_direction, is_raw
from attnsearch.results.full_scores import ScoringTarget, find_target
from attnsearch.store.image_scores import has_scores, read_scores

if TYPE_CHECKING:
    from attnsearch.evaluation.compare import Comparison, ScoredTrial


def compare(
    studies: Annotated[
        list[str], typer.Argument(help="Two or more: STUDY is its published trial, STUDY:7 or STUDY:1,2,3 name trials.")
    ],
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="A,B", help="By default all that were scored for all of them.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Names the files of the comparison.")] = "trials",
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Compare scored trials image by image: intervals, paired and Welch tests corrected for many, a figure."""
    found = compare_trials(studies, metrics.split(",") if metrics else (), name=name, root=results)
    print_comparison(found, as_json=as_json)


@dataclass(frozen=True)
class Compared:
    """A comparison, what a reader should know of it, and the files that hold it."""

    comparison: Comparison
    notes: tuple[str, ...]
    files: tuple[Path, ...]


def compare_trials(sources: Sequence[str], metrics: Sequence[str], *, name: str, root: Path) -> Compared:
    """Compares the trials that the sources name, and writes `compare_<name>.csv`, its pairs and a figure per metric.

    The files go to the experiment of the first source.

    Raises:
        ConfigError: an unknown source or metric, or scores that do not belong on one axis.
        StoreError: a trial is not scored, or the disk refuses.
    """
    from attnsearch.evaluation.compare import check_comparable, compare, metrics_of, write_comparison

    at_least = 2 if len(sources) == 1 else 1
    targets = [target for source in sources for target in _targets(source, root, at_least)]
    targets = list({(one.layout, one.number, one.split): one for one in targets}.values())
    entries = [_entry(target, targets) for target in targets]
    notes = check_comparable(entries)
    found = compare(entries, metrics_of(entries, metrics))
    files = write_comparison(found, entries, targets[0].layout.shared, name)
    return Compared(found, (*notes, *_raw(found), *_reliability(found)), tuple(files))


def _targets(source: str, root: Path, at_least: int) -> Iterable[ScoringTarget]:
    """`STUDY` is its published trial; `STUDY:1,2` are the trials 1 and 2, on validation; or an experiment's studies.

    Studies of an experiment that are not scored are left out, unless fewer than `at_least` remain.
    """
    study, _, numbers = source.rpartition(":")
    if not study:
        published = [layout for layout in runs_in(source, root) if layout.published_json.exists()]
        found = [find_target(str(layout.study_dir), None, root) for layout in published]
        scored = [one for one in found if has_scores(one.scores)]
        return scored if len(scored) >= at_least else found or [find_target(source, None, root)]
    if not all(part.isdecimal() for part in numbers.split(",")):
        raise ConfigError(f"trials are written STUDY:7 or STUDY:1,2,3, got {source!r}")
    return [find_target(study, int(part), root) for part in numbers.split(",")]


def _entry(target: ScoringTarget, others: Sequence[ScoringTarget]) -> ScoredTrial:
    """Named by its study, and by more where that does not tell the trials apart."""
    from attnsearch.evaluation.compare import ScoredTrial

    same_name = [one for one in others if one.layout.study == target.layout.study]
    label = target.layout.study
    if len({one.layout.experiment for one in same_name}) > 1:
        label = f"{target.layout.experiment}/{label}"
    if len(same_name) > 1 and len({one.number for one in same_name}) > 1:
        label = f"{label}:{target.number}"
    if not target.layout.trial(target.number).directory.is_dir():
        study = target.layout.study
        raise ConfigError(f"study {study!r} has no trial {target.number}; `attnsearch show {study}` lists all")
    if not has_scores(target.scores):
        trial = "" if target.is_published else f" --trial {target.number}"
        raise ConfigError(
            f"trial {target.number} of {target.layout.study!r} has no scores on {target.split}; "
            f"run `attnsearch faithfulness {target.layout.study}{trial}`"
        )
    return ScoredTrial(label, read_scores(target.scores))


def _raw(found: Comparison) -> list[str]:
    """A line if raw areas are compared, which say as much of the models as of their maps."""
    raw = [metric for metric in found.alphas if is_raw(metric)]
    if not raw:
        return []
    return [
        f"{', '.join(raw)}: raw, so a fragile model makes them small whatever its map; compare models by their gains"
    ]


def _reliability(found: Comparison) -> list[str]:
    weak = [metric for metric, alpha in found.alphas.items() if alpha < MIN_ALPHA]
    if not weak:
        return []
    return [f"images disagree on the order in {', '.join(weak)} (alpha below {MIN_ALPHA}): do not call a winner there"]


def print_comparison(found: Compared, *, as_json: bool) -> None:
    """Means with intervals, then pairs with corrected p-values, then what to know of them."""
    if as_json:
        for level in found.comparison.levels:
            print_json(asdict(level))
        for pair in found.comparison.pairs:
            print_json(asdict(pair))
        return
    levels = [
        (one.metric, better_direction(f"val/{one.metric}", "maximize"), one.name, one.grid,
         f"{one.n_images - one.n_undefined} of {one.n_images}",
         number(one.mean), f"{number(one.low)} to {number(one.high)}")
        for one in found.comparison.levels
    ]  # fmt: skip
    print_table(("metric", "direction", "trial", "grid", "images", "mean", "95 %"), levels)
    pairs = [
        (one.metric, f"{one.first} - {one.second}", str(one.n_images), number(one.difference),
         f"{number(one.low)} to {number(one.high)}", number(one.p_paired_corrected), number(one.p_welch_corrected))
        for one in found.comparison.pairs
    ]  # fmt: skip
    print_table(("metric", "pair", "images", "difference", "95 %", "p paired (Holm)", "p Welch (Holm)"), pairs)
    orders = [
        (one, number(alpha), number(found.comparison.stable[one])) for one, alpha in found.comparison.alphas.items()
    ]
    print_table(("metric", "alpha", "best stays best"), orders, title="how far the order can be trusted")
    for note in found.notes:
        print_line(f"note: {note}")
    for path in found.files:
        print_line(f"written: {path}")
