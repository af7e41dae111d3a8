"""Floors: what scores of maps reach on validation without any information about the images, or without training."""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch

from attnsearch.config.evaluation import VERSION, ScoreSettings
from attnsearch.data.tables import ImageTable
from attnsearch.device import device_errors
from attnsearch.evaluation.base import ModelOnData, untrained
from attnsearch.evaluation.final_scores import finish_scores
from attnsearch.evaluation.score_archive import ArchiveScoring, score_baseline
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.metrics.localisation import touched_cells
from attnsearch.metrics.registry import find_metric
from attnsearch.store.archive import read_archive
from attnsearch.store.floors import MeasuredFloors
from attnsearch.store.image_scores import ScoreTable, make_table
from attnsearch.store.retrieval import n_explained
from attnsearch.store.trial_layout import ArchivePaths

N_IMAGES = 32
N_SEEDS = 3
FAITHFULNESS, LOCALISATION = "faithfulness", "localisation"
"""Groups of metrics whose floors are measured; of the others none is reported beside its floor."""
FIXED_CELL = {"pointing_hit": "masks", "pointing_in_box": "boxes"}
"""Hits that one and the same cell scores in many images, and the regions that they are counted in."""
FLAT = {"energy_in_mask", "energy_in_box", "rank_in_mask"}
"""What a map that is the same everywhere scores."""
_Values = dict[str, dict[str, float]]


@device_errors()
def measure_map_floors(
    opened: ModelOnData, archive: ArchivePaths, *, check: Callable[[], None] = lambda: None
) -> MeasuredFloors:
    """Scores maps that know nothing on `N_IMAGES` validation images, on the grid of an archive.

    - `chance`: the fraction of the most frequent class, of accuracies
    - `random`: cells in random order, 0 for gains by definition; `centre`: a Gaussian in the middle of each image
    - `flat map`: the fraction of the image that the masks or boxes cover; `fixed cell`: the best single cell
    - `untrained`: the model's own saliency under random weights, the mean of `N_SEEDS` seeds, of localisation in
      classification; masking changes no answer of such a model, so that it has no gain

    Args:
        opened: a trained checkpoint on its data, which gains of baseline maps are measured with.
        archive: of validation; its images and the grid of its maps are taken.
        check: called between the measurements.
    Raises:
        ConfigError, DataError, StoreError, OutOfMemory, DeviceError: as `score_archive`.
    """
    settings = floor_settings(opened.config.evaluation.scores, n_explained(read_archive(archive)))
    scoring = ArchiveScoring.start(opened, archive, settings)
    floors: _Values = defaultdict(dict)
    for metric, value in chance_of(scoring.table).items():
        floors[metric]["chance"] = value
    if FAITHFULNESS in settings.families:
        check()
        of_centre = score_baseline(only(scoring, FAITHFULNESS), "centre")
        _add(floors, dict.fromkeys(of_centre.gains(), 0.0), "random")
        _add(floors, _means(of_centre), "centre")
    if LOCALISATION in settings.families:
        _add_localisation(floors, only(scoring, LOCALISATION), check)
    return MeasuredFloors(
        grid=scoring.grid,
        n_images=len(scoring.ids),
        n_split=len(scoring.table),
        version=VERSION,
        settings=settings_digest(opened.config.evaluation.scores),
        images=images_digest(scoring.table.image_ids),
        values={metric: dict(values) for metric, values in floors.items()},
    )


def floor_settings(settings: ScoreSettings, n_archived: int) -> ScoreSettings:
    """How floors are measured: as the trials are scored, but fewer metrics of fewer images."""
    families = tuple(family for family in settings.families if family in (FAITHFULNESS, LOCALISATION))
    return settings.model_copy(
        update={"families": families, "n_images": min(N_IMAGES, n_archived), "n_random": 0, "second_fill": None}
    )


def settings_digest(settings: ScoreSettings) -> str:
    """Of what changes a floor, whichever families and however many images the trials are scored on."""
    return settings.model_copy(update={"families": (), "n_images": None, "n_random": 0, "second_fill": None}).digest()


def images_digest(image_ids: Iterable[str]) -> str:
    """SHA-256 of ids, in their order."""
    return hashlib.sha256("\n".join(image_ids).encode(errors="surrogateescape")).hexdigest()


def chance_of(table: ImageTable) -> dict[str, float]:
    """The accuracies of always answering with the most frequent class; nothing where no classes are predicted."""
    if table.is_query is not None:
        return {}
    counts = Counter(table.labels.tolist())
    return {"accuracy": max(counts.values()) / len(table.labels), "mean_class_accuracy": 1 / len(counts)}


def only(scoring: ArchiveScoring, family: str) -> ArchiveScoring:
    """The same images, measured in one family of metrics."""
    settings = scoring.settings.model_copy(update={"families": (family,)})
    return replace(scoring, scorer=SaliencyScorer(scoring.opened, settings))


def _add_localisation(floors: _Values, scoring: ArchiveScoring, check: Callable[[], None]) -> None:
    """The floors that need no image without cells, and so cost next to nothing."""
    for name, shown in (("random", "random"), ("centre", "centre"), ("uniform", "flat map")):
        check()
        _add(floors, _means(score_baseline(scoring, name)), shown)
    _add(floors, _fixed_cells(scoring), "fixed cell")
    if scoring.opened.task.predicts_classes:
        _add(floors, _untrained_means(scoring, check), "untrained")


def _add(floors: _Values, means: Mapping[str, float], name: str) -> None:
    """Puts means under the name of a floor; of a flat map only what is not about the order of cells."""
    for metric, mean in means.items():
        if name != "flat map" or metric in FLAT:
            floors[metric][name] = mean


def _means(table: ScoreTable) -> dict[str, float]:
    """Those that are defined, and compare models."""
    means = table.means().items()
    return {metric: mean for metric, mean in means if not (math.isnan(mean) or find_metric(metric).is_raw)}


def _fixed_cells(scoring: ArchiveScoring) -> dict[str, float]:
    """Metric of `FIXED_CELL` -> the largest fraction of images in which one cell touches the region."""
    n_hits: dict[str, torch.Tensor] = {}
    n_images: Counter[str] = Counter()
    for chunk in scoring.chunks:
        batch, truth = scoring.images(chunk, with_masks=scoring.scorer.needs_masks())
        grids = torch.zeros(len(batch.image_ids), *scoring.grid, device=batch.images.device)
        for metric, region in FIXED_CELL.items():
            regions = getattr(truth, region)
            if regions is not None:
                has_region = regions.flatten(1).any(dim=1)
                n_images[metric] += int(has_region.sum())
                n_hits[metric] = n_hits.get(metric, 0) + touched_cells(grids, regions)[has_region].sum(dim=0)
    return {metric: float(hits.max()) / n_images[metric] for metric, hits in n_hits.items() if n_images[metric]}


def _untrained_means(scoring: ArchiveScoring, check: Callable[[], None]) -> Mapping[str, float]:
    """The mean over seeds of the scores of the model's own saliency under random weights, where all define them."""
    found: dict[str, list[float]] = defaultdict(list)
    for seed in range(N_SEEDS):
        check()
        for metric, mean in _means(_score_untrained(scoring, untrained(scoring.opened, seed=seed))).items():
            found[metric].append(mean)
    return {metric: sum(means) / N_SEEDS for metric, means in found.items() if len(means) == N_SEEDS}


def _score_untrained(scoring: ArchiveScoring, opened: ModelOnData) -> ScoreTable:
    scorer, rows = SaliencyScorer(opened, scoring.settings), []
    for chunk in scoring.chunks:
        batch, truth = scoring.images(chunk, with_masks=scorer.needs_masks())
        output = opened.output(batch)
        saliency = opened.model.saliency(output, output.logits.argmax(dim=1))  # (B, h, w)
        rows += scorer.score(batch, saliency, opened.task.target(output), truth)
    rows, thresholds = finish_scores(rows, "val", {})
    return make_table(rows, scoring.fractions, {**scoring.about(), "iou_thresholds": thresholds})
