"""Several whole runs of the trainer in processes of one thread each; what the comparisons over seeds share."""

from __future__ import annotations

import math
import multiprocessing
import os
import statistics
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_study, with_settings
from attnsearch.store.trial_layout import TrialLayout


@dataclass(frozen=True)
class Job:
    """One run: what it is called in the comparison, its seed, its settings as JSON, and its own folder."""

    label: str
    seed: int
    settings: str
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """One finished run.

    Attributes:
        accuracy: of the best epoch, on validation.
        curve: validation accuracy of each epoch.
        mean_map: mean over images and cells of the first map after the last epoch, on validation; NaN without maps.
    """

    label: str
    seed: int
    accuracy: float
    curve: tuple[float, ...]
    mean_map: float
    best: Path


def make_job(study: str, profile: str, label: str, seed: int, overrides: Mapping[str, object], folder: Path) -> Job:
    """A run of a study's base under a profile."""
    base = load_study(study, profile=profile).experiment
    config = with_settings(base, {**overrides, "seed": seed, "runtime.n_threads": 1})
    return Job(label, seed, config.model_dump_json(), folder / f"{label}_{seed}")


def run_all(jobs: Iterable[Job], n_workers: int) -> Iterator[Outcome]:
    """The outcomes, as they end."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(n_workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_run, job) for job in jobs]):
            yield future.result()


def _run(job: Job) -> Outcome:
    from attnsearch.data.loader import open_data
    from attnsearch.evaluation.evaluation import Evaluation
    from attnsearch.store.archive import read_archive
    from attnsearch.store.epochs import read_csv
    from attnsearch.training.trainer import fit
    from tests.tiny import RecordingContext

    config = ExperimentConfig.model_validate_json(job.settings)
    job.folder.mkdir(parents=True)
    data = open_data(config.data)
    result = fit(config, RecordingContext(job.folder, seed=job.seed), data=data)
    files = TrialLayout(job.folder)
    Evaluation.open(_last_epoch(files), data, config=config).run("val", archive=files.archive("val"))
    maps = read_archive(files.archive("val")).maps
    curve = tuple(map(float, read_csv(files.epochs_csv)["val_accuracy"]))
    mean_map = math.nan if maps is None else float(maps[:, 0].mean(dtype=float))
    return Outcome(job.label, job.seed, result.metrics["val/accuracy"], curve, mean_map, files.best)


def _last_epoch(files: TrialLayout) -> Path:
    """A checkpoint like the best one, but of the last epoch, which is the same for all runs."""
    import torch

    from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint, write_model_checkpoint
    from attnsearch.models.weights import load_into
    from attnsearch.tasks.base import restore_model

    best = read_model_checkpoint(files.best)
    model = restore_model(best)
    resume = files.resume(1)
    load_into(model, torch.load(resume, weights_only=True)["model"], str(resume))
    last = files.directory / "last.safetensors"
    write_model_checkpoint(
        ModelCheckpoint(
            last,
            config=best.config,
            class_names=best.class_names,
            epoch=best.config.train.epochs,
            accumulation=best.accumulation,
            val_hash=best.val_hash,
            state=model.state_dict(),
        )
    )
    return last


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t)."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), float(stats.t.ppf(0.975, len(values) - 1)) * error
