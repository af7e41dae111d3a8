"""The command that trains one experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import StopRequest, number, print_json, print_line, say, signals_to
from attnsearch.cli._options import (
    RESULTS,
    AsJson,
    ConfigToTrain,
    Overrides,
    Plugins,
    Profile,
    Results,
    Storage,
    setting_options,
)
from attnsearch.errors import DONE, INTERRUPTED

if TYPE_CHECKING:
    from attnsearch.results.trial import TrialReader

SHOWN = ("state", "best_epoch", "epochs_run", "seconds", "images_per_s", "error")


@setting_options("device", "seed")
def train(
    config: ConfigToTrain,
    overrides: Overrides = None,
    profile: Profile = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> int:
    """Train one experiment, as a study of one trial; started again, it continues where it stopped."""
    from attnsearch.config.load import load_experiment, study_of_one
    from attnsearch.search.launchers.torchrun import TorchrunPlace

    place = TorchrunPlace.take()
    overrides = [*(overrides or ()), *place.overrides]
    experiment = load_experiment(config, profile=profile, overrides=overrides, plugins=plugins or ())
    if place.rank > 0:
        from attnsearch.search.launchers.orders import follow_orders  # imports torch

        return follow_orders()

    say(f"checking {experiment.name}, data {experiment.data.name}")
    from attnsearch.results.reader import load_study as read_study
    from attnsearch.search.run import run_study

    stop = StopRequest("stopping: the next start continues after the last finished epoch")
    with signals_to(stop.take):
        loaded = study_of_one(experiment, storage=storage)
        ended = run_study(loaded, root=results, n_workers=0, should_stop=stop.is_asked)
    if ended.outcome == "interrupted":
        return INTERRUPTED
    trial = read_study(ended.plan.layout.study_dir, storage=storage).trial(0)
    print_json(_values(trial)) if as_json else print_line("\n".join(_lines(trial)))
    return DONE


def _values(trial: TrialReader) -> dict[str, Any]:
    """The trial for machines."""
    row = trial.row
    return {
        "name": trial.study.layout.study,
        "folder": trial.study.layout.study_dir,
        **{key: value for key, value in vars(row).items() if key in SHOWN},
        "metrics": trial.measured(),
        "kept_epoch": row.best_epoch,  # its name in 0.1, until 0.3
    }


def _lines(trial: TrialReader) -> list[str]:
    """What a training ended with, and where its files lie."""
    from attnsearch.results.quality import known_quality, quality_lines

    layout, row = trial.study.layout, trial.row
    metrics = ", ".join(f"{key} {number(value)}" for key, value in trial.measured().items() if key.startswith("val/"))
    return [
        f"{layout.study}: best epoch {row.best_epoch} of {row.epochs_run}: {metrics}",
        *(f"  {line}" for line in quality_lines(known_quality(trial))),
        f"  published  {layout.experiment_dir}",
        f"  all files  {layout.study_dir}",
    ]
