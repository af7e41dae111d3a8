"""Offline runs of Weights & Biases: files in the folder of the logger, which only a later `wandb sync` sends."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import wandb
from PIL import Image

from attnsearch.loggers.base import LoggedRun


class WandbWriter:
    """One offline run; each attempt at a trial writes a folder of its own under the same run id."""

    def __init__(self, run: LoggedRun, folder: Path) -> None:
        quiet = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True, x_disable_stats=True, x_disable_meta=True
        )
        self._run = wandb.init(
            mode="offline",
            dir=str(folder),
            project=run.experiment,
            group=run.study,
            name=run.name,
            id=run.key,
            config=dict(run.settings),
            settings=quiet,
        )

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=epoch, commit=True)

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        self._run.log({name: wandb.Image(Image.open(BytesIO(png)), caption=f"epoch {epoch}")})

    def end(self, state: str, values: Mapping[str, float], *, epoch: int) -> None:
        self._run.summary.update({"state": state, "best_epoch": epoch})
        self._run.summary.update({f"best/{key}": value for key, value in values.items()})

    def close(self) -> None:
        self._run.finish()
