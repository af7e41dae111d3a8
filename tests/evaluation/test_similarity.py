"""Pair maps: they sum to the cosine that the task compares images by, whatever pools the features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.evaluation.similarity import pair_map, pair_matrix
from attnsearch.models import build_model
from attnsearch.tasks.base import build_task
from attnsearch.types import Batch
from tests.tiny import on_cpu, reid_config

RESNET = {"backbone": "resnet10t", "width": 0.25, "weights": "none"}
MODELS: dict[str, dict[str, Any]] = {
    "cnn": {"name": "cnn", **RESNET, "stride_stage4": 1},
    "b_cnn": {"name": "b_cnn", **RESNET, "n_parts": 2},  # branches side by side
    "br_npa": {"name": "br_npa", **RESNET, "n_vectors": 3},
    "plain": {"name": "plain", **RESNET},
    "loupe": {"name": "loupe", **RESNET},
}
TASKS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "neck": {"embedding": "after_neck"},
    "flip": {"flip_average": True},
    "neck, flip, raw": {"embedding": "after_neck", "flip_average": True, "normalise": False},
}


def inference_of(model: dict[str, Any], **task: Any) -> InferenceModel:
    """A model of re-identification with random weights, whose batch norms know other images."""
    config = reid_config(model, task=task)
    torch.manual_seed(0)
    built = build_model(config.model, build_task(config.task).heads(3))
    norms = [module for module in built.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.data = 0.5 + torch.rand(norm.num_features)
    with torch.no_grad():
        built.train()(images(16, seed=3))
    return on_cpu(built.eval(), config)


def images(n_images: int, *, seed: int) -> Batch:
    """Coloured blocks of 16 pixels, 64 x 32 pixels in all."""
    blocks = torch.randn(n_images, 3, 4, 2, generator=torch.Generator().manual_seed(seed))
    zeros = torch.zeros(n_images, dtype=torch.int64)
    return Batch(F.interpolate(blocks, scale_factor=16), zeros, ("",) * n_images, torch.arange(n_images))


def embeddings(inference: InferenceModel, batch: Batch) -> Tensor:
    found = inference.task.embed(inference.output(batch, maps=None))
    assert found is not None
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("task", TASKS)
def test_maps_and_matrices_sum_to_the_cosine(model: str, task: str) -> None:
    inference = inference_of(MODELS[model], **TASKS[task])
    queries, gallery = images(3, seed=1), images(3, seed=2)
    references = embeddings(inference, gallery)
    cosines = F.cosine_similarity(embeddings(inference, queries), references)
    assert (cosines - 1).abs().max() > 0.01
    maps = pair_map(inference, queries, 7 * references)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), cosines, atol=1e-5, rtol=0)
    pairs = pair_matrix(inference, queries, gallery)
    torch.testing.assert_close(pairs.sum(dim=(1, 2, 3, 4)), cosines, atol=1e-5, rtol=0)
    torch.testing.assert_close(pairs.sum(dim=(3, 4)), maps, atol=1e-5, rtol=0)


def test_a_flip_average_has_mirrored_maps_of_mirror_images() -> None:
    inference = inference_of(MODELS["cnn"], flip_average=True)
    batch = images(2, seed=1)
    references = embeddings(inference, images(2, seed=2))
    mirrored = Batch(batch.images.flip(-1), batch.labels, batch.image_ids, batch.rows)
    first, second = (pair_map(inference, one, references) for one in (batch, mirrored))
    torch.testing.assert_close(second, first.flip(-1), atol=1e-6, rtol=0)
    assert not torch.allclose(first, first.flip(-1), atol=1e-4)


def test_a_cell_counts_by_its_own_features() -> None:
    """Of a 1 x 2 grid with features a and b, the cells add <a, g> / 2 and <b, g> / 2, over both lengths."""
    inference = inference_of(MODELS["cnn"])
    features = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])  # (1, cells, D)

    def embedding_cells(batch: Batch) -> Tensor:
        return features.transpose(1, 2)[:, :, None] / 2  # (1, D, 1, 2)

    inference.model.embedding_cells = embedding_cells  # type: ignore[method-assign]
    maps = pair_map(inference, images(1, seed=0), torch.tensor([[0.0, 2.0]]))
    length = (2.0**2 + 2.0**2) ** 0.5  # of the mean (2, 2)
    torch.testing.assert_close(maps, torch.tensor([[[0.0, 2.0 / length]]]))


def test_classes_and_class_tokens_have_no_pair_maps() -> None:
    with pytest.raises(UsageError, match="'classification' compares no images"):
        pair_map(on_cpu(None), images(1, seed=0), torch.zeros(1, 4))
    vit = {"name": "dcal", "backbone": "vit_tiny_patch16_224", "weights": "none", "depth": 2, "position_grid": [4, 2]}
    with pytest.raises(UsageError, match="no sum over the cells"):
        pair_map(inference_of(vit), images(1, seed=0), torch.zeros(1, 384))
