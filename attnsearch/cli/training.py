"""What `train` does: one run outside of any study, with its signals and its summary."""

from __future__ import annotations

from pathlib import Path

from attnsearch.cli._console import number, print_json, print_line
from attnsearch.cli._signals import StopRequest, signals_to
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import DONE, INTERRUPTED, TrialInterrupted
from attnsearch.store.layout import StudyLayout
from attnsearch.types import TrialResult


def run_training(experiment: ExperimentConfig, *, root: Path, as_json: bool, storage: str | None = None) -> int:
    """Runs one experiment to its end, or to the first Ctrl-C or SIGTERM; returns the exit code.

    Raises:
        AttnSearchError: what ended the run.
    """
    from attnsearch.search.single import run_single  # imports torch

    stop = StopRequest("stopping: the next start goes on after the last finished epoch")
    try:
        with signals_to(stop.take):
            result = run_single(experiment, root=root, storage=storage, should_stop=stop.is_asked)
    except TrialInterrupted:
        return INTERRUPTED
    layout = StudyLayout(root.absolute(), experiment.experiment, experiment.name)
    if as_json:
        print_json({"name": experiment.name, "folder": layout.study_dir, **vars(result)})
    else:
        print_line("\n".join(summary_lines(result, experiment, layout)))
    return DONE


def summary_lines(result: TrialResult, experiment: ExperimentConfig, layout: StudyLayout) -> list[str]:
    """What a person wants to know of a finished run."""
    measured = ", ".join(f"{key} {number(value)}" for key, value in result.metrics.items() if key.startswith("val/"))
    return [
        f"{experiment.name}: epoch {result.kept_epoch} of {result.epochs_run} is kept: {measured}",
        f"  published  {layout.experiment_dir}",
        f"  all files  {layout.study_dir}",
    ]
