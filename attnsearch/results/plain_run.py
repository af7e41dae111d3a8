"""Runs of `attnsearch train` that were written before each of them was a study: read as a study of one trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from attnsearch.config.load import load_stored_experiment
from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.search.trials import StudyRows, TrialRow, is_measured
from attnsearch.store.archive import has_archive, read_archive
from attnsearch.store.epochs import read_csv
from attnsearch.store.image_scores import has_scores, read_scores
from attnsearch.store.layout import StudyLayout, TrialLayout

if TYPE_CHECKING:
    import pandas as pd


def is_plain_run(layout: StudyLayout) -> bool:
    """Whether the folder holds one trial and no study."""
    return layout.trial(0).config.is_file() and not layout.study_yaml.exists()


def read_plain_rows(layout: StudyLayout) -> StudyRows:
    """The run as a study of one trial; its values are those of the best epoch.

    Raises:
        ConfigError, StoreError: a file of the run is broken.
    """
    trial = layout.trial(0)
    config = load_stored_experiment(trial.config)
    best_epoch = _best_epoch(trial)
    epochs = read_plain_epochs(layout)
    measured = {} if epochs is None or not best_epoch else _at(best_epoch, epochs, trial)
    value = measured.get(config.monitor)
    return StudyRows(
        name=layout.study,
        uuid="",
        objectives={config.monitor: config.monitor_direction},
        trials=(_row(best_epoch, {**measured, **_score_means(trial)}, value, epochs),),
        best=(0,) if best_epoch else (),
    )


def _at(epoch: int, epochs: pd.DataFrame, trial: TrialLayout) -> dict[str, float]:
    rows = epochs.loc[epochs["epoch"] == epoch]
    if rows.empty:
        raise StoreError(f"{trial.epochs_csv} lacks epoch {epoch}, which its maps are of; train the run again")
    return {str(key): float(rows.iloc[0][key]) for key in epochs.columns}


def _row(best_epoch: int, measured: Mapping[str, float], value: float | None, epochs: pd.DataFrame | None) -> TrialRow:
    return TrialRow(
        number=0,
        state="complete" if best_epoch else "running",
        values=() if value is None else (value,),
        params={},
        metrics={key: value for key, value in measured.items() if is_measured(key)},
        best_epoch=best_epoch,
        epochs_run=0 if epochs is None else len(epochs),
        seconds=0.0 if epochs is None else float(epochs["train/seconds"].sum()),
        images_per_s=0.0 if epochs is None else _speed(epochs),
        is_feasible=True,
        error=None,
        started=None,
        ended=None,
    )


def _score_means(trial: TrialLayout) -> dict[str, float]:
    """The scores as a search stores them; none where their files are damaged, so that the run can be scored again."""
    paths = trial.scores("val")
    try:
        means = read_scores(paths).trial_means() if has_scores(paths) else {}
    except StoreError:
        return {}
    return {f"val/{name}": mean for name, mean in means.items()}


def _speed(epochs: pd.DataFrame) -> float:
    """Images per second over all epochs: the harmonic mean, for each epoch has as many images."""
    speeds = epochs["train/images_per_s"]
    return len(epochs) / float((1 / speeds).sum()) if len(epochs) and (speeds > 0).all() else 0.0


def _best_epoch(trial: TrialLayout) -> int:
    """The epoch whose maps were archived; 0 before that."""
    paths = trial.archive("val")
    try:
        return read_archive(paths, index_only=True).epoch if has_archive(paths) else 0
    except AttnSearchError:
        return 0


def read_plain_epochs(layout: StudyLayout) -> pd.DataFrame | None:
    """The epochs of the run, columns `epoch` and `split/metric`; None before the first one ended."""
    path = layout.trial(0).epochs_csv
    return _with_slashes(read_csv(path)) if path.exists() else None


def _with_slashes(frame: pd.DataFrame) -> pd.DataFrame:
    """`val_accuracy` as the database calls it, `val/accuracy`; the costs are those of training."""

    def renamed(name: str) -> str:
        split, _, metric = name.partition("_")
        return f"{split}/{metric}" if split in ("train", "val", "test") else f"train/{name}"

    return frame.rename(columns={name: renamed(str(name)) for name in frame.columns if name != "epoch"})
