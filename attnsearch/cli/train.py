"""The command that trains one experiment."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Plugins, Profile, Results, Storage
from attnsearch.cli._signals import StopRequest, signals_to
from attnsearch.config.load import load_experiment
from attnsearch.errors import DONE, INTERRUPTED
from attnsearch.search.trials import TrialRow, read_study

if TYPE_CHECKING:
    from attnsearch.search.plan import SearchPlan

SHOWN = ("state", "best_epoch", "epochs_run", "metrics", "seconds", "images_per_s", "error")


def train(
    config: Annotated[str, typer.Argument(help="A file of configs/ by its bare name, or a path.")],
    overrides: Overrides = None,
    profile: Profile = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Train one experiment, as a study of one trial; started again, it continues where it stopped."""
    experiment = load_experiment(config, profile=profile, overrides=overrides or (), plugins=plugins or ())

    from attnsearch.search.plan import study_of_one  # these import torch
    from attnsearch.search.run import run_study

    stop = StopRequest("stopping: the next start continues after the last finished epoch")
    with signals_to(stop.take):
        study = study_of_one(experiment, storage=storage)
        ended = run_study(study, root=results, n_workers=0, should_stop=stop.is_asked)
    if ended.outcome == "interrupted":
        return INTERRUPTED
    trial = read_study(ended.plan.url, experiment.name).trials[0]
    if as_json:
        values = {key: value for key, value in asdict(trial).items() if key in SHOWN}
        values["kept_epoch"] = trial.best_epoch  # its name in 0.1, until 0.3
        print_json({"name": experiment.name, "folder": ended.plan.layout.study_dir, **values})
    else:
        print_line("\n".join(_lines(trial, ended.plan)))
    return DONE


def _lines(trial: TrialRow, plan: SearchPlan) -> list[str]:
    """What a person wants to know of a finished training."""
    metrics = ", ".join(f"{key} {number(value)}" for key, value in trial.metrics.items() if key.startswith("val/"))
    return [
        f"{plan.study.name}: best epoch {trial.best_epoch} of {trial.epochs_run}: {metrics}",
        f"  published  {plan.layout.experiment_dir}",
        f"  all files  {plan.layout.study_dir}",
    ]
