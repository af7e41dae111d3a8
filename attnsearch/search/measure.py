"""What one trial of a study costs under one setting, by two short trials in a process of its own.

The first one runs on a few batches: it pays for what only the first trial of a process computes, and tells how many
images the second one can afford. What the second one leaves out is added at the cost of its steps.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from attnsearch.config.evaluation import DEFAULT_N_IMAGES
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment, with_settings
from attnsearch.config.study import Scalar
from attnsearch.data.loader import DataSource
from attnsearch.data.sample import Counts, cut_tables, open_some
from attnsearch.data.tables import DataTables, build_tables
from attnsearch.device import anonymous_mb, device_bytes, evaluation_batch_size, pick_device, set_threads
from attnsearch.evaluation.score_archive import CHUNK_IMAGES
from attnsearch.search.costs import Cost, TrialBytes, TrialCost
from attnsearch.search.rehearsal import Performance, Portion, now, perform
from attnsearch.search.slots import PROCESS_MB
from attnsearch.tasks.base import build_task

LOOP_S = 2.0
"""Seconds that each loop of the second trial may take, about."""
SLOW_BATCH_S = 10.0
"""From so many seconds per batch on, the first trial is all that is measured."""
MAX_DECODED = 512
"""Images of each split that are decoded where there is no cache yet, beside those of a few batches."""
MAX_RACED = 500
SAMPLE_EVERY_S = 0.02
_MB = 10**6


@dataclass(frozen=True)
class MeasureOrder:
    """What is to be measured.

    Attributes:
        experiment: JSON, which can be sent to a process that has not imported the plugins that it names.
        settings: the hyperparameters in it.
        tables: all images of the data set.
        environment: all of it, as the process is to see it.
        folder: for all that is written; the folder above it gets caches, which processes share.
        n_at_rung: images that are scored where the trial pauses; 0 where none are.
    """

    experiment: str
    settings: Mapping[str, Scalar]
    tables: DataTables
    environment: Mapping[str, str]
    n_threads: int
    folder: Path
    n_at_rung: int = 0


def measure_trial(order: MeasureOrder) -> TrialCost:
    """Measures one trial; for a process that does nothing else.

    Raises:
        AttnSearchError: the setting does not work, or data, disk or device cannot be used.
    """
    _volunteer_for_memory()
    logging.disable()  # of short trials nobody wants to read
    os.environ.clear()
    os.environ.update(order.environment)
    set_threads(order.n_threads)
    experiment = _calm(load_experiment(json.loads(order.experiment)))
    with memory_watched(pick_device(experiment.runtime.device)) as peak:
        listing = _listing(experiment)
        source, decoding = _open(experiment, order)
        short = _Short(experiment, source, order.folder)
        few = short.few()
        first = short.perform(few, n_epochs=1)
        done, images = first, few
        if first.train.step.seconds < SLOW_BATCH_S:
            images = short.affordable(first)
            done = short.perform(images, n_epochs=2)
    whole = _Whole.of(experiment, order.tables, cut_tables(source.tables, images.counts))
    pixels_left_out = (_n_images(order.tables) - _n_images(source.tables)) * source.cache.pixels[0].nbytes
    return TrialCost(
        settings=dict(order.settings),
        epochs=experiment.train.epochs,
        recorded_s=sum(done.recorded) + whole.more_of_epoch(done).seconds,
        leg=done.leg,
        epoch=done.epoch + whole.more_of_epoch(done),
        end=done.end + whole.more_of_end(done, whole.chunks),
        rung=done.end + whole.more_of_end(done, _chunks(order.n_at_rung)) if order.n_at_rung else Cost(),
        worker=listing + first.opening + _first_of_a_process(first, done),
        publication=whole.published_factor * done.publication,
        race=max(0, whole.raced_chunks - whole.chunks) * done.score.step,
        decoding=decoding,
        memory_bytes=peak.memory_bytes,
        gpu_bytes=peak.gpu_bytes + pixels_left_out if peak.gpu_bytes else 0,
        gpu_total_bytes=peak.gpu_total_bytes,
        bytes=whole.bytes_of_trial(done, images),
        published_bytes=round(whole.published_factor * (done.sizes.published + done.sizes.thumbnails)),
    )


def _volunteer_for_memory() -> None:
    """Where memory runs out, Linux ends this process before any other."""
    path = Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000")


def _calm(experiment: ExperimentConfig) -> ExperimentConfig:
    """At a learning rate with which nothing diverges, and which costs as much as any other."""
    return with_settings(experiment, {"train.optimizer.lr": min(1e-6, experiment.train.optimizer.lr)})


def _first_of_a_process(first: Performance, second: Performance) -> Cost:
    """What the first trial of a process takes beyond what it would take as the second one."""
    epoch = second.epoch + second.train.beyond(first.train.n) + second.val.beyond(first.val.n)
    end = second.end + second.archive.beyond(first.archive.n) + second.score.beyond(first.score.n)
    return (first.leg + first.epoch + first.end - (second.leg + epoch + end)).at_least_zero()


def _open(experiment: ExperimentConfig, order: MeasureOrder) -> tuple[DataSource, Cost]:
    """The data set, or some of it where it is not decoded, with what decoding all of it will cost."""
    n_train = max(MAX_DECODED, 4 * experiment.train.batch_size)
    counts = Counts(n_train, MAX_DECODED, MAX_DECODED, _n_identities(experiment))
    begun = now()
    source = open_some(experiment.data, order.tables, counts, cache=order.folder.parent / "cache")
    factor = _n_images(order.tables) / _n_images(source.tables)
    return source, factor * (now() - begun)


def _listing(experiment: ExperimentConfig) -> Cost:
    """Of the images, which each worker lists."""
    begun = now()
    build_tables(experiment.data)
    return now() - begun


def _n_images(tables: DataTables) -> int:
    return sum(map(len, tables.present()))


def _n_identities(experiment: ExperimentConfig) -> int:
    """As many as a batch may hold, which has two images of each or more."""
    return max(2, experiment.train.batch_size // 2)


def _evaluated_at_once(experiment: ExperimentConfig) -> int:
    return evaluation_batch_size(
        experiment.train.batch_size,
        accumulation=experiment.train.accumulation,
        image_hw=experiment.data.image_hw,
        device=pick_device(experiment.runtime.device),
    )


@dataclass(frozen=True)
class _Images:
    """Those of a short trial; `n_scored` are of validation."""

    counts: Counts
    n_scored: int


@dataclass(frozen=True)
class _Short:
    """Short trials of one setting."""

    experiment: ExperimentConfig
    source: DataSource
    folder: Path

    def few(self) -> _Images:
        """Two batches of training and one of evaluation, as large as all are, so that memory has its peak."""
        evaluated = max(CHUNK_IMAGES, _evaluated_at_once(self.experiment))
        n_train = 2 * self.experiment.train.batch_size
        return _Images(Counts(n_train, evaluated, evaluated, _n_identities(self.experiment)), CHUNK_IMAGES)

    def affordable(self, first: Performance) -> _Images:
        """As many as each loop can afford by what its steps have cost before; all of them where there are fewer."""
        few, (train_s, val_s) = self.few(), first.recorded
        n_train = self.experiment.train.batch_size * _n_steps(train_s / first.train.n)
        n_val = few.counts.val * _n_steps(val_s / first.val.n)
        n_scored = CHUNK_IMAGES * _n_steps(first.score.step.seconds)
        return _Images(Counts(n_train, n_val, n_val, few.counts.identities), min(n_scored, n_val))

    def perform(self, images: _Images, *, n_epochs: int) -> Performance:
        """Runs one of so many epochs."""
        some = replace(self.source, tables=cut_tables(self.source.tables, images.counts))
        n_val_batches = -(-len(some.tables.val) // _evaluated_at_once(self.experiment))
        portion = Portion(n_epochs, n_val_batches, images.n_scored, CHUNK_IMAGES)
        return perform(self.experiment, some, self.folder / f"{n_epochs}", portion)


def _n_steps(step_s: float) -> int:
    return max(2, int(LOOP_S / max(step_s, 1e-3)))


@dataclass(frozen=True)
class _Whole:
    """How large a whole trial is.

    Attributes:
        train, val: batches of an epoch.
        chunks, raced_chunks: of images that are scored at its end, and in a race.
        archived_factor, published_factor: its images with maps by those of the short trial, on validation and on test.
    """

    experiment: ExperimentConfig
    train: int
    val: int
    chunks: int
    raced_chunks: int
    archived_factor: float
    published_factor: float

    @classmethod
    def of(cls, experiment: ExperimentConfig, tables: DataTables, cut: DataTables) -> _Whole:
        """On all images, beside those of the short trial."""
        settings, batch_size = experiment.evaluation, experiment.train.batch_size
        rows = build_task(experiment.task).row_order(tables.train, batch_size=batch_size, seed=experiment.seed, epoch=1)
        n_archived, n_cut = (min(len(one.val), settings.n_images or len(one.val)) for one in (tables, cut))
        is_query = tables.val.is_query
        n_explained = n_archived if is_query is None else min(n_archived, int(is_query.sum()))
        return cls(
            experiment,
            train=-(-len(rows) // batch_size),
            val=-(-len(tables.val) // _evaluated_at_once(experiment)),
            chunks=_chunks(min(settings.scores.n_images or DEFAULT_N_IMAGES, n_explained)),
            raced_chunks=_chunks(min(MAX_RACED, n_explained)),
            archived_factor=n_archived / n_cut,
            published_factor=len(tables.test or tables.val) / len(cut.test or cut.val),
        )

    def more_of_epoch(self, done: Performance) -> Cost:
        """Of the batches that were left out."""
        return done.train.beyond(self.train) + done.val.beyond(self.val)

    def more_of_end(self, done: Performance, chunks: int) -> Cost:
        """Of the images whose maps were left out, and of those that were not scored."""
        return done.archive.beyond(self.val) + done.score.beyond(chunks)

    def bytes_of_trial(self, done: Performance, images: _Images) -> TrialBytes:
        """On disk; scores are of single images too."""
        sizes, scored_factor = done.sizes, self.chunks / _chunks(images.n_scored)
        tables = sizes.fixed + self.archived_factor * sizes.index + scored_factor * sizes.scores
        return TrialBytes(
            weights=sizes.weights,
            resume=sizes.resume,
            maps=round(self.archived_factor * sizes.arrays),
            tables=round(tables + self.experiment.train.epochs * sizes.per_epoch),
            journal=round(scored_factor * sizes.journal),
            database=sizes.database,
        )


def _chunks(n_images: int) -> int:
    return -(-n_images // CHUNK_IMAGES)


@dataclass
class MemoryPeak:
    """Bytes that a process held at most; of a GPU with its context, 0 without one."""

    memory_bytes: int = 0
    gpu_bytes: int = 0
    gpu_total_bytes: int = 0


@contextmanager
def memory_watched(device: torch.device) -> Iterator[MemoryPeak]:
    """Looks many times a second at what this process holds during the block."""
    peak, is_over = MemoryPeak(), threading.Event()
    if device.type == "cuda":
        peak.gpu_total_bytes = device_bytes(device)

    def watch() -> None:
        while not is_over.wait(SAMPLE_EVERY_S):
            peak.memory_bytes = max(peak.memory_bytes, round(anonymous_mb() * _MB))
            if device.type == "cuda":
                held = torch.cuda.memory_reserved(device) + PROCESS_MB * _MB
                peak.gpu_bytes = max(peak.gpu_bytes, round(held))

    thread = threading.Thread(target=watch, name="attnsearch-memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()
