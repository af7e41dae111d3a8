"""The overview of a study: what its best trial has learned."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from attnsearch.data.fixed_rows import spread_rows
from attnsearch.data.tables import ImageTable, places_of
from attnsearch.errors import ConfigError
from attnsearch.figures.explanation import ImageToDraw, from_archive
from attnsearch.figures.overview import Level, ShownImage, draw_overview
from attnsearch.results.quality import Quality, quality_of
from attnsearch.results.trial import TrialReader

N_IMAGES = 6


def write_overview(trial: TrialReader, path: Path) -> None:
    """Draws validation images of as many classes as it can with their true parts and maps, and scores with floors.

    Args:
        path: of the PNG.
    Raises:
        ConfigError: the trial has no maps, or its data set is not on this machine.
        DataError: an image cannot be read.
        StoreError: files of the trial are damaged, or the disk refuses.
    """
    levels = [_level(one) for one in quality_of(trial)]
    title = f"{trial.study.layout.study}, trial {trial.number}, epoch {trial.row.best_epoch}"
    height, width = trial.saliency("val").shape[1:]
    subtitle = f"{trial.config.model.name} on validation images; saliency {height}x{width} ({height * width} cells)"
    draw_overview(title, subtitle, list(_images(trial)), levels, path)


def _images(trial: TrialReader) -> Iterator[ShownImage]:
    archive, whole = trial.archive("val"), _table(trial)
    table = whole.take(places_of(archive.image_ids, whole.image_ids))
    table = table.take(spread_rows(table, N_IMAGES))
    images = [
        ImageToDraw(image_id, path, table.class_names[label])
        for image_id, path, label in zip(table.image_ids, table.paths, table.labels.tolist(), strict=True)
    ]
    masks = table.mask_paths or [None] * len(table)
    for explanation, mask in zip(from_archive(archive, images), masks, strict=True):
        yield ShownImage(explanation, mask)


def _table(trial: TrialReader) -> ImageTable:
    table = trial.study.shared.image_files.table(trial.files.config, "val")
    if table is None:
        raise ConfigError(f"{trial.name}: the data set is not on this machine")
    return table


def _level(quality: Quality) -> Level:
    text = f"{quality.value:.3f}{quality.interval}"
    return Level(quality.name, quality.value, quality.low, quality.high, quality.floors, text)
