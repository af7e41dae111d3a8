"""The command `leakage`: whether a trial's features stay where their part is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, print_written
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, StudyArgument

if TYPE_CHECKING:
    from attnsearch.evaluation.locality import Leakage

N_IMAGES = 320
TrialOption = Annotated[
    int | None, typer.Option("--trial", min=0, help="Measured on validation; by default the published one, on test.")
]


def leakage(
    study: StudyArgument,
    overrides: Overrides = None,
    trial: TrialOption = None,
    images: Annotated[
        int, typer.Option("--images", min=25, help="Images of the split that are drawn again.")
    ] = N_IMAGES,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Test whether features at one part of a synthetic bird tell what another part looks like."""
    from attnsearch.results.full_scores import find_target
    from attnsearch.results.leakage import COLUMNS, leakage_rows, measure_target

    target = find_target(study, trial, results)
    measured, path = measure_target(target, overrides or (), n_images=images)
    if as_json:
        for row in leakage_rows(measured):
            print_json(dict(zip(COLUMNS, row, strict=True)))
        return
    print_leakage(measured, title=f"{target.layout.study}, trial {target.number}, {target.split} images")
    print_written(path)


def print_leakage(measured: Leakage, *, title: str) -> None:
    """The skills of the trained model, then summaries beside those of random weights, then its decisions."""
    trained, floor, decisions = measured.trained, measured.untrained, measured.decisions
    rows = [(part, *map(number, skills)) for part, skills in zip(trained.parts, trained.skills.tolist(), strict=True)]
    print_table(
        ("part", *(f"at {part}" for part in trained.parts)),
        rows,
        title=f"{title}: skill of a linear probe, 0 is chance",
    )
    summaries = [
        (name, number(getattr(trained, name)), number(getattr(floor, name))) for name in ("own", "leak", "locality")
    ]
    print_table(("score", "trained", "untrained"), summaries, title="locality is 1 - leak / own")
    print_line(
        f"decisions kept on the cells with 80 % of the map alone: {number(decisions.by_map)}, on as many random cells: "
        f"{number(decisions.by_random)} ({number(decisions.fraction_of_cells)} of the cells)"
    )
