"""Interventions on synthetic birds reach the model as images of the data set do, and maps are summed over parts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attnsearch.config.data import FolderData, SyntheticData
from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import BatchLoader, DataSource, open_data
from attnsearch.data.synthetic.interventions import PartDrawings
from attnsearch.data.synthetic.redraw import BirdRedraw
from attnsearch.errors import DataError
from attnsearch.evaluation.parts import PartInterventions
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.models.base import AttentionModel
from attnsearch.tasks.classification import ClassTarget
from attnsearch.types import AttentionOutput, Batch, GroundTruth, HeadOutput
from tests.tiny import on_cpu

SIDE_PX, RESIZED_PX = 64, 73  # int(64 / 0.875)


class PixelModel(AttentionModel):
    """Its logits are weighted sums of the pixels; its map of class y is 1 + y times a ramp, or of no class."""

    def __init__(self, n_classes: int, *, is_class_free: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(n_classes, 3 * SIDE_PX**2, generator=generator) / SIDE_PX
        self.is_class_free = is_class_free

    def forward(self, batch: Batch, *, maps: tuple[str, ...] | None = None) -> AttentionOutput:
        logits = batch.images.flatten(1) @ self.weights.T  # (B, n_classes)
        return AttentionOutput(HeadOutput(logits), maps=torch.ones(len(logits), 1, 8, 8), map_names=("one",))

    def saliency(self, output: AttentionOutput, target: Tensor) -> Tensor:
        ramp = torch.linspace(0, 1, 64).view(8, 8)
        classes = torch.zeros_like(target) if self.is_class_free else target
        return 1 + classes[:, None, None] * ramp


def config_of(**data: Any) -> ExperimentConfig:
    small = {"name": "synthetic", "image_size_px": SIDE_PX, "picture_px": 80, "n_train_per_class": 1}
    settings = {
        "name": "untrained",
        "data": {**small, "n_val_per_class": 1, "n_test_per_class": 1, **data},
        "model": {"name": "cnn"},
        "train": {"precision": "fp32"},
    }
    return ExperimentConfig.model_validate_json(json.dumps(settings))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DataSource:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("birds")))
        return open_data(config_of().data)


@pytest.fixture
def batch(source: DataSource) -> Batch:
    """Three validation images, each of another class."""
    return BatchLoader(source, "val", batch_size=3, device="cpu").batch(np.array([0, 3, 7]))


def interventions_of(*, is_class_free: bool = False, **data: Any) -> PartInterventions:
    config = config_of(**data)
    inference = on_cpu(PixelModel(8, is_class_free=is_class_free), config)
    inference = replace(inference, checkpoint=type("Named", (), {"class_names": tuple("abcdefgh")})())
    interventions = PartInterventions.of(inference, ScoreSettings(batch_images=7))
    assert interventions is not None
    return interventions


def redraw_of(interventions: PartInterventions) -> BirdRedraw:
    data = interventions.inference.config.data
    assert isinstance(data, SyntheticData)
    return BirdRedraw(data)


def maps_of(interventions: PartInterventions, batch: Batch) -> Any:
    model = interventions.inference.model
    return lambda classes: model.saliency(model(batch), classes)


def seen(image: Any) -> Tensor:
    """(3, H, W) what the model sees of an image: resized, its middle, normalised."""
    resized = np.asarray(image.resize((RESIZED_PX, RESIZED_PX), 2), dtype=np.float32) / 255
    start = (RESIZED_PX - SIDE_PX) // 2
    crop = torch.from_numpy(resized[start : start + SIDE_PX, start : start + SIDE_PX]).permute(2, 0, 1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (crop - mean[:, None, None]) / std[:, None, None]


def test_all_interventions_are_classified_as_images_of_the_data_set_are(batch: Batch) -> None:
    interventions = interventions_of()
    outcomes = interventions.outcomes(batch, torch.ones(3, 8, 8), maps_of(interventions, batch))
    redraw, weights = redraw_of(interventions), interventions.inference.model.weights

    def logits(image_id: str, **changes: Any) -> Tensor:
        return (weights @ seen(redraw.draw(image_id, **changes)[0]).flatten()).double()

    image_id = batch.image_ids[1]
    code, close = redraw.code_of(image_id), {"atol": 2e-4, "rtol": 0.0}
    torch.testing.assert_close(outcomes.subsets[1, 0], logits(image_id, present=()), **close)
    torch.testing.assert_close(outcomes.subsets[1, 0b1001], logits(image_id, present=("beak", "tail")), **close)
    torch.testing.assert_close(outcomes.subsets[1, -1], logits(image_id), **close)
    other = (code[0] + 1) % 3
    torch.testing.assert_close(outcomes.swaps[1, 0, other], logits(image_id, code=(other, *code[1:])), **close)
    assert outcomes.swaps[1, 0, code[0]].isnan().all()
    assert outcomes.swaps[:, :, 3:].isnan().all()  # eight classes use three variants of each part
    n_clutter = redraw.n_clutter(image_id)
    torch.testing.assert_close(
        outcomes.clutter[1, n_clutter - 1], logits(image_id, without_clutter=n_clutter - 1), **close
    )
    counts = [redraw.n_clutter(each) for each in batch.image_ids]
    assert [int((~row[:, 0].isnan()).sum()) for row in outcomes.clutter] == counts
    assert outcomes.labels.tolist() == batch.labels.tolist()


def test_maps_are_summed_over_widened_parts(batch: Batch) -> None:
    """A flat map sums to pixels: 64 px sides widen masks by round(64 * 2 / 256) = 0 pixels, the map has 64 cells."""
    interventions = interventions_of()
    outcomes = interventions.outcomes(batch, torch.full((3, 8, 8), 2.0), maps_of(interventions, batch))
    redraw = redraw_of(interventions)
    numbers = np.asarray(redraw.draw(batch.image_ids[2])[1])
    for part, name in enumerate(("beak", "eye_ring", "wing_bar", "tail")):
        area = (numbers == part + 1).sum() * (RESIZED_PX / 80) ** 2
        assert outcomes.of_predicted.parts[2, part] / 2 == pytest.approx(area, rel=0.3, abs=6), name
    assert outcomes.of_predicted.total.tolist() == [2.0 * SIDE_PX**2] * 3
    assert (outcomes.of_predicted.on_parts <= outcomes.of_predicted.parts.sum(dim=1)).all()


def test_maps_of_other_classes_are_their_own(batch: Batch) -> None:
    own, free = (interventions_of(is_class_free=is_class_free) for is_class_free in (False, True))
    first, second = own.outcomes(batch, torch.ones(3, 8, 8), maps_of(own, batch)).of_pair
    assert (first.total != second.total).all()
    first, second = free.outcomes(batch, torch.ones(3, 8, 8), maps_of(free, batch)).of_pair
    torch.testing.assert_close(first.parts, second.parts, atol=0, rtol=0)


def test_files_of_other_drawings_are_refused(batch: Batch) -> None:
    interventions = interventions_of(data_seed=5)
    with pytest.raises(DataError, match=rf"{batch.image_ids[0][:11]}.*holds another image"):
        interventions.outcomes(batch, torch.ones(3, 8, 8), maps_of(interventions, batch))


def test_drawings_do_not_depend_on_the_number_of_threads(batch: Batch) -> None:
    data = interventions_of().inference.config.data
    assert isinstance(data, SyntheticData)
    one, two = (PartDrawings(data).draw(batch.image_ids, n_threads=n_threads) for n_threads in (1, 2))
    for first, second in zip(one, two, strict=True):
        assert (first.swaps, first.n_clutter) == (second.swaps, second.n_clutter)
        for image, again in zip((*first.copies, *first.masks), (*second.copies, *second.masks), strict=True):
            np.testing.assert_array_equal(np.asarray(image), np.asarray(again))


def test_the_family_is_scored_of_synthetic_birds_alone(batch: Batch) -> None:
    interventions = interventions_of(is_class_free=True)
    settings = ScoreSettings(families=("parts",), n_images=3)
    target, truth = ClassTarget(torch.zeros(3, dtype=torch.int64)), GroundTruth()
    maps = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = SaliencyScorer(interventions.inference, settings).score(batch, maps, target, truth)
    assert {"sd_swap", "sd", "csdc@0.01", "background_independence@objects"} <= set(rows[0].values)
    assert all(np.isnan(row.values["target_sensitivity"]) for row in rows)
    floors = SaliencyScorer(interventions.inference, settings).score(batch, maps, target, truth, baseline="random")
    assert floors[0].values["saliency_on_parts"] != rows[0].values["saliency_on_parts"]
    config = interventions.inference.config.model_copy(update={"data": FolderData(root="photos")})
    elsewhere = replace(interventions.inference, config=config)
    assert SaliencyScorer(elsewhere, settings).score(batch, maps, target, truth)[0].values == {}
