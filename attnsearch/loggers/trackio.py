"""Runs in Trackio: a local database in the folder of the logger; `TRACKIO_DIR=FOLDER trackio show` shows it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from attnsearch.loggers.base import LoggedRun


class TrackioWriter:
    """One run of Trackio, in a project of the name `EXPERIMENT-STUDY`."""

    def __init__(self, run: LoggedRun, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when the package is imported
        import trackio

        self._trackio = trackio
        self._run: Any = trackio.init(
            project=f"{run.experiment}-{run.study}",
            name=run.name,
            config=dict(run.settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch)

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        self._run.log({name: self._trackio.Image(Image.open(BytesIO(png)))}, step=epoch)

    def end(self, state: str, values: Mapping[str, float], *, epoch: int) -> None:
        self._run.log({"state": state, **{f"best/{key}": value for key, value in values.items()}}, step=epoch)

    def close(self) -> None:
        self._run.finish()
