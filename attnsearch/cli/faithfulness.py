"""The command `faithfulness`: the full measure of one trial's saliency, and maps to read it beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage, StudyArgument
from attnsearch.metrics.registry import higher_is_better

if TYPE_CHECKING:
    from attnsearch.evaluation.sanity import SanityStep
    from attnsearch.results.full_scores import ScoringTarget
    from attnsearch.store.image_scores import ScoreTable

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


def print_scores(target: ScoringTarget, table: ScoreTable, files: Sequence[str], *, as_json: bool) -> None:
    """The means with their settings, also apart for right and wrong answers; undefined values are counted."""
    from attnsearch.results.full_scores import is_right_answer, score_notes

    means, undefined, is_right = table.means(), table.n_undefined(), is_right_answer(target, table)
    apart = {"right": table.means_among(is_right), "wrong": table.means_among(~is_right)}
    n_right = int(is_right.sum())
    about = {key: table.about[key] for key in ("version", "settings", "grid", "checkpoint")}
    if as_json:
        shared = {"study": target.layout.study, "trial": target.number, "split": target.split}
        counts = {"n_images": len(table.image_ids), "scores": means, "n_undefined": undefined}
        answers = {"n_right": n_right, **{f"scores_{answer}": values for answer, values in apart.items()}}
        beside = {"floors": table.about.get("floors", {}), "reasons": table.reasons}
        print_json({**shared, **counts, **answers, **about, **beside})
        return
    rows, columns = table.about["grid"]
    settings = table.about["settings"]
    title = (
        f"{target.layout.study}, trial {target.number}, {len(table.image_ids)} {target.split} images, maps of "
        f"{rows}x{columns} cells, {len(table.fractions) - 1} steps, fill {settings['fill']}, metrics of version "
        f"{table.about['version']}"
    )
    lines = [
        (name, "higher" if higher_is_better(f"val/{name}") else "lower", _reason(table, name) or number(mean),
         *(number(values.get(name)) for values in apart.values()), str(undefined.get(name, "")))
        for name, mean in means.items()
    ]  # fmt: skip
    head = f"right: {n_right}", f"wrong: {len(is_right) - n_right}"
    print_table(("score", "better", "mean", *head, "undefined"), lines, title=title)
    for note in score_notes(table, target.trial.config):
        print_line(f"note: {note}")
    print_line(f"one row per image: {target.scores.table}")
    for name in files:
        print_line(f"written: {target.layout.experiment_dir / name}")


def _reason(table: ScoreTable, metric: str) -> str:
    """In a word or two why no image has a metric; empty where that is not known, or some have it."""
    return table.reasons.get(metric, "").partition(":")[0]


def print_baselines(tables: Mapping[str, ScoreTable], path: Path, *, as_json: bool) -> None:
    """The means of baseline maps beside those of the model's own one, which comes first."""
    means = {name: table.means() for name, table in tables.items()}
    if as_json:
        for name, values in means.items():
            print_json({"map": name, "scores": values, "n_undefined": tables[name].n_undefined()})
        return
    metrics = next(iter(means.values()))
    rows = [(metric, *(_shown(table, metric) for table in tables.values())) for metric in metrics]
    print_table(("score", *means), rows, title="beside maps that know nothing, and post-hoc maps of the same model")
    print_line(f"written: {path}")


def _shown(table: ScoreTable, metric: str) -> str:
    """The mean, and how many images it leaves out."""
    n_undefined = table.n_undefined().get(metric, 0)
    mean = number(table.means().get(metric))
    return f"{mean} ({n_undefined} undefined)" if n_undefined and mean != number(None) else mean


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
