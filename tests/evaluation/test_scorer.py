"""Scores of batches and of whole archives, and boxes and points in the pixels of the input."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from attnsearch.config.evaluation import ScoreSettings, all_families
from attnsearch.config.experiment import ReidSettings
from attnsearch.data.tables import ImageTable
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.final_scores import finish_scores
from attnsearch.evaluation.scorer import (
    SaliencyScorer,
    archive_scores,
    box_masks,
    measure_case,
    selected_metrics,
    visible_points,
)
from attnsearch.metrics.perturbation import SaliencyCase
from attnsearch.metrics.registry import find_metric
from attnsearch.models.base import AttentionModel
from attnsearch.store.image_scores import score_columns
from attnsearch.store.score_journal import ImageScore
from attnsearch.tasks.reid import ReidHead
from attnsearch.tasks.retrieval import GalleryRanking, SimilarityTarget
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, GroundTruth, HeadOutput
from tests.tiny import on_cpu, reid_config

SIDE = 64


@pytest.fixture
def table() -> ImageTable:
    """Two classes of two images; the only part is at the left top, but in the last image at the right bottom."""
    ids = ("a/0", "a/1", "b/0", "b/1")
    points = np.array([[[4.0, 4.0]], [[4.0, 4.0]], [[4.0, 4.0]], [[60.0, 60.0]]])
    return ImageTable("val", ("a", "b"), ids, tuple(map(Path, ids)), np.array([0, 0, 1, 1]), points=points)


def archive(table: ImageTable, saliency: np.ndarray) -> AttentionArchive:
    n = len(table.image_ids)
    return AttentionArchive(
        image_ids=table.image_ids, labels=table.labels, predictions=table.labels, confidences=np.ones(n, np.float32),
        sizes_hw=np.full((n, 2), SIDE), crop_boxes=np.tile([0.0, 0.0, SIDE, SIDE], (n, 1)), class_names=("a", "b"),
        map_names=(), maps=None, norms=None, saliency=saliency, config_digest="d", epoch=1, split="val",
    )  # fmt: skip


def at_left_top() -> np.ndarray:
    saliency = np.zeros((4, 8, 8), np.float32)
    saliency[:, 0, 0] = 1
    return saliency


def consistency(table: ImageTable, saliency: np.ndarray) -> float:
    parts = archive_scores(archive(table, saliency), table, ScoreSettings(), on_cpu(None).config)
    return parts["whole"]["part_consistency"]


def test_class_counts_whose_images_point_at_one_part(table: ImageTable) -> None:
    parts = archive_scores(archive(table, at_left_top()), table, ScoreSettings(), on_cpu(None).config)
    assert parts["whole"] == {"part_consistency": 0.5}  # of class b only one of two images points at it
    assert parts["floors"]["centre"] == 0.0  # 28 pixels away, and the square reaches 10
    assert 0.0 <= parts["floors"]["random"] <= 1.0


def test_nothing_is_measured_of_an_archive_without_points(table: ImageTable) -> None:
    without = replace(table, points=None)
    assert archive_scores(archive(table, at_left_top()), without, ScoreSettings(), on_cpu(None).config) == {}


def test_broken_and_flat_maps_show_no_part(table: ImageTable) -> None:
    saliency = at_left_top()
    saliency[2, 5, 5], saliency[3] = np.nan, 0.25
    assert consistency(table, saliency) == 1.0
    saliency[:2] = np.nan
    assert math.isnan(consistency(table, saliency))


def test_hidden_parts_do_not_count(table: ImageTable) -> None:
    hidden = replace(table, points=np.array([[[4.0, 4.0]], [[4.0, 4.0]], [[4.0, 4.0]], [[math.nan, math.nan]]]))
    assert consistency(hidden, at_left_top()) == 1.0


@pytest.fixture
def scores() -> list[ImageScore]:
    """Two maps of 2 x 2 cells whose second cell, of 0.3, belongs to the region; the third image has no region."""
    maps = torch.tensor([[[1.0, 0.3], [0.0, 0.0]]]).repeat(3, 1, 1)
    regions = torch.tensor([[[True, True], [False, False]]]).repeat(3, 1, 1)
    regions[2] = False
    metrics = [find_metric("iou_in_mask"), find_metric("best_iou_in_mask")]
    columns = measure_case(SaliencyCase.of_maps(maps, GroundTruth(masks=regions)), metrics, ScoreSettings())
    return [ImageScore(str(row), {name: float(one[row]) for name, one in columns.items()}, {}) for row in range(3)]


def test_best_threshold_is_chosen_over_all_images(scores: list[ImageScore]) -> None:
    found, thresholds = finish_scores(scores, "val", {})
    assert thresholds == {"iou_in_mask": 0.1}  # 0.2 does as well; the first is taken
    assert found[0].values == {"iou_in_mask": 0.5, "best_iou_in_mask": 1.0}
    assert all(math.isnan(value) for value in found[2].values.values())


def test_test_images_choose_no_threshold(scores: list[ImageScore]) -> None:
    found, thresholds = finish_scores(scores, "test", {})
    assert (found[0].values, thresholds) == ({"iou_in_mask": 0.5}, {})
    found, thresholds = finish_scores(scores, "test", {"iou_in_mask": 0.9})
    assert found[0].values["best_iou_in_mask"] == 0.5
    assert thresholds == {"iou_in_mask": 0.9}


CROP = np.array([[10.0, 20.0, 50.0, 60.0]])  # 40 px wide and high, shown in 8 px: 5 px each


def test_box_covers_the_pixels_whose_middle_lies_inside() -> None:
    # left (20 - 10) / 5 = 2, top (20 - 20) / 5 = 0, right 3.6 (no middle of the fourth pixel), bottom beyond the input
    mask = box_masks(np.array([[20.0, 20.0, 27.0, 90.0]]), CROP, (8, 8))
    expected = torch.zeros(1, 8, 8, dtype=torch.bool)
    expected[:, :, 2] = True
    torch.testing.assert_close(mask, expected)


def test_box_outside_of_the_crop_covers_nothing() -> None:
    assert not box_masks(np.array([[0.0, 0.0, 9.0, 9.0]]), CROP, (8, 8)).any()


def test_points_are_moved_and_those_that_are_not_seen_are_undefined() -> None:
    points = np.array([[[30.0, 25.0], [9.0, 30.0], [np.nan, np.nan]]])
    found = visible_points(points, CROP, (8, 8))
    torch.testing.assert_close(found[0, 0], torch.tensor([4.0, 1.0], dtype=torch.float64))
    assert found[0, 1:].isnan().all()


class Embedder(nn.Module):
    """Embeds an image by the light of its left and its right half; it predicts nothing."""

    def forward(self, batch: Batch, *, maps: None = None) -> AttentionOutput:
        halves = batch.images.mean(dim=(1, 2)).view(len(batch.images), 2, -1).mean(dim=2)  # (B, 2)
        return AttentionOutput(HeadOutput(logits=halves.new_empty(len(halves), 0), embedding=halves))


def embedded(output: AttentionOutput) -> torch.Tensor:
    assert output.embedding is not None
    return output.embedding


def test_a_similarity_is_followed_like_the_probability_of_a_class() -> None:
    images = torch.ones(2, 3, 8, 8)
    batch = Batch(images, torch.tensor([-1, -1]), ("a", "b"), torch.arange(2))
    target = SimilarityTarget(torch.eye(2), embedded)  # one shows the left half, one the right half
    left_first = torch.tensor([[[2.0, 1.0]]]).repeat(2, 1, 1)
    settings = ScoreSettings(families=("faithfulness",), n_steps=2, n_random=1)
    scorer = SaliencyScorer(on_cpu(Embedder()), settings)
    left, right = scorer.score(batch, left_first, target, GroundTruth(size_hw=(8, 8)))
    # without its left half an image of ones is like the right half alone, and an empty image like nothing
    assert left.curves["deletion"] == pytest.approx([math.sqrt(0.5), 0.0, 0.0])
    assert right.curves["deletion"] == pytest.approx([math.sqrt(0.5), 1.0, 0.0])


class Matcher(AttentionModel):
    """As `Embedder` with a head of re-identification; remembers the cameras of the batches that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.head = ReidHead(2, 2, ReidSettings())
        self.cameras: list[list[int] | None] = []

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        self.cameras.append(None if batch.cameras is None else batch.cameras.tolist())
        return AttentionOutput(self.head(batch.images.mean(dim=(1, 2)).view(len(batch.images), 2, -1).mean(dim=2)))

    def saliency(self, output: AttentionOutput, target: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


LEFT, RIGHT = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def matched(inference: InferenceModel, rows: int = 1) -> SimilarityTarget:
    """Queries whose match shows the left half alone, and whose gallery starts with a stranger that shows the right."""
    zeros = torch.zeros(rows, dtype=torch.int64)
    gallery = torch.stack([RIGHT, LEFT])
    ranking = GalleryRanking(zeros, zeros, torch.tensor([1, 0]), torch.tensor([1, 1]), gallery, torch.ones(2))
    embed: Any = inference.task.embed
    return SimilarityTarget(LEFT.expand(rows, 2), embed, ranking)


def bright_at_the_left(n_images: int = 1) -> Batch:
    images = torch.ones(n_images, 3, 8, 8)
    images[..., :4] = 2.0
    zeros = torch.zeros(n_images, dtype=torch.int64)
    return Batch(images, zeros, ("a", "b")[:n_images], zeros, cameras=torch.arange(n_images))


def test_the_ranking_of_a_masked_query_is_followed_with_its_cosine() -> None:
    inference = on_cpu(Matcher().eval(), reid_config())
    scorer = SaliencyScorer(inference, ScoreSettings(families=("faithfulness",), n_steps=2, n_random=1))
    maps, truth = torch.tensor([[[2.0, 1.0]]]), GroundTruth(size_hw=(8, 8))
    (found,) = scorer.score(bright_at_the_left(), maps, matched(inference), truth)
    assert found.curves["deletion"] == pytest.approx([2 / math.sqrt(5), 0.0, 0.0])
    # the match is first as long as the left half is seen, and of equal distances the stranger comes first
    assert found.curves["ap_deletion"] == [1.0, 0.5, 0.5]
    assert found.curves["ap_least_first"] == [1.0, 1.0, 0.5]
    values, _ = score_columns([found])
    assert values["ap_relevance_gain"] == pytest.approx((0.875 - 0.625) / 0.5)
    assert values["ap_deletion_gain"] in (pytest.approx(0.0), pytest.approx(0.5))
    assert values["relevance_gain"] == pytest.approx(0.5 * math.sqrt(5) / 2)
    assert found.values["ap_relevance_gain.untouched"] == 1.0


def test_masked_copies_have_the_cameras_of_their_images() -> None:
    model = Matcher().eval()
    inference = on_cpu(model, reid_config())
    scorer = SaliencyScorer(inference, ScoreSettings(families=("faithfulness",), n_steps=2, n_random=1))
    maps = torch.tensor([[[2.0, 1.0]]]).repeat(2, 1, 1)
    scorer.score(bright_at_the_left(2), maps, matched(inference, 2), GroundTruth(size_hw=(8, 8)))
    # both ends and three orders of one inner step, of the two queries alone: nothing of the gallery is seen again
    assert model.cameras == [[0, 1]] * 5


def test_masked_copies_are_averaged_with_their_mirror_images() -> None:
    inference = on_cpu(Matcher().eval(), reid_config(task={"flip_average": True}))
    scorer = SaliencyScorer(inference, ScoreSettings(families=("faithfulness",), n_steps=2, n_random=1))
    maps, truth = torch.tensor([[[2.0, 1.0]]]), GroundTruth(size_hw=(8, 8))
    (found,) = scorer.score(bright_at_the_left(), maps, matched(inference), truth)
    assert found.curves["deletion"] == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), 0.0])


def test_a_task_has_its_own_scores() -> None:
    names = {
        task: {metric.name for metric in selected_metrics(ScoreSettings(families=all_families()), known, task)}
        for task, known in (("classification", ("masks", "classes")), ("reid", ("masks", "gallery")))
    }
    drops = {"average_drop", "average_increase", "average_deletion_drop"}
    assert names["classification"] - names["reid"] == {"decision_gain", "idsds", *drops}
    assert names["reid"] - names["classification"] == {"ap_relevance_gain"}
    without = selected_metrics(ScoreSettings(families=("faithfulness",)), (), "reid")
    assert "ap_relevance_gain" not in {metric.name for metric in without}
    assert not any(metric.uses_random_orders for metric in without)
    with_orders = selected_metrics(ScoreSettings(families=("faithfulness",), n_random=1), ("gallery",), "reid")
    assert {"ap_deletion_gain", "random_deletion"} < {metric.name for metric in with_orders}


def test_occlusion_is_the_fall_of_the_score_without_each_cell() -> None:
    inference = on_cpu(Matcher().eval(), reid_config())
    scorer = SaliencyScorer(inference, ScoreSettings(families=("localisation",)))
    batch, maps = bright_at_the_left(), torch.ones(1, 1, 2)
    masks = torch.zeros(1, 8, 8, dtype=torch.bool)
    masks[:, :, :4] = True
    (found,) = scorer.score(batch, maps, matched(inference), GroundTruth(masks, size_hw=(8, 8)), baseline="occlusion")
    assert found.values["energy_in_mask"] == 1.0  # without the right half the cosine rises
