"""The command that passes a study on to another program that shows training."""

from __future__ import annotations

from typing import Annotated

import typer

from attnsearch.cli._console import print_line
from attnsearch.cli._options import RESULTS, Results, Storage, StudyArgument


def log(
    study: StudyArgument,
    to: Annotated[list[str], typer.Option("--to", metavar="LOGGER", help="tensorboard, mlflow, trackio or wandb.")],
    results: Results = RESULTS,
    storage: Storage = None,
) -> None:
    """Log the trials of a study for TensorBoard, MLflow, Trackio or W&B; what is there already is passed over."""
    from attnsearch.results.logs import log_study
    from attnsearch.results.reader import find_study

    reader = find_study(study, results, storage=storage)
    for name in to:
        print_line(f"{name}: {log_study(reader, name)}")
