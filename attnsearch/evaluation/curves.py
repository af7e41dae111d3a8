"""Draws the learning curves of one trial."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd


def draw_curves(epochs: pd.DataFrame, path: Path) -> None:
    """Loss and accuracy of training and validation by epoch, as a PNG.

    Args:
        epochs: the per-epoch CSV of a trial.
    """
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw(axes, epochs, name)
    figure.savefig(path, dpi=100)


def _draw(axes: Axes, epochs: pd.DataFrame, name: str) -> None:
    for split, colour in (("train", "tab:grey"), ("val", "tab:blue")):
        if f"{split}_{name}" in epochs:
            axes.plot(epochs["epoch"], epochs[f"{split}_{name}"], color=colour, label=split, marker=".")
    axes.set(xlabel="epoch", ylabel=name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
