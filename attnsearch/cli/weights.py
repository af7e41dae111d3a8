"""Commands on checkpoints: `weights import` and `weights export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from attnsearch.cli._console import print_line
from attnsearch.cli._options import RESULTS, Overrides, Profile, Results, Storage

app = typer.Typer(help="Import checkpoints that other code has trained, and export ours in INTR's layout.")

Family = Literal["intr", "loupe", "br_npa"]


@app.command("import")
def import_weights(
    family: Annotated[Family, typer.Argument(help="Whose code wrote it: intr, loupe or br_npa.")],
    file: Annotated[Path, typer.Argument(help="checkpoint.pth, best_model.pth or model<id>_best_epoch<E>.")],
    config: Annotated[str, typer.Argument(help="The config that describes model and data: bare name or path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    classes: Annotated[
        Path | None,
        typer.Option("--classes", metavar="FILE", help="Class names, one a line, if the data set is not at hand."),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option("--held-out", help="State that it never saw our validation images; else it can start no run."),
    ] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="By default FILE.safetensors beside the file.")
    ] = None,
) -> None:
    """Turn a published checkpoint into one that evaluate, model.weights and train.teacher.checkpoint take."""
    from attnsearch.config.load import load_experiment
    from attnsearch.results.checkpoints import import_file

    experiment = load_experiment(config, profile=profile, overrides=overrides or ())
    target = to or file.with_name(f"{file.name}.safetensors")
    n_classes = import_file(family, file, experiment, classes=classes, held_out=held_out, to=target)
    print_line(f"{target}: {experiment.model.name}, {n_classes} classes; `attnsearch evaluate {target}` measures it")


@app.command("export")
def export_weights(
    family: Annotated[Literal["intr"], typer.Argument(help="Whose layout to write.")],
    source: Annotated[str, typer.Argument(help="A best.safetensors, or a study in the results.")],
    to: Annotated[Path, typer.Argument(help="A new file.")],
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Of the study; by default the best one.")] = None,
    results: Results = RESULTS,
    storage: Storage = None,
) -> None:
    """Write a best checkpoint as its authors' code reads it."""
    from attnsearch.results.checkpoints import export_file, find_checkpoint

    export_file(find_checkpoint(source, trial, results, storage), to)
    print_line(f"{to}: read it with INTR's own `--eval --resume {to}`")
