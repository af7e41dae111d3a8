"""The command `faithfulness`: the full measure of one trial's saliency, and maps to read it beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_table
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage, StudyArgument
from attnsearch.cli._scores import print_baselines, print_scores

if TYPE_CHECKING:
    from attnsearch.evaluation.sanity import SanityStep

TrialOption = Annotated[
    int | None, typer.Option("--trial", min=0, help="Scored on validation; by default the published one, on test.")
]
BaselinesOption = Annotated[
    str | None,
    typer.Option(
        "--baselines",
        metavar="A,B",
        help="Also scores random, centre, uniform, edges, parts, occlusion, gradcam, gradcam_plus_plus, layercam, "
        "eigencam, rollout, gradient_rollout, pair.",
    ),
]


def faithfulness(
    study: StudyArgument,
    overrides: Overrides = None,
    trial: TrialOption = None,
    baselines: BaselinesOption = None,
    references: Annotated[str | None, typer.Option("--references", hidden=True)] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Also compares the maps with those of randomised weights.")
    ] = False,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Score the saliency of a trial in full; evaluation.scores is set by n_images=100 n_steps=196 and so on."""
    from attnsearch.results import full_scores

    names = [name for text in (baselines, references) if text for name in text.split(",")]
    target = full_scores.find_target(study, trial, results)
    full_scores.check_baselines(names)
    with full_scores.open_target(target, overrides or ()) as evaluation:
        table = full_scores.score_target(evaluation, target)
        print_scores(target, table, full_scores.store_scores(target, table, storage), as_json=as_json)
        if names:
            print_baselines(*full_scores.score_baseline_maps(evaluation, target, table, names), as_json=as_json)
        if sanity:
            print_sanity(evaluation.sanity(target.split, table.image_ids), as_json=as_json)


def print_sanity(steps: Sequence[SanityStep], *, as_json: bool) -> None:
    """How similar the maps of the scored images stay while the weights are randomised, from the top down."""
    if as_json:
        for step in steps:
            measured = {"similarity": step.mean, "n_undefined": step.n_undefined}
            print_json({"check": "sanity", "redrawn": ", ".join(step.parts), **measured})
        return
    cells = [(", ".join(step.parts), number(step.mean), str(step.n_undefined or "")) for step in steps]
    title = "maps while weights are randomised, each step on top of those before; 1 is an unchanged order of the cells"
    print_table(("randomised", "rank correlation", "undefined"), cells, title=title)
