"""Ranked galleries of a checkpoint: branches, re-ranking, floors, other data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnsearch.config.experiment import ClassificationSettings
from attnsearch.config.load import with_settings
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import DataError, UsageError
from attnsearch.evaluation.base import ModelOnData
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.ranking import Reranking, labels_of
from attnsearch.evaluation.retrieval import embed_split, rank_gallery, rerank_scores
from attnsearch.metrics.retrieval import random_mean_average_precision, ranking_scores, rerank
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_layout import TrialLayout


def trial_of(results: Path, study: str) -> TrialLayout:
    return StudyLayout(results, "people", study).trial(0)


@pytest.fixture(scope="module")
def individuals(people_runs: Path) -> DataSource:
    return open_data(read_model_checkpoint(trial_of(people_runs, "cnn_people").best).config.data)


@pytest.fixture
def dcal(people_runs: Path, individuals: DataSource) -> Iterator[Evaluation]:
    with Evaluation.open(trial_of(people_runs, "dcal_people").best, individuals) as evaluation:
        yield evaluation


@pytest.fixture
def cnn(people_runs: Path, individuals: DataSource) -> Iterator[Evaluation]:
    with Evaluation.open(trial_of(people_runs, "cnn_people").best, individuals) as evaluation:
        yield evaluation


def test_the_own_ranking_is_that_of_validation(cnn: Evaluation, people_runs: Path) -> None:
    report = cnn.retrieval("val")
    archived = read_archive(trial_of(people_runs, "cnn_people").archive("val")).retrieval
    assert archived is not None
    np.testing.assert_allclose(report.retrieval.features, archived.features, atol=1e-5)
    np.testing.assert_allclose(report.retrieval.average_precision, archived.average_precision)
    (row,) = report.rankings
    assert (row.name, row.n_queries) == ("combined", int(archived.is_query.sum()))
    assert row.scores["mAP"].mean == pytest.approx(cnn.run("val")["val/mAP"])


def test_a_gallery_is_ranked_without_floors(cnn: Evaluation) -> None:
    ranked, report = rank_gallery(cnn, "val"), cnn.retrieval("val")
    np.testing.assert_array_equal(ranked.ranked_rows, report.retrieval.ranked_rows)
    np.testing.assert_array_equal(ranked.features, report.retrieval.features)
    with pytest.raises(UsageError, match="the split 'train' has no queries"):
        rank_gallery(cnn, "train")


def test_branches_are_ranked_alone_and_side_by_side(dcal: Evaluation) -> None:
    features = embed_split(dcal, "val")
    assert list(features) == ["combined", "sa", "glca"]
    for one in features.values():
        np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    halves = features["combined"].shape[1] // 2
    directions = (features["combined"][:, :halves], features["combined"][:, halves:])
    for own, direction in zip((features["sa"], features["glca"]), directions, strict=True):
        np.testing.assert_allclose(F.normalize(torch.from_numpy(direction)).numpy(), own, atol=1e-5)
    assert [row.name for row in dcal.retrieval("val").rankings] == ["combined", "sa", "glca"]


def test_a_flip_averages_branches_too(dcal: Evaluation) -> None:
    config = with_settings(dcal.config, {"task.flip_average": True})
    flipped = replace(dcal, config=config)
    batch = next(dcal.batches("val"))
    mirrored = replace(batch, images=batch.images.flip(-1))
    heads, others, means = (
        {name: head.embedding for name, head in one.output(each, maps=None).branches.items()}
        for one, each in ((dcal, batch), (dcal, mirrored), (flipped, batch))
    )
    for name, mean in means.items():
        own, other = heads[name], others[name]
        assert mean is not None
        assert own is not None
        assert other is not None
        torch.testing.assert_close(mean, (own + other) / 2)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_re_ranking_is_that_of_the_features(cnn: Evaluation, distance: str) -> None:
    cnn = replace(cnn, config=with_settings(cnn.config, {"task.distance": distance, "task.normalise": False}))
    retrieval = cnn.retrieval("val").retrieval
    features, is_query = retrieval.features, retrieval.is_query
    if distance == "cosine":
        features = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = rerank(features[is_query], features[~is_query], k1=5, k2=3, lambda_value=0.3)
    labels = labels_of(retrieval)
    expected = ranking_scores(
        distances, labels.query_ids, labels.gallery_ids, labels.query_cameras, labels.gallery_cameras
    )
    found = rerank_scores(retrieval, Reranking(5, 3, 0.3))
    np.testing.assert_allclose(found.average_precision, expected.average_precision)


def test_floors_need_no_trained_model(cnn: Evaluation, dcal: Evaluation) -> None:
    before = torch.random.get_rng_state()
    floors = cnn.floors("val")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(floors) == ["floor_random_mAP", "floor_histogram_mAP", "floor_untrained_mAP"]
    labels = labels_of(cnn.retrieval("val").retrieval)
    assert floors["floor_random_mAP"] == random_mean_average_precision(labels)
    assert cnn.floors("val") == floors
    others = dcal.floors("val")
    assert others["floor_histogram_mAP"] == floors["floor_histogram_mAP"]
    assert others["floor_untrained_mAP"] != floors["floor_untrained_mAP"]
    assert cnn.floors("train") == {}


@pytest.fixture
def of_cameras(people_runs: Path) -> ModelCheckpoint:
    """A model with vectors of the cameras 1, 2 and 3."""
    return read_model_checkpoint(trial_of(people_runs, "dcal_people").best)


def with_cameras(data: DataSource, *names: str) -> DataSource:
    """The data with other names of cameras, or fewer or more of them."""
    return replace(data, tables=replace(data.tables, train=replace(data.tables.train, camera_names=names)))


def test_cameras_take_the_vectors_of_their_names(of_cameras: ModelCheckpoint, individuals: DataSource) -> None:
    for names in (("1", "2", "3"), ("1", "2")):
        ModelOnData.open(of_cameras, with_cameras(individuals, *names))
    for names, message in (
        (("A", "1", "2"), r"no vectors of the cameras A, only of 1, 2, 3;"),
        (("2", "3"), r"0: '2' \| '1', 1: '3' \| '2'; use data"),
        ((), r"names no cameras, and the model of .* has a vector for each"),
    ):
        with pytest.raises(DataError, match=message):
            ModelOnData.open(of_cameras, with_cameras(individuals, *names))


def test_the_same_names_in_other_data_are_a_warning(
    of_cameras: ModelCheckpoint, individuals: DataSource, caplog: pytest.LogCaptureFixture
) -> None:
    ModelOnData.open(of_cameras, individuals)
    assert "trained on other data" not in caplog.text
    other = replace(individuals, tables=replace(individuals.tables, val_hash="other"))
    ModelOnData.open(of_cameras, other)
    assert "was trained on other data than" in caplog.text


def test_vectors_without_names_are_for_the_data_of_the_training(
    of_cameras: ModelCheckpoint, individuals: DataSource
) -> None:
    older = replace(of_cameras, camera_names=())
    ModelOnData.open(older, individuals)
    other = replace(individuals, tables=replace(individuals.tables, val_hash="other"))
    for data in (other, with_cameras(individuals, "A", "1", "2", "3")):
        with pytest.raises(DataError, match=r"has vectors of 3 cameras and no names of them"):
            ModelOnData.open(older, data)


def test_a_model_of_classes_has_no_gallery(cnn: Evaluation) -> None:
    classifier = replace(cnn, config=cnn.config.model_copy(update={"task": ClassificationSettings()}))
    with pytest.raises(UsageError, match="predicts classes"):
        embed_split(classifier, "val")
