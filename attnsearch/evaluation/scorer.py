"""One model and the settings of its scores: from a batch and its saliency to numbers and curves of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.tables import ImageTable
from attnsearch.device import Arithmetic
from attnsearch.evaluation.baselines import FLOORS, baseline_saliency, model_free_maps
from attnsearch.evaluation.ground_truth import GroundTruth, visible_points
from attnsearch.metrics.complexity import effective_area, entropy, gini, sparsity
from attnsearch.metrics.faithfulness import (
    area,
    average_drop,
    correlation,
    curve_fractions,
    deletion_gain,
    is_flat,
    order_curves,
    step_saliency,
    symmetric_gain,
)
from attnsearch.metrics.localisation import (
    best_row,
    energy_in_region,
    iou,
    part_consistency,
    parts_in_box,
    pointing_at_part,
    pointing_game,
    rank_in_region,
)
from attnsearch.metrics.perturbation import box_blur, random_ranks, removal_ranks
from attnsearch.metrics.road import road
from attnsearch.models.base import AttentionModel
from attnsearch.normalisation import Fill
from attnsearch.store.image_scores import ImageScore
from attnsearch.types import AttentionArchive, Batch, Split

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))
"""Shares of the map's maximum that are tried; 0.5 is the fixed one."""
FIXED = 0.5
_AT = "@"


def iou_columns(name: str, maps: Tensor, regions: Tensor) -> dict[str, Tensor]:
    """Threshold by threshold, (B,) each: `name` at the fixed one, and columns for `with_best_iou` to choose from."""
    found = {threshold: iou(maps, regions, threshold=threshold) for threshold in THRESHOLDS}
    return {name: found[FIXED], **{f"{name}{_AT}{threshold}": column for threshold, column in found.items()}}


def with_best_iou(
    scores: Sequence[ImageScore], split: Split, known: Mapping[str, float]
) -> tuple[list[ImageScore], dict[str, float]]:
    """Scores with `best_<name>` in the place of the columns of single thresholds, and the threshold of each name.

    Args:
        known: name -> threshold that was chosen on validation. Without one it is chosen here, but on test images, where
            it would flatter: those go without a best one.
    """
    names = dict.fromkeys(column.partition(_AT)[0] for column in scores[0].values if _AT in column)
    chosen = {name: known[name] if name in known else _choose(scores, name) for name in names}
    if split == "test":
        chosen = {name: threshold for name, threshold in chosen.items() if name in known}
    return [_collapsed(score, chosen) for score in scores], chosen


def _choose(scores: Sequence[ImageScore], name: str) -> float:
    found = [[score.values[f"{name}{_AT}{threshold}"] for score in scores] for threshold in THRESHOLDS]
    return THRESHOLDS[best_row(torch.tensor(found, dtype=torch.float64))]


def _collapsed(score: ImageScore, chosen: Mapping[str, float]) -> ImageScore:
    values = {}
    for column, value in score.values.items():
        name, at, _ = column.partition(_AT)
        if not at:
            values[column] = value
        elif name in chosen:
            values[f"best_{name}"] = score.values[f"{name}{_AT}{chosen[name]}"]
    return replace(score, values=values)


METRIC = "part_consistency"
BLIND = FLOORS[:2]  # random and centre, which have a maximum and know nothing


def consistency_of(archived: AttentionArchive, table: ImageTable, image_hw: tuple[int, int]) -> dict[str, float]:
    """Part consistency of the saliency of all archived images, and of `random` and `centre` maps of its grid.

    Args:
        table: the split of the archive, with part points.
        image_hw: of the model's input, in pixels.
    Returns:
        `part_consistency`, then `random` and `centre`; NaN without a visible part.
    """
    assert archived.saliency is not None
    assert table.points is not None
    row_of = {image_id: row for row, image_id in enumerate(table.image_ids)}
    rows = [row_of[image_id] for image_id in archived.image_ids]
    points = visible_points(table.points[rows], archived.crop_boxes, image_hw)
    labels = torch.from_numpy(table.labels[rows])
    saliency = torch.from_numpy(np.array(archived.saliency))
    grid = (saliency.shape[1], saliency.shape[2])
    maps = {METRIC: saliency, **{name: model_free_maps(name, archived.image_ids, grid) for name in BLIND}}
    return {name: _consistency(one, points, labels, image_hw) for name, one in maps.items()}


def _consistency(maps: Tensor, points: Tensor, labels: Tensor, image_hw: tuple[int, int]) -> float:
    """Maps that are not finite show no part."""
    inside = parts_in_box(maps.nan_to_num(0.0), points, size_hw=image_hw)
    is_finite = maps.isfinite().flatten(1).all(dim=1)
    return part_consistency(torch.where(is_finite[:, None], inside, torch.nan), labels)


Columns = dict[str, Tensor]
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SaliencyScorer:
    """Scores batches under one checkpoint."""

    model: AttentionModel
    arithmetic: Arithmetic
    settings: ScoreSettings

    @property
    def device(self) -> torch.device:
        return self.arithmetic.device

    @property
    def needs_masks(self) -> bool:
        return "localisation" in self.settings.families

    def score(
        self,
        batch: Batch,
        saliency: Tensor,
        predictions: Tensor,
        truth: GroundTruth,
        *,
        baseline: str | None = None,
    ) -> list[ImageScore]:
        """The scores of the images of a batch; all of an image's are NaN where its map is not finite.

        Args:
            saliency: (B, h, w), not negative.
            predictions: (B,) int64, of the unmasked images.
            baseline: scores these baseline maps in the place of the saliency, on its grid.
        """
        target = batch.labels if self.settings.target == "label" else predictions.to(self.device)
        maps = pooled(saliency.to(self.device).float(), self.settings.grid)
        if baseline is not None:
            grid = (maps.shape[1], maps.shape[2])
            maps = baseline_saliency(baseline, self.model, self.arithmetic.place_images(batch), target, grid)
        parts = [self._score(one, maps[rows], target[rows], truth.take(rows)) for rows, one in _of_one_padding(batch)]
        return [score for part in parts for score in part]

    def fractions(self, grid: Sequence[int]) -> tuple[float, ...]:
        """The shares of cells at the points of the curves of maps of a grid (h, w)."""
        return tuple(curve_fractions(torch.zeros(1, *grid), self.settings.n_steps).tolist())

    def _score(self, batch: Batch, maps: Tensor, target: Tensor, truth: GroundTruth) -> list[ImageScore]:
        is_finite = maps.isfinite().flatten(1).all(dim=1)
        maps = torch.where(is_finite[:, None, None], maps, 0.0)
        columns, curves = self._curve_scores(batch, maps, target)
        families = self.settings.families
        predict, seeds = self._predictor(batch), _seeds(batch.image_ids, "noise")
        size, fill = self.settings.batch_images, self.settings.fill
        if "average_drop" in families:
            drops = average_drop(predict, batch.images, maps, target, fill=fill, batch_images=size)
            columns |= {"average_drop": drops.drop, "average_increase": drops.increase}
            columns["average_deletion_drop"] = drops.deletion_drop
        if "road" in families:
            columns["road"] = road(predict, batch.images, maps, target, seeds=seeds, batch_images=size)
        if "localisation" in families:
            columns |= _localisation(maps, truth)
        if "complexity" in families:
            columns |= {"sparsity": sparsity(maps[:, None], None), "gini": gini(maps), "entropy": entropy(maps)}
            columns["effective_area"] = effective_area(maps)
        return _rows(batch.image_ids, columns, curves, is_finite)

    def _curve_scores(self, batch: Batch, maps: Tensor, target: Tensor) -> tuple[Columns, Columns]:
        """Scores and curves of removed cells; curves of flat maps, which have no order, are NaN."""
        settings, families = self.settings, set(self.settings.families)
        if not families & {"faithfulness", "correlation"}:
            return {}, {}
        most, least = removal_ranks(maps), removal_ranks(maps, reverse=True)
        orders = {"deletion": most, "least_first": least}
        for index in range(settings.n_random if "faithfulness" in families else 0):
            orders[f"random_{index}"] = random_ranks(maps, _seeds(batch.image_ids, f"order {index}"))
        curves = self._curves(batch, orders, target, fill=settings.fill)
        curves["insertion"] = curves["least_first"].flip(1)
        if settings.protocol == "br_npa":
            blurred = self._curves(batch, {"least": least}, target, fill=box_blur(batch.images))
            curves["insertion"] = blurred["least"].flip(1)
        drawn = [curves.pop(name) for name in list(curves) if name.startswith("random_")]
        columns: Columns = {}
        fractions = curve_fractions(maps, settings.n_steps)
        if "faithfulness" in families:
            curves["random_deletion"] = torch.stack(drawn).mean(dim=0)
            columns |= self._areas(curves, fractions)
            columns |= self._second_gain(batch, {"most": most, "least": least}, target, fractions)
        if "correlation" in families:
            salient = {name: step_saliency(maps, ranks, settings.n_steps) for name, ranks in orders.items()}
            falls, rises = -curves["deletion"].diff(dim=1), curves["insertion"].diff(dim=1)
            columns["deletion_correlation"] = correlation(falls, salient["deletion"])
            columns["insertion_correlation"] = correlation(rises, salient["least_first"].flip(1))
        flat = is_flat(maps)
        ordered = {name: _undefined_where(flat, curve) for name, curve in curves.items() if name != "random_deletion"}
        known = ("random_deletion", "masked_score")
        shown = {name: value if name in known else _undefined_where(flat, value) for name, value in columns.items()}
        return shown, {**curves, **ordered}

    def _areas(self, curves: Columns, fractions: Tensor) -> Columns:
        most, least, random = (curves[name] for name in ("deletion", "least_first", "random_deletion"))
        raw = {
            name: area(curves[name], fractions, protocol=self.settings.protocol)
            for name in ("deletion", "insertion", "random_deletion")
        }
        return {
            "relevance_gain": symmetric_gain(most, least, fractions),
            "deletion_gain": deletion_gain(most, random, fractions),
            **raw,
            "masked_score": most[:, -1],
        }

    def _second_gain(self, batch: Batch, orders: Columns, target: Tensor, fractions: Tensor) -> Columns:
        fill = self.settings.second_fill
        if fill is None or fill == self.settings.fill:
            return {}
        curves = self._curves(batch, orders, target, fill=fill)
        return {f"relevance_gain_{fill}": symmetric_gain(curves["most"], curves["least"], fractions)}

    def _curves(self, batch: Batch, orders: Columns, target: Tensor, *, fill: Fill | Tensor) -> Columns:
        return order_curves(
            self._predictor(batch),
            batch.images,
            orders,
            target,
            n_steps=self.settings.n_steps,
            fill=fill,
            batch_images=self.settings.batch_images,
        )

    def _predictor(self, batch: Batch) -> Predict:
        """Images (M, 3, H, W) -> probabilities; all have the padding of the batch, which is one for all its images."""

        @torch.no_grad()
        def predict(images: Tensor) -> Tensor:
            n_images = len(images)
            padding = None if batch.padding is None else batch.padding[:1].expand(n_images, -1, -1)
            labels = torch.zeros(n_images, dtype=torch.int64, device=images.device)
            masked = Batch(images, labels, ("",) * n_images, torch.zeros(n_images, dtype=torch.int64), padding)
            with self.arithmetic.autocast():
                logits: Tensor = self.model(self.arithmetic.place_images(masked)).logits
            return logits.float().softmax(dim=1)

        return predict


def pooled(maps: Tensor, grid: int | None) -> Tensor:
    """Maps (B, h, w) on a grid of at most `grid` rows and columns; coarser maps stay as they are."""
    if grid is None or max(maps.shape[1:]) <= grid:
        return maps
    return F.adaptive_avg_pool2d(maps[:, None], (min(maps.shape[1], grid), min(maps.shape[2], grid)))[:, 0]


def _of_one_padding(batch: Batch) -> Iterator[tuple[slice, Batch]]:
    """The whole batch, or its images one by one where they are padded, each in its own way."""
    if batch.padding is None:
        yield slice(None), batch
        return
    for row in range(len(batch.image_ids)):
        rows = slice(row, row + 1)
        yield (
            rows,
            replace(
                batch,
                images=batch.images[rows],
                labels=batch.labels[rows],
                image_ids=batch.image_ids[rows],
                rows=batch.rows[rows],
                padding=batch.padding[rows],
                part_masks=None if batch.part_masks is None else batch.part_masks[rows],
            ),
        )


def _localisation(maps: Tensor, truth: GroundTruth) -> Columns:
    columns: Columns = {}
    if truth.masks is not None:
        columns["pointing_hit"] = pointing_game(maps, truth.masks)
        columns["energy_in_mask"] = energy_in_region(maps, truth.masks)
        columns["rank_in_mask"] = rank_in_region(maps, truth.masks)
        columns |= iou_columns("iou_in_mask", maps, truth.masks)
    if truth.boxes is not None:
        columns["pointing_in_box"] = pointing_game(maps, truth.boxes)
        columns["energy_in_box"] = energy_in_region(maps, truth.boxes)
        columns |= iou_columns("iou_in_box", maps, truth.boxes)
    if truth.points is not None:
        columns["pointing_at_part"] = pointing_at_part(maps, truth.points, size_hw=truth.size_hw)
    return columns


def _seeds(image_ids: Sequence[str], purpose: str) -> Tensor:
    """(B,) int64: what is drawn for an image depends on its id alone, so that all trials meet the same draws."""
    texts = [f"{purpose}\n{image_id}".encode(errors="surrogateescape") for image_id in image_ids]
    return torch.tensor([int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1 for text in texts])


def _undefined_where(flat: Tensor, values: Tensor) -> Tensor:
    return torch.where(flat.view(-1, *[1] * (values.ndim - 1)), torch.nan, values)


def _rows(image_ids: Sequence[str], columns: Columns, curves: Columns, is_finite: Tensor) -> list[ImageScore]:
    values = {name: _undefined_where(~is_finite, column).double().cpu().tolist() for name, column in columns.items()}
    points = {name: _undefined_where(~is_finite, curve).float().cpu().tolist() for name, curve in curves.items()}
    return [
        ImageScore(
            image_id,
            {name: column[row] for name, column in values.items()},
            {name: curve[row] for name, curve in points.items()},
        )
        for row, image_id in enumerate(image_ids)
    ]
