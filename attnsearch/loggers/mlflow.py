"""Runs in MLflow: a local database in the folder of the logger, or the server that MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from attnsearch.loggers.base import LoggedRun

KEY = "attnsearch.trial"
"""The tag by which a run is found again."""
MAX_AT_ONCE = 100
"""Parameters that MLflow takes in one call."""


class MlflowWriter:
    """One run of MLflow, in an experiment of the name `EXPERIMENT/STUDY`."""

    def __init__(self, run: LoggedRun, folder: Path) -> None:
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=remote or f"sqlite:///{folder / 'mlflow.sqlite'}")
        location = None if remote else (folder / "artifacts").as_uri()
        experiment = self._experiment(f"{run.experiment}/{run.study}", location)
        found = self._client.search_runs([experiment], f"tags.`{KEY}` = '{run.key}'", max_results=1)
        self._id = found[0].info.run_id if found else self._create(experiment, run)

    def _experiment(self, name: str, location: str | None) -> str:
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name, artifact_location=location))

    def _create(self, experiment: str, run: LoggedRun) -> str:
        run_id = str(self._client.create_run(experiment, run_name=run.name, tags={KEY: run.key}).info.run_id)
        params = [Param(key, str(value)) for key, value in run.settings.items()]
        for start in range(0, len(params), MAX_AT_ONCE):
            self._client.log_batch(run_id, params=params[start : start + MAX_AT_ONCE])
        return run_id

    def _log(self, metrics: Sequence[tuple[str, float]], step: int) -> None:
        now = int(1000 * time.time())
        self._client.log_batch(self._id, metrics=[Metric(key, value, now, step) for key, value in metrics])

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self._log(list(values.items()), epoch)

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"{name}_epoch{epoch}.png"
            path.write_bytes(png)
            self._client.log_artifact(self._id, str(path))

    def end(self, state: str, values: Mapping[str, float], *, epoch: int) -> None:
        self._log([(f"best/{key}", value) for key, value in values.items()], epoch)
        self._client.set_tag(self._id, "state", state)
        self._client.set_terminated(self._id, "FAILED" if state == "fail" else "FINISHED")

    def close(self) -> None:
        """Nothing waits: each call has written what it was given."""
