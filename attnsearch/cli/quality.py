"""Verbs on the quality of attention and of predictions: `faithfulness`, `confusion` and `compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage
from attnsearch.types import Split

StudyArgument = Annotated[
    str, typer.Argument(help="A study or run in the results: NAME, EXPERIMENT/NAME or its folder.")
]
TrialOption = Annotated[
    int | None, typer.Option("--trial", min=0, help="Scored on validation; by default the published one, on test.")
]


def faithfulness(
    study: StudyArgument,
    overrides: Overrides = None,
    trial: TrialOption = None,
    references: Annotated[
        str | None,
        typer.Option(
            "--references",
            metavar="A,B",
            help="Also scores random, centre, uniform, edges, parts, gradcam, gradcam_plus_plus, layercam, eigencam, "
            "rollout.",
        ),
    ] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Also compares the maps with those of randomised weights.")
    ] = False,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Score the saliency of a trial in full; evaluation.scores is set by n_images=100 n_steps=196 and so on."""
    from attnsearch.cli.faithfulness import find_target, print_scores, score_target, store_scores
    from attnsearch.cli.references import check_references, print_references, print_sanity

    names = check_references(references)
    target = find_target(study, trial, results)
    config, table = score_target(target, overrides or ())
    print_scores(target, table, store_scores(target, table, storage), as_json=as_json)
    if names:
        print_references(target, config, table, names, as_json=as_json)
    if sanity:
        print_sanity(target, config, table, as_json=as_json)


def confusion(
    study: StudyArgument,
    overrides: Overrides = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="By default the published one.")] = None,
    split: Annotated[Split, typer.Option("--split", help="Which images; a look at test is noted down.")] = "val",
    pairs: Annotated[int, typer.Option("--pairs", min=1, help="Most confused pairs to print.")] = 10,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show which classes a trial confuses: most confused pairs, accuracies of classes and branches, calibration."""
    from attnsearch.cli.confusion import analyse, print_analysis

    shown = analyse(study, trial, split, overrides=overrides or (), root=results, storage=storage)
    print_analysis(shown, n_pairs=pairs, as_json=as_json)


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
    from attnsearch.cli.comparing import compare_trials, print_comparison

    found = compare_trials(studies, metrics.split(",") if metrics else (), name=name, root=results)
    print_comparison(found, as_json=as_json)
