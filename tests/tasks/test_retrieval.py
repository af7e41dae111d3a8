"""The meter of a retrieval, and what a match is explained against."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from attnsearch.data.fixed_rows import fixed_halves
from attnsearch.data.tables import ImageTable
from attnsearch.errors import NonFiniteLoss, UsageError
from attnsearch.metrics.retrieval import distances, ranking_scores
from attnsearch.tasks.retrieval import (
    GalleryRanking,
    RetrievalMeter,
    SimilarityTarget,
    nearest_gallery,
    rank_split,
    references_of,
)
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, Distance, HeadOutput, Retrieval

# the worked example of the protocol: identity / camera, queries first
QUERIES = [(5, 1), (7, 2), (2, 2)]
GALLERY = [(5, 1), (0, 2), (5, 3), (7, 1), (5, 2), (7, 3), (2, 2)]
ORDERS = [[0, 1, 2, 3, 4, 5, 6], [5, 2, 3, 6, 1, 4, 0], [0, 1, 2, 3, 4, 5, 6]]


def worked_example() -> tuple[ImageTable, NDArray[np.float32]]:
    """A split, and features whose distances rank the gallery as the example does."""
    images = [*QUERIES, *GALLERY]
    identities = sorted({identity for identity, _ in images})
    ids = tuple(f"{row}.jpg" for row in range(len(images)))
    table = ImageTable(
        "val",
        tuple(map(str, identities)),
        ids,
        tuple(map(Path, ids)),
        np.array([identities.index(identity) for identity, _ in images]),
        match_rule="camera",
        camera_names=("1", "2", "3"),
        cameras=np.array([camera - 1 for _, camera in images]),
        is_query=np.arange(len(images)) < len(QUERIES),
    )
    cosines = np.zeros((len(GALLERY), len(QUERIES)))
    for query, order in enumerate(ORDERS):
        cosines[order, query] = np.linspace(0.5, 0.1, len(order))
    rest = np.sqrt(1 - np.square(cosines).sum(axis=1, keepdims=True))
    features = np.concatenate([np.eye(len(QUERIES), len(QUERIES) + 1), np.hstack([cosines, rest])])
    return table, features.astype(np.float32)


def test_the_worked_example_of_the_protocol() -> None:
    table, features = worked_example()
    retrieval, metrics = rank_split(table, features, distance="cosine")
    np.testing.assert_allclose(retrieval.average_precision, [0.5, 5 / 6, np.nan])
    np.testing.assert_allclose(retrieval.inverse_negative_penalty, [0.5, 2 / 3, np.nan])
    assert retrieval.first_match.tolist() == [2, 1, 0]
    assert metrics == pytest.approx(
        {"mAP": 2 / 3, "rank1": 0.5, "rank5": 1.0, "rank10": 1.0, "mINP": (0.5 + 2 / 3) / 2}
    )
    assert retrieval.ranked_rows[0, :6].tolist() == [len(QUERIES) + place for place in ORDERS[0][1:]]
    assert retrieval.ranked_rows[0, 6] == -1
    assert len(QUERIES) not in retrieval.ranked_rows[0]


def test_queries_and_gallery_may_take_turns() -> None:
    table, features = worked_example()
    order = np.random.default_rng(0).permutation(len(table))
    assert table.cameras is not None
    assert table.is_query is not None
    mixed = replace(
        table,
        image_ids=tuple(table.image_ids[row] for row in order),
        paths=tuple(table.paths[row] for row in order),
        labels=table.labels[order],
        cameras=table.cameras[order],
        is_query=table.is_query[order],
    )
    assert rank_split(mixed, features[order], distance="cosine")[1] == pytest.approx(
        rank_split(table, features, distance="cosine")[1]
    )


def test_the_nearest_gallery_image_and_the_nearest_match() -> None:
    table, features = worked_example()
    retrieval, _ = rank_split(table, features, distance="cosine")
    assert nearest_gallery(retrieval, 0, only_matches=False) == len(QUERIES) + 1
    assert nearest_gallery(retrieval, 0, only_matches=True) == len(QUERIES) + 2
    assert nearest_gallery(retrieval, 2, only_matches=True) is None


def passed(
    meter: RetrievalMeter, features: NDArray[np.float32], order: list[int], identities: str = "aabbaabbaa"
) -> RetrievalMeter:
    """The meter after batches of four rows, whose losses are 2, 6 and 10."""
    for start in range(0, len(order), 4):
        rows = torch.tensor(order[start : start + 4])
        ids = tuple(map(str, rows.tolist()))
        labels = torch.tensor([int(identity, 36) for identity in identities[start : start + len(rows)]])
        batch = Batch(torch.zeros(len(rows), 3, 2, 2), labels, ids, rows)
        output = AttentionOutput(HeadOutput(torch.zeros(len(rows), 2), torch.from_numpy(features)[rows]))
        meter.add(batch, output, {"triplet": torch.tensor(2.0 + start)})
    return meter


def embedded(output: AttentionOutput) -> torch.Tensor:
    assert output.embedding is not None
    return output.embedding


def test_a_meter_ranks_whatever_the_order_of_the_batches() -> None:
    table, features = worked_example()
    order = np.random.default_rng(0).permutation(len(table)).tolist()
    meter = passed(RetrievalMeter(table, embedded, distance="cosine"), features, order)
    scores = meter.scores()
    assert scores.metrics["mAP"] == pytest.approx(2 / 3)
    assert scores.n_images == 10
    assert meter.retrieval is not None
    assert np.array_equal(meter.retrieval.features, features)


def test_halves_of_the_queries_have_their_own_precision() -> None:
    table, features = worked_example()
    meter = RetrievalMeter(table, embedded, distance="cosine", in_halves=True)
    metrics = passed(meter, features, list(range(10))).scores().metrics
    assert meter.retrieval is not None
    halves = fixed_halves(table)
    assert table.is_query is not None
    assert (halves[~table.is_query] == -1).all()
    means, sizes = [metrics["mAP_half_a"], metrics["mAP_half_b"]], [int((halves == half).sum()) for half in range(2)]
    assert sum(sizes) == np.isfinite(meter.retrieval.average_precision).sum()
    assert np.average(means, weights=sizes) == pytest.approx(metrics["mAP"])


@pytest.mark.parametrize(
    ("identities", "loss"),
    [
        ("aabbabbaaa", 4.0),  # the last batch has no negative, of the others there are as many images
        ("aabbabcdab", 2.0),  # nor has a batch of single images a positive
        ("abcdabcaab", 6.0),
        ("aaaaabcdbb", math.nan),
    ],
)
def test_batches_without_a_triplet_leave_the_mean_of_the_loss(identities: str, loss: float) -> None:
    table, features = worked_example()
    meter = passed(RetrievalMeter(table, embedded, distance="cosine"), features, list(range(10)), identities)
    scores = meter.scores()
    np.testing.assert_equal([scores.loss, meter.loss(), scores.terms["triplet"]], [loss] * 3)
    assert meter.has_loss == (not math.isnan(loss))
    assert scores.metrics["mAP"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_embeddings_that_cannot_be_ranked_fail_the_trial(value: float) -> None:
    table, features = worked_example()
    features[[2, 5], 1] = value
    meter = passed(RetrievalMeter(table, embedded), features, list(range(10)))
    with pytest.raises(
        NonFiniteLoss, match=r"embeddings of 2 of 10 val images are NaN, infinite or too large; lower train\."
    ):
        meter.scores()


def test_a_pass_over_some_images_ranks_nothing() -> None:
    table, features = worked_example()
    meter = passed(RetrievalMeter(table, embedded), features, [0, 1, 2, 3])
    assert "mAP" not in meter.scores().metrics
    assert meter.retrieval is None


def test_training_counts_identities() -> None:
    table, features = worked_example()
    scores = passed(RetrievalMeter(table, None), features, list(range(10)), "0000110010").scores()
    assert scores.metrics == {"identity_accuracy": 0.7}


def test_the_rule_is_part_of_the_names() -> None:
    table, features = worked_example()
    grouped = ImageTable(**{**vars(table), "match_rule": "group", "groups": table.cameras, "cameras": None})
    _, metrics = rank_split(grouped, features, distance="cosine")
    assert metrics["mAP_group"] == pytest.approx(2 / 3)
    assert set(metrics) == {"mAP_group", "rank1_group", "rank5_group", "rank10_group", "mINP_group"}


def test_a_similarity_target_is_the_cosine() -> None:
    references, features = torch.randn(3, 4), torch.randn(3, 4)
    target = SimilarityTarget(references, embedded)
    output = AttentionOutput(HeadOutput(torch.zeros(3, 2), features))
    torch.testing.assert_close(target.score(output), F.cosine_similarity(features, references))
    rows = torch.tensor([2, 0, 0])
    taken = AttentionOutput(HeadOutput(torch.zeros(3, 2), features[rows]))
    torch.testing.assert_close(target.take(rows).score(taken), target.score(output)[rows])


def archive_of(retrieval: Retrieval) -> AttentionArchive:
    """An archive of all images of a split, without maps."""
    n = len(retrieval.image_ids)
    return AttentionArchive(
        image_ids=retrieval.image_ids, labels=retrieval.labels, predictions=retrieval.labels,
        confidences=np.ones(n, np.float32), sizes_hw=np.ones((n, 2), np.int64), crop_boxes=np.zeros((n, 4)),
        class_names=retrieval.identities, map_names=(), maps=None, norms=None, saliency=None, config_digest="d",
        epoch=1, split="val", retrieval=retrieval,
    )  # fmt: skip


def some_split(n_queries: int = 12, n_gallery: int = 60) -> tuple[ImageTable, NDArray[np.float32]]:
    """Queries and gallery images of 5 identities and 3 cameras; each third of the gallery has the same features."""
    rng = np.random.default_rng(0)
    n_images = n_queries + n_gallery
    ids = tuple(f"{row}.jpg" for row in range(n_images))
    table = ImageTable(
        "val",
        tuple("abcde"),
        ids,
        tuple(map(Path, ids)),
        rng.integers(0, 5, n_images),
        match_rule="camera",
        camera_names=tuple("123"),
        cameras=rng.integers(0, 3, n_images),
        is_query=np.arange(n_images) < n_queries,
    )
    features = rng.normal(size=(n_images, 4)).astype(np.float32)
    features[n_queries:] = np.tile(features[n_queries : n_queries + n_gallery // 3], (3, 1))
    return table, features


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_masked_queries_rank_the_gallery_by_the_protocol(distance: Distance) -> None:
    table, features = some_split()
    retrieval, _ = rank_split(table, features, distance=distance)
    places = np.array([7, 0, 11, 3])
    masked = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    masked[0] = features[7]
    ranking = GalleryRanking.of(archive_of(retrieval), places)
    gallery = ~retrieval.is_query
    expected = ranking_scores(
        distances(masked, features[gallery], metric=distance),
        *(table.labels[places], table.labels[gallery], table.removal_keys[places], table.removal_keys[gallery]),
    ).average_precision
    found = ranking.average_precision(torch.from_numpy(masked)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[0] == pytest.approx(retrieval.average_precision[7])
    order = torch.tensor([2, 0, 0])
    again = ranking.take(order).average_precision(torch.from_numpy(masked)[order]).numpy()
    np.testing.assert_allclose(again, expected[order], atol=1e-6)


def test_a_query_without_a_match_has_no_average_precision() -> None:
    table, features = worked_example()
    retrieval, _ = rank_split(table, features, distance="cosine")
    ranking = GalleryRanking.of(archive_of(retrieval), np.array([0, 1, 2]))
    found = ranking.average_precision(torch.from_numpy(features[:3]))
    np.testing.assert_allclose(found, [0.5, 5 / 6, np.nan], atol=1e-6)


def test_a_target_follows_the_cosine_and_with_a_gallery_the_ranking() -> None:
    table, features = worked_example()
    retrieval, _ = rank_split(table, features, distance="cosine")
    archived, places = archive_of(retrieval), np.array([0, 1])
    output = AttentionOutput(HeadOutput(torch.zeros(2, 2), torch.from_numpy(features[:2])))
    plain = SimilarityTarget(references_of(archived, places, "label"), embedded)
    assert (list(plain.followed(output)), plain.known) == (["score"], ())
    ranked = SimilarityTarget(plain.references, embedded, GalleryRanking.of(archived, places)).to(torch.device("cpu"))
    second = ranked.take(slice(1, 2)).followed(AttentionOutput(HeadOutput(torch.zeros(1, 2), output.embedding[1:])))
    assert second["score"].tolist() == pytest.approx([0.5])  # of the nearest match
    assert second["average_precision"].tolist() == pytest.approx([5 / 6])
    assert ranked.known == ("gallery",)


def test_what_explains_no_match_is_refused() -> None:
    table, features = worked_example()
    retrieval, _ = rank_split(table, features, distance="cosine")
    archived = archive_of(retrieval)
    for place, choice in ((5, "predicted"), (2, "label")):
        with pytest.raises(UsageError, match="only queries that have a match"):
            references_of(archived, np.array([place]), choice)
    with pytest.raises(UsageError, match="evaluate the trial again"):
        GalleryRanking.of(replace(archived, retrieval=None), np.array([0]))
