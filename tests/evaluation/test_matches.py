"""Explained matches of small models."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import DataError, UsageError
from attnsearch.evaluation.base import InferenceModel, build_for_inference
from attnsearch.evaluation.evaluation import TrainedModel
from attnsearch.evaluation.matches import explain_matches
from attnsearch.figures.explanation import ImageToDraw
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint
from attnsearch.tasks.base import build_task
from attnsearch.types import IMAGENET_MEAN
from tests.matches import tiny_individuals
from tests.tiny import ConfigMaker

DCAL = {"name": "dcal", "width": 0.34, "depth": 2, "weights": "none", "position_grid": [4, 2], "n_glca_blocks": 1}
IDENTITIES = tuple(f"{number:04d}" for number in range(6))


@pytest.fixture(scope="module")
def individuals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSource]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_data(tiny_individuals().data)


def untrained(config: ExperimentConfig) -> TrainedModel:
    """A model with the weights that it starts from."""
    torch.manual_seed(0)
    state = build_model(config.model, build_task(config.task).heads(len(IDENTITIES))).state_dict()
    checkpoint = ModelCheckpoint(Path("tiny"), config, IDENTITIES, 1, 1, "", state)
    return TrainedModel(checkpoint, config, *build_for_inference(checkpoint, config))


@pytest.fixture(scope="module")
def cnn() -> TrainedModel:
    return untrained(tiny_individuals())


@pytest.fixture(scope="module")
def images(individuals: DataSource) -> list[ImageToDraw]:
    table = individuals.tables.val
    names = [table.class_names[label] for label in table.labels]
    return [ImageToDraw(*one) for one in zip(table.image_ids, table.paths, names, strict=True)][:5]


@pytest.mark.parametrize("task", [{}, {"embedding": "after_neck"}, {"flip_average": True}, {"normalise": False}])
def test_cells_of_both_images_and_their_pairs_add_up_to_the_cosine(
    task: dict[str, Any], images: list[ImageToDraw]
) -> None:
    model = untrained(tiny_individuals(task=task))
    explained = list(explain_matches(model, images[:2], images[3:5], method="pair"))
    embedded = model.embed([str(image.source) for image in images])
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    for place, one in enumerate(explained):
        match, cosine = one.match, float(embedded[place] @ embedded[3 + place])
        assert match is not None
        assert match.pairs is not None
        assert one.cosine == pytest.approx(cosine, abs=1e-5)
        for added in (match.own_map, match.map, match.pairs):
            assert added.sum() == pytest.approx(cosine, abs=1e-5)
        np.testing.assert_allclose(match.pairs.sum(axis=(2, 3)), match.own_map, atol=1e-6)
        np.testing.assert_allclose(match.pairs.sum(axis=(0, 1)), match.map, atol=1e-6)
        np.testing.assert_array_equal(one.saliency, match.own_map.clip(min=0))
        assert match.own_map.shape == (4, 2)  # 64 x 32 px over a stride of 16
        assert (one.target, match.image_id) == (
            f"similarity to {Path(match.image_id).name}",
            images[3 + place].image_id,
        )
        assert (one.true, match.true) == (images[place].true, images[3 + place].true)


def test_occlusion_is_what_the_cosine_loses_without_a_cell(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    """Of an image and itself: whatever is removed, the cosine falls."""
    (one,) = explain_matches(cnn, images[:1], images[:1])
    assert one.match is not None
    assert (one.match.method, one.match.own_map.shape) == ("occlusion", (4, 2))  # 64 x 32 px over a stride of 16
    with Image.open(str(images[0].source)) as opened:
        query = np.asarray(opened.convert("RGB"))
    assert query.shape == (64, 32, 3)
    for row, column in ((1, 0), (3, 1)):
        without = query.copy()
        without[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = np.rint(255 * np.array(IMAGENET_MEAN))
        embedded = cnn.embed([query, without])
        lost = 1 - float(embedded[0] @ embedded[1])
        assert one.match.own_map[row, column] == pytest.approx(lost, rel=0.1) != 0  # the colour is rounded here
    assert one.match.pairs is not None  # of the features, whatever the maps show


def test_each_image_is_occluded_for_itself(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    (one,) = explain_matches(cnn, images[:1], images[3:4])
    (swapped,) = explain_matches(cnn, images[3:4], images[:1])
    assert one.match is not None
    assert swapped.match is not None
    np.testing.assert_allclose(swapped.match.own_map, one.match.map, atol=1e-6)
    assert not np.allclose(one.match.own_map, one.match.map)


@pytest.mark.parametrize(("limit", "grid"), [(8, (4, 2)), (7, (2, 1)), (1, (1, 1))])
def test_large_grids_are_occluded_in_larger_cells(
    limit: int, grid: tuple[int, int], cnn: TrainedModel, images: list[ImageToDraw], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnsearch.evaluation.matches.MAX_OCCLUDED", limit)
    (one,) = explain_matches(cnn, images[:1], images[3:4])
    assert one.match is not None
    assert one.match.own_map.shape == one.match.map.shape == grid


def test_own_maps_do_not_depend_on_the_other_image(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    (one,) = explain_matches(cnn, images[:1], images[1:2], method="own")
    alone, other = cnn.explain([str(images[0].source), str(images[1].source)])
    assert one.match is not None
    assert one.match.method == "own"
    np.testing.assert_allclose(one.match.own_map, alone.saliency, atol=1e-6)
    np.testing.assert_allclose(one.match.map, other.saliency, atol=1e-6)


def test_a_transformer_explains_a_match_by_gradients_where_asked(images: list[ImageToDraw]) -> None:
    model = untrained(tiny_individuals(model=DCAL))
    (occluded,) = explain_matches(model, images[:1], images[1:2])
    (one,) = explain_matches(model, images[:1], images[1:2], method="gradient_rollout")
    assert occluded.match is not None
    assert one.match is not None
    assert (occluded.match.pairs, occluded.match.method) == (None, "occlusion")
    assert (one.match.pairs, one.match.method) == (None, "gradient_rollout")
    assert one.match.own_map.shape == one.match.map.shape == occluded.match.map.shape == (4, 2)
    assert one.match.own_map.min() >= 0 < one.match.own_map.max()
    embedded = model.embed([str(image.source) for image in images[:2]])
    assert one.cosine == occluded.cosine == pytest.approx(float(embedded[0] @ embedded[1]), abs=1e-5)
    (swapped,) = explain_matches(model, images[1:2], images[:1], method="gradient_rollout")
    assert swapped.match is not None
    np.testing.assert_allclose(swapped.match.own_map, one.match.map, rtol=1e-4, atol=1e-7)


def test_a_method_that_the_model_cannot_have_is_named(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    query, other = (str(image.source) for image in images[:2])
    with pytest.raises(UsageError, match=r"gradient_rollout.*no plain self-attention"):
        cnn.explain(query, target=cnn.similarity_to(other, method="gradient_rollout"))
    transformer = untrained(tiny_individuals(model=DCAL))
    with pytest.raises(UsageError, match="is no sum over the cells"):
        transformer.explain(query, target=transformer.similarity_to(other, method="pair"))


def test_a_model_explains_its_similarity_to_an_image(
    cnn: TrainedModel, images: list[ImageToDraw], tmp_path: Path
) -> None:
    query, other = (str(image.source) for image in images[:2])
    one = cnn.explain(query, target=cnn.similarity_to(other))
    (listed,) = cnn.explain([query], target=cnn.similarity_to(other))
    embedded = cnn.embed([query, other])
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)
    assert one.cosine == pytest.approx(float(embedded[0] @ embedded[1]), abs=1e-5) == listed.cosine
    assert one.saliency is not None
    assert one.saliency.min() >= 0
    assert one.save(tmp_path / "a.png", kind="pair").is_file()
    with Image.open(other) as opened:
        in_memory = cnn.explain(query, target=cnn.similarity_to(opened))
    assert (in_memory.target, in_memory.cosine) == ("similarity to reference", one.cosine)
    assert one._repr_png_() is not None


def test_without_a_target_no_class_is_claimed(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    one = cnn.explain(str(images[0].source))
    assert "6 training identities, 64 x 32 px" in repr(cnn)
    assert (one.class_names, one.predicted, one.classes, one.target, one.cosine) == ((), None, (), "", None)
    assert one.top().empty
    assert not set(IDENTITIES) & set(re.findall(r"\w+", repr(one)))
    np.testing.assert_array_equal(one.saliency, one.maps["norm"])
    with pytest.raises(UsageError, match=r"reid predicts no classes, so '0001' cannot be explained.*similarity_to"):
        cnn.explain(str(images[0].source), target="0001")


def test_scores_of_own_images_follow_what_the_embedding_rests_on(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    scores = cnn.score([str(image.source) for image in images[:2]], ["relevance_gain", "gini"])
    assert scores.shape == (2, 2)
    assert np.isfinite(scores.to_numpy()).all()


def test_a_model_is_evaluated_on_validation(cnn: TrainedModel, individuals: DataSource) -> None:
    assert {"val/mAP", "val/rank1", "val/loss"} <= cnn.evaluate("val", data=individuals).keys()


def test_many_images_are_explained_like_one(cnn: TrainedModel, images: list[ImageToDraw]) -> None:
    many = list(explain_matches(cnn, images * 4, [images[0]] * 20))
    (alone,) = explain_matches(cnn, images[3:4], images[:1])
    assert [one.image_id for one in many] == [image.image_id for image in images] * 4
    np.testing.assert_allclose(many[18].saliency, alone.saliency, atol=1e-6)


def test_cameras_come_with_the_images(images: list[ImageToDraw]) -> None:
    model = untrained(tiny_individuals(model={**DCAL, "n_cameras": 2}))
    with pytest.raises(DataError, match="the images name none"):
        list(explain_matches(model, images[:1], images[1:2]))
    query, other = images[:2]
    seen = [ImageToDraw(other.image_id, other.source, camera=camera) for camera in (0, 1)]
    queries = [ImageToDraw(query.image_id, query.source, camera=0)] * 2
    first, second = explain_matches(model, queries, seen)
    assert first.cosine != second.cosine


def test_a_class_is_no_similarity(images: list[ImageToDraw], tiny_config: ConfigMaker) -> None:
    config = tiny_config()
    torch.manual_seed(0)
    state = build_model(config.model, build_task(config.task).heads(2)).state_dict()
    checkpoint = ModelCheckpoint(Path("tiny"), config, ("blue", "red"), 1, 1, "", state)
    inference = InferenceModel(checkpoint, config, *build_for_inference(checkpoint, config))
    with pytest.raises(UsageError, match="compares no images; give the name of a class"):
        TrainedModel(*vars(inference).values()).similarity_to("a.jpg")
    with pytest.raises(UsageError, match="compares no images; give the name of a class"):
        list(explain_matches(inference, images[:1], images[1:2]))
