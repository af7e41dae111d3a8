"""One model and the settings of its scores: from a batch and its saliency to numbers and curves of each image.

Which metrics are measured stands in the registry alone. Shapes: B images of a chunk, N images of an archive.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from attnsearch import geometry
from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.tables import ImageTable, places_of
from attnsearch.device import device_errors
from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.baselines import (
    FLOORS,
    OCCLUSION,
    PARTS,
    baseline_saliency,
    model_free_maps,
    occlusion_saliency,
)
from attnsearch.evaluation.final_scores import unfinished_columns
from attnsearch.evaluation.parts import MapsOf, PartInterventions
from attnsearch.metrics.base import Metric, RatioOfMeans, WholeArchive
from attnsearch.metrics.gains import TERMS, is_term
from attnsearch.metrics.perturbation import Follow, RemovalSettings, SaliencyCase
from attnsearch.metrics.registry import find_metric, score_metrics
from attnsearch.store.score_journal import ImageScore
from attnsearch.tasks.base import Target
from attnsearch.tasks.classification import ClassTarget
from attnsearch.types import AttentionArchive, Batch, Followed, GroundTruth

Columns = dict[str, Tensor]
_BLIND = FLOORS[:2]  # random and centre, which have a maximum and see no image


def selected_metrics(settings: ScoreSettings, known: Collection[str], task: str) -> tuple[Metric, ...]:
    """The scores of the selected groups that a task has, in the order of registration.

    Args:
        known: of the values of `Need`, what the images have; metrics that need another one are left out.
    """
    of_groups = [
        metric
        for metric in score_metrics()
        if metric.group in settings.families
        and metric.is_of(task)
        and (settings.n_random or not metric.uses_random_orders)
    ]
    return tuple(metric for metric in of_groups if metric.needs is None or metric.needs in known)


def image_families(names: Sequence[str], *, task: str, has_masks: bool) -> tuple[str, ...]:
    """The groups of metrics that can be measured of single images.

    Raises:
        ConfigError: no such metric.
        UsageError: one is of a whole data set or of another task, or needs what images alone do not tell.
    """
    if isinstance(names, str):
        raise UsageError(f"metrics must be a list of names, got {names!r}; write [{names!r}]")
    for name in names:
        if problem := _image_problem(find_metric(name), task, has_masks=has_masks):
            raise UsageError(f"{name} {problem}")
    return tuple(dict.fromkeys(find_metric(name).group for name in names))


def _image_problem(metric: Metric, task: str, *, has_masks: bool) -> str | None:
    if metric.when != "image":
        where = "after each epoch" if metric.when == "epoch" else "of all images of a data set together"
        return f"is measured {where}, and not of single images; leave it out"
    if not metric.is_of(task):
        return f"is of the task {', '.join(metric.tasks)} and not of {task}; leave it out"
    if metric.needs == "masks":
        return None if has_masks else "needs masks of the parts; give one per image with masks="
    if metric.needs == "interventions":
        return "needs images that can be drawn again with other parts; score an archive of synthetic birds"
    if metric.needs in (None, "classes"):
        return None
    what = {"gallery": "a gallery", "temperature": "a temperature"}.get(metric.needs, f"{metric.needs} of the parts")
    return f"needs {what}, which only a data set has; score its archive"


def measure_case(case: SaliencyCase, metrics: Sequence[Metric], settings: ScoreSettings) -> Columns:
    """Name -> values (B,) of all image metrics, group by group; after each group those under a second fill.

    A metric of all images together gives the columns that `finish_scores` makes it of.
    """
    second = None if settings.second_fill == settings.fill else settings.second_fill
    columns: Columns = {}
    for _, members in groupby(metrics, key=lambda metric: metric.group):
        group = list(members)
        for metric in group:
            columns |= _columns_of(metric, case, metric.name)
        if second is not None:
            again = case.under(second)
            for metric in group:
                columns |= _columns_of(metric, again, f"{metric.name}_{second}") if metric.has_second_fill else {}
    return columns


def _columns_of(metric: Metric, case: SaliencyCase, name: str) -> Columns:
    """(B,) each; nothing for a metric of the whole archive."""
    if metric.when == "data set":
        return unfinished_columns(metric, case)
    function = metric.function
    if isinstance(function, RatioOfMeans):
        return {f"{name}.{term}": values for term, values in zip(TERMS, function.measure(case).T, strict=True)}
    return {name: function(case)}


def ground_truth(batch: Batch, table: ImageTable, crop_boxes: NDArray[np.float64]) -> GroundTruth:
    """The ground truth of a batch, through the same crop as its images.

    Args:
        batch: with part masks where a metric needs them and the data set has them.
        table: the split that `batch.rows` count in.
        crop_boxes: (B, 4) what the model sees of each image, in original pixels.
    """
    height, width = batch.images.shape[-2:]
    image_hw, device = (height, width), batch.images.device
    rows = batch.rows.numpy()
    boxes = None if table.boxes is None else box_masks(table.boxes[rows], crop_boxes, image_hw).to(device)
    points = None if table.points is None else visible_points(table.points[rows], crop_boxes, image_hw).to(device)
    return GroundTruth(batch.part_masks, boxes, points, image_hw)


def box_masks(boxes: NDArray[np.float64], crop_boxes: NDArray[np.float64], image_hw: geometry.Size) -> Tensor:
    """(B, H, W) bool: the pixels of the input whose middle lies inside the box, given in original pixels (B, 4)."""
    corners = boxes.reshape(len(boxes), 2, 2)  # left top, right bottom
    inside = geometry.original_to_input(corners, crop_boxes[:, None], image_hw=image_hw).reshape(-1, 4)
    left, top, right, bottom = (torch.from_numpy(inside[:, index])[:, None] for index in range(4))
    y, x = (torch.arange(side, dtype=torch.float64)[None] + 0.5 for side in image_hw)
    in_columns, in_rows = (x >= left) & (x < right), (y >= top) & (y < bottom)  # (B, W), (B, H)
    return in_rows[:, :, None] & in_columns[:, None, :]


def visible_points(points: NDArray[np.float64], crop_boxes: NDArray[np.float64], image_hw: geometry.Size) -> Tensor:
    """(B, P, 2) points in input pixels; NaN where a part is hidden or the model does not see it."""
    inside = geometry.original_to_input(points, crop_boxes[:, None], image_hw=image_hw)
    is_seen = np.all((inside >= 0) & (inside < image_hw[::-1]), axis=-1, keepdims=True)
    return torch.from_numpy(np.where(is_seen, inside, np.nan))


def archive_scores(
    archived: AttentionArchive, table: ImageTable, settings: ScoreSettings, config: ExperimentConfig
) -> dict[str, dict[str, float]]:
    """What is measured of all archived images at once; NaN where it is undefined.

    Args:
        table: the split of the archive.
        config: of the run.
    Returns:
        `whole`: metric -> value, and `floors`: name -> value of maps that see no image; nothing without such a metric.
    """
    image_hw, task = config.data.image_hw, config.task.name
    selected = [(metric.name, metric.function) for metric in selected_metrics(settings, table.regions, task)]
    functions = {name: function for name, function in selected if isinstance(function, WholeArchive)}
    if not functions:
        return {}
    assert archived.saliency is not None
    maps = torch.from_numpy(np.array(archived.saliency))  # (N, h, w)
    rows = places_of(archived.image_ids, table.image_ids)
    labels = torch.from_numpy(table.labels[rows])
    points = None if table.points is None else visible_points(table.points[rows], archived.crop_boxes, image_hw)
    regions = GroundTruth(points=points, size_hw=image_hw)
    whole = {name: _of_finite(function, maps, regions, labels) for name, function in functions.items()}
    blind = {name: model_free_maps(name, archived.image_ids, (maps.shape[1], maps.shape[2])) for name in _BLIND}
    floors = {
        name: _of_finite(function, floor, regions, labels)
        for function in functions.values()
        if function.has_floors
        for name, floor in blind.items()
    }
    return {"whole": whole, "floors": floors}


def _of_finite(function: WholeArchive, maps: Tensor, regions: GroundTruth, labels: Tensor) -> float:
    """Of the images whose map (N, h, w) is finite: the others show nothing."""
    rows = maps.isfinite().flatten(1).all(dim=1).nonzero()[:, 0]
    return function.measure(SaliencyCase.of_maps(maps[rows], regions.take(rows)), labels[rows])


@dataclass(frozen=True, eq=False)
class SaliencyScorer:
    """Scores batches under one checkpoint, in the precision of the settings."""

    inference: InferenceModel
    settings: ScoreSettings

    def needs_masks(self, baseline: str | None = None) -> bool:
        """Whether a selected metric, or a baseline, reads the masks of parts."""
        return baseline == PARTS or any(metric.needs == "masks" for metric in self._selected(("masks",)))

    def _selected(self, known: Collection[str]) -> tuple[Metric, ...]:
        """See `selected_metrics`."""
        return selected_metrics(self.settings, known, self.inference.config.task.name)

    def score(
        self,
        batch: Batch,
        saliency: Tensor,
        target: Target,
        truth: GroundTruth,
        *,
        baseline: str | None = None,
    ) -> list[ImageScore]:
        """The scores of the images of a batch; all of an image's are NaN where its map is not finite.

        Args:
            saliency: (B, h, w), not negative.
            target: what the saliency explains, which is followed while cells are removed.
            baseline: scores these baseline maps in the place of the saliency, on its grid.
        """
        device = self.inference.device
        target = target.to(device)
        maps = pooled(saliency.to(device).float(), self.settings.grid)
        if baseline is not None:
            maps = self.baseline(baseline, batch, target, (maps.shape[1], maps.shape[2]))
        parts = [
            self._score(batch.take(rows), maps[rows], target.take(rows), truth.take(rows), baseline)
            for rows in _of_one_padding(batch)
        ]
        return [score for part in parts for score in part]

    def _score(
        self, batch: Batch, maps: Tensor, target: Target, truth: GroundTruth, baseline: str | None
    ) -> list[ImageScore]:
        """Scores under maps (B, h, w); one that is not finite is replaced by zeros, and its scores by NaN."""
        is_finite = maps.isfinite().flatten(1).all(dim=1)  # (B,)
        finite = torch.where(is_finite[:, None, None], maps, 0.0)
        case = self._case(batch, finite, target, truth)
        known = (*truth.known, *target.known)
        if self._interventions is not None:
            known = (*known, "interventions")
            maps_of = self._maps_of(batch, (maps.shape[1], maps.shape[2]), baseline)
            case = replace(case, intervene=partial(self._interventions.outcomes, batch, finite, maps_of))
        columns = measure_case(case, self._selected(known), self.settings)
        return _rows(batch.image_ids, columns, case.own_curves(), is_finite)

    @cached_property
    def _interventions(self) -> PartInterventions | None:
        """On the images of the data set, where it can be drawn again."""
        return PartInterventions.of(self.inference, self.settings)

    def undefined_reasons(self, batch: Batch) -> dict[str, str]:
        """Metric -> why no image can have it, where some images (B) and the settings tell that."""
        return {} if self._interventions is None else self._interventions.undefined_reasons(batch)

    def _maps_of(self, batch: Batch, grid: tuple[int, int], baseline: str | None) -> MapsOf:
        """The maps (B, h, w) that explain other classes, of the model or of a baseline."""
        inference = self.inference
        if baseline is not None:
            return lambda classes: self.baseline(baseline, batch, ClassTarget(classes.to(inference.device)), grid)
        output = cache(lambda: inference.output(batch))

        def maps_of(classes: Tensor) -> Tensor:
            return pooled(inference.model.saliency(output(), classes.to(inference.device)).float(), self.settings.grid)

        return maps_of

    def _case(self, batch: Batch, maps: Tensor, target: Target, truth: GroundTruth) -> SaliencyCase:
        """Maps (B, h, w) of images that have one padding, whose target is followed."""
        names = {"n_steps", "n_random", "fill", "protocol", "batch_images"}
        settings = RemovalSettings(**self.settings.model_dump(include=names))
        return SaliencyCase(batch.images, maps, self._follow(target, batch), truth, settings, batch.image_ids)

    def _follow(self, target: Target, batch: Batch) -> Follow:
        """What the target follows of masked copies of a batch, whose padding is the same in each row."""
        inference, padding, cameras = self.inference, batch.padding, batch.cameras
        arithmetic = replace(inference.arithmetic, precision=self.settings.precision)

        @torch.no_grad()
        def follow(masked: Tensor, rows: Tensor) -> Mapping[Followed, Tensor]:
            n_images = len(masked)
            expanded = None if padding is None else padding[:1].expand(n_images, -1, -1)  # (M, H, W)
            taken_by = None if cameras is None else cameras[rows]  # (M,)
            names = ("",) * n_images
            copies = Batch(masked, torch.zeros_like(rows), names, rows, expanded, cameras=taken_by)
            with arithmetic.autocast():
                output = inference.task.predict(inference.model, arithmetic.place_images(copies))
            return target.take(rows).followed(output)  # (M,) each

        return follow

    def baseline(self, name: str, batch: Batch, target: Target, grid: tuple[int, int]) -> Tensor:
        """The maps of a baseline, (B, h, w) float32, not negative.

        Args:
            name: one of `BASELINES`.
            grid: h and w.
        Raises:
            ConfigError: as `baseline_saliency`.
        """
        if name != OCCLUSION:
            placed = self.inference.arithmetic.place_images(batch)
            return baseline_saliency(name, self.inference, placed, target, grid)
        flat = batch.images.new_zeros(len(batch.image_ids), *grid)
        return torch.cat(
            [
                occlusion_saliency(self._case(batch.take(rows), flat[rows], target.take(rows), GroundTruth()))
                for rows in _of_one_padding(batch)
            ]
        )


def pooled(maps: Tensor, grid: int | None) -> Tensor:
    """Maps (B, h, w) on a grid of at most `grid` rows and columns; coarser maps stay as they are."""
    if grid is None or max(maps.shape[1:]) <= grid:
        return maps
    return F.adaptive_avg_pool2d(maps[:, None], (min(maps.shape[1], grid), min(maps.shape[2], grid)))[:, 0]


def _of_one_padding(batch: Batch) -> Iterator[slice]:
    """The rows of the whole batch, or of its images one by one where they are padded, each in its own way."""
    if batch.padding is None:
        yield slice(None)
        return
    yield from (slice(row, row + 1) for row in range(len(batch.image_ids)))


def _rows(
    image_ids: Sequence[str], columns: Columns, curves: Mapping[str, Tensor], is_finite: Tensor
) -> list[ImageScore]:
    """Columns (B,) and curves (B, S + 1) image by image; NaN where is_finite (B,) is False.

    The terms of a gain stay: such a map says nothing, as a flat one does, and the image counts.
    """
    values = {
        name: (column if is_term(name) else _finite_or_nan(column, is_finite)).double().cpu().tolist()
        for name, column in columns.items()
    }
    points = {name: _finite_or_nan(curve, is_finite).float().cpu().tolist() for name, curve in curves.items()}
    return [
        ImageScore(
            image_id,
            {name: column[row] for name, column in values.items()},
            {name: curve[row] for name, curve in points.items()},
        )
        for row, image_id in enumerate(image_ids)
    ]


def _finite_or_nan(values: Tensor, is_finite: Tensor) -> Tensor:
    """Values (B, ...), NaN where is_finite (B,) is False."""
    return torch.where(is_finite.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)


def score_images(inference: InferenceModel, batches: Iterable[Batch], settings: ScoreSettings) -> list[ImageScore]:
    """The scores of all images under the saliency of their predicted classes, without an archive.

    Raises:
        UsageError: the family makes no maps.
    """
    scorer = SaliencyScorer(inference, settings)
    return [score for batch in batches for score in _score_batch(inference, scorer, batch)]


def _score_batch(inference: InferenceModel, scorer: SaliencyScorer, batch: Batch) -> list[ImageScore]:
    """The scores of the images (B) of a batch under the saliency of their predicted classes."""
    with device_errors():
        output = inference.output(batch)
        if output.maps is None:
            raise UsageError(f"the family {inference.config.model.name} makes no maps that could be scored")
        predictions = output.logits.argmax(dim=1)  # (B,)
        saliency = inference.model.saliency(output, predictions)  # (B, h, w)
        height, width = batch.images.shape[2:]
        truth = GroundTruth(masks=batch.part_masks, size_hw=(height, width))
        return scorer.score(batch, saliency, inference.task.target(output), truth)
