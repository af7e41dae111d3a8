"""Rankings against golden numbers, the worked example of the protocol, full sorts, and what must not change a score."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from attnsearch.errors import UsageError
from attnsearch.metrics.retrieval import (
    RankingLabels,
    camera_matrix,
    distances,
    group_means,
    random_mean_average_precision,
    rank_distances,
    rank_features,
    ranking_scores,
    rerank,
    score_intervals,
)
from attnsearch.metrics.statistics import bootstrap_interval

with np.load(Path(__file__).parents[1] / "golden" / "reid_eval.npz", allow_pickle=False) as stored:
    GOLDEN = dict(stored)
LABELS = RankingLabels(*(GOLDEN[name] for name in ("q_pid", "g_pid", "q_cam", "g_cam")))
#: Identities and cameras of the worked example; 0 is the background.
EXAMPLE_IDS, EXAMPLE_CAMERAS = [5, 0, 5, 7, 5, 7, 2], [1, 2, 3, 1, 2, 3, 2]


def parts(labels: RankingLabels):
    return labels.query_ids, labels.gallery_ids, labels.query_cameras, labels.gallery_cameras


def random_case(seed: int, *, n_queries: int = 40, n_gallery: int = 90, n_ids: int = 12, n_cameras: int = 3):
    """Features of 6 values and labels; some queries have no match, as there are more identities than in the gallery."""
    rng = np.random.default_rng(seed)
    query, gallery = (rng.standard_normal((n, 6)).astype(np.float32) for n in (n_queries, n_gallery))
    ids = rng.integers(n_ids + 2, size=n_queries), rng.integers(n_ids, size=n_gallery)
    cameras = rng.integers(n_cameras, size=n_queries), rng.integers(n_cameras, size=n_gallery)
    return query, gallery, RankingLabels(*ids, *cameras)


def sorted_ranking(matrix: np.ndarray, labels: RankingLabels, query: int) -> tuple[np.ndarray, np.ndarray]:
    """Kept gallery positions in the order of a stable sort, and which of them are matches: the protocol, literally."""
    order = np.argsort(matrix[query], kind="stable")
    is_same = labels.gallery_ids[order] == labels.query_ids[query]
    kept = np.ones(len(order), dtype=bool)
    if labels.query_cameras is not None:
        kept = ~(is_same & (labels.gallery_cameras[order] == labels.query_cameras[query]))
    return order[kept], is_same[kept]


def sorted_average_precision(matrix: np.ndarray, labels: RankingLabels) -> np.ndarray:
    found = np.full(len(matrix), np.nan)
    for query in range(len(matrix)):
        _, is_match = sorted_ranking(matrix, labels, query)
        if is_match.any():
            ranks = np.flatnonzero(is_match) + 1
            found[query] = np.mean(np.arange(1, len(ranks) + 1) / ranks)
    return found


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_golden_rankings(metric):
    scores = ranking_scores(distances(GOLDEN["q_feat"], GOLDEN["g_feat"], metric=metric), *parts(LABELS))
    is_valid = GOLDEN["valid_query"]
    assert scores.n_valid == is_valid.sum()
    assert np.array_equal(~np.isnan(scores.average_precision), is_valid)
    assert np.array_equal(scores.first_match == 0, ~is_valid)
    np.testing.assert_allclose(scores.average_precision[is_valid], GOLDEN[f"ap_{metric}"], atol=1e-12)
    np.testing.assert_allclose(scores.inverse_negative_penalty[is_valid], GOLDEN[f"inp_{metric}"], atol=1e-12)
    curve = GOLDEN[f"cmc_{metric}"]
    np.testing.assert_allclose(scores.cmc[: len(curve)], curve, atol=1e-12)
    np.testing.assert_allclose(scores.cmc[[0, 4, 9]], GOLDEN[f"rank_{metric}"], atol=1e-12)
    assert scores.mean_average_precision == pytest.approx(float(GOLDEN[f"map_{metric}"]), abs=1e-12)
    assert scores.mean_inverse_negative_penalty == pytest.approx(float(GOLDEN[f"minp_{metric}"]), abs=1e-12)


def example(order: list[int]) -> list[float]:
    """Distances that rank the gallery of the worked example in this order of its positions."""
    row = [0.0] * len(order)
    for rank, position in enumerate(order):
        row[position] = float(rank)
    return row


def test_worked_example_of_the_protocol():
    # 5/1: ranked as they stand; 7/2: 7/3, 5/3, 7/1, 2/2, 0/2, 5/2, 5/1; 2/2: its only match is of the same camera
    matrix = [example([0, 1, 2, 3, 4, 5, 6]), example([5, 2, 3, 6, 1, 4, 0]), example([6, 0, 1, 2, 3, 4, 5])]
    scores = ranking_scores(matrix, [5, 7, 2], EXAMPLE_IDS, [1, 2, 2], EXAMPLE_CAMERAS)
    np.testing.assert_allclose(scores.average_precision, [0.5, 5 / 6, math.nan])
    np.testing.assert_allclose(scores.inverse_negative_penalty, [0.5, 2 / 3, math.nan])
    assert scores.first_match.tolist() == [2, 1, 0]
    assert (scores.cmc[0], scores.cmc[4], scores.n_valid) == (0.5, 1.0, 2)
    assert scores.mean_average_precision == pytest.approx(2 / 3)
    assert scores.mean_inverse_negative_penalty == pytest.approx(7 / 12)


def test_images_that_are_removed_do_not_count_wherever_they_stand():
    matrix = np.array([example([0, 1, 2, 3, 4, 5, 6])])
    first, last = matrix.copy(), matrix.copy()
    first[0, 0], last[0, 0] = -9.0, 9.0  # position 0 is the query's identity from its own camera
    found = [ranking_scores(one, [5], EXAMPLE_IDS, [1], EXAMPLE_CAMERAS) for one in (first, last)]
    assert found[0].average_precision[0] == found[1].average_precision[0] == 0.5
    assert first[0, 0] == -9.0  # and the matrix is left as it was


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16])
def test_distances_may_be_whole_numbers(dtype):
    matrix = np.array([example([0, 1, 2, 3, 4, 5, 6])]).astype(dtype)
    assert ranking_scores(matrix, [5], EXAMPLE_IDS, [1], EXAMPLE_CAMERAS).average_precision.tolist() == [0.5]


def test_images_of_others_from_the_same_camera_stay():
    without = ranking_scores([example([3, 2, 0, 1, 4, 5, 6])], [5], EXAMPLE_IDS, [1], EXAMPLE_CAMERAS)
    assert without.first_match.tolist() == [2]  # behind 7/1


def test_without_cameras_nothing_is_removed():
    scores = ranking_scores([example([6, 0, 1, 2, 3, 4, 5])], [2], EXAMPLE_IDS)
    assert scores.average_precision.tolist() == [1.0]


def test_curve_is_constant_beyond_the_gallery():
    scores = ranking_scores([[0.2, 0.1, 0.3], [0.3, 0.1, 0.2]], [1, 1], [1, 2, 3], max_rank=6)
    assert scores.cmc.tolist() == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert len(ranking_scores([[0.2, 0.1]], [1], [1, 2]).cmc) == 50


@pytest.mark.parametrize("with_cameras", [True, False])
@pytest.mark.parametrize("n_levels", [3, 1000])
def test_ranks_are_those_of_a_stable_sort(with_cameras, n_levels):
    _, _, labels = random_case(1)
    labels = labels if with_cameras else replace(labels, query_cameras=None, gallery_cameras=None)
    matrix = np.random.default_rng(2).integers(n_levels, size=(40, 90)).astype(np.float32)  # 3 levels: mostly ties
    ranked = rank_distances([matrix[:7], matrix[7:]], labels, top_k=100)
    np.testing.assert_allclose(ranked.scores.average_precision, sorted_average_precision(matrix, labels), atol=1e-12)
    for query in range(40):
        order, is_match = sorted_ranking(matrix, labels, query)
        assert ranked.nearest[query, : len(order)].tolist() == order.tolist()
        assert set(ranked.nearest[query, len(order) :].tolist()) == {-1}
        assert ranked.distances[query, : len(order)].tolist() == matrix[query, order].tolist()
        assert np.isnan(ranked.distances[query, len(order) :]).all()
        assert ranked.scores.first_match[query] == (np.flatnonzero(is_match)[0] + 1 if is_match.any() else 0)


@pytest.mark.parametrize("top_k", [1, 7])
def test_ties_at_the_end_of_the_list_are_broken_by_position(top_k):
    _, _, labels = random_case(1)
    matrix = np.random.default_rng(3).integers(3, size=(40, 90)).astype(np.float32)
    nearest = rank_distances([matrix], labels, top_k=top_k).nearest
    assert nearest.dtype == np.int32
    expected = [sorted_ranking(matrix, labels, query)[0][:top_k].tolist() for query in range(40)]
    assert nearest.tolist() == expected


def test_infinite_distances_rank_last():
    matrix = [[np.inf, 0.0, np.inf, np.inf]]
    assert ranking_scores(matrix, [1], [2, 3, 4, 1]).first_match.tolist() == [4]
    assert ranking_scores(matrix, [1], [1, 3, 4, 1], [0], [0, 0, 0, 1]).first_match.tolist() == [3]  # not 4: removed


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_block_size_changes_nothing(metric):
    query, gallery, labels = random_case(4, n_queries=1300, n_gallery=2500, n_ids=200)
    gallery[2000:] = gallery[:500]  # ties
    whole = ranking_scores(distances(query, gallery, metric=metric), *parts(labels))
    ranked = [rank_features(query, gallery, labels, metric=metric, top_k=5, block_rows=n) for n in (1, 512, 600, 5000)]
    for one in ranked:
        np.testing.assert_array_equal(one.scores.average_precision, whole.average_precision)
        np.testing.assert_array_equal(one.scores.inverse_negative_penalty, whole.inverse_negative_penalty)
        np.testing.assert_array_equal(one.scores.first_match, whole.first_match)
        np.testing.assert_array_equal(one.nearest, ranked[0].nearest)
        np.testing.assert_array_equal(one.distances, ranked[0].distances)


def test_order_of_queries_and_gallery_changes_nothing():
    query, gallery, labels = random_case(5)
    rng = np.random.default_rng(6)
    q, g = rng.permutation(40), rng.permutation(90)
    moved = RankingLabels(
        labels.query_ids[q], labels.gallery_ids[g], labels.query_cameras[q], labels.gallery_cameras[g]
    )
    plain = rank_features(query, gallery, labels, metric="cosine", top_k=4)
    permuted = rank_features(query[q], gallery[g], moved, metric="cosine", top_k=4)
    np.testing.assert_array_equal(permuted.scores.average_precision, plain.scores.average_precision[q])
    np.testing.assert_array_equal(permuted.scores.cmc, plain.scores.cmc)
    np.testing.assert_array_equal(g[permuted.nearest], plain.nearest[q])


def test_features_may_be_mapped_from_files(tmp_path):
    query, gallery, labels = random_case(7)
    np.save(tmp_path / "q.npy", query)
    np.save(tmp_path / "g.npy", gallery)
    mapped = [np.load(tmp_path / name, mmap_mode="r") for name in ("q.npy", "g.npy")]
    found = rank_features(*mapped, labels, metric="euclidean").scores
    expected = rank_features(query, gallery, labels, metric="euclidean").scores
    np.testing.assert_array_equal(found.average_precision, expected.average_precision)


def test_tensors_and_names_are_taken_too():
    query, gallery, labels = random_case(8)
    names = [f"person {number}" for number in labels.query_ids], [f"person {number}" for number in labels.gallery_ids]
    expected = ranking_scores(distances(query, gallery, metric="cosine"), labels.query_ids, labels.gallery_ids)
    matrix = distances(torch.from_numpy(query), torch.from_numpy(gallery), metric="cosine")
    found = ranking_scores(matrix, *names)
    np.testing.assert_array_equal(found.average_precision, expected.average_precision)


def test_reported_numbers_have_their_intervals():
    query, gallery, labels = random_case(9)
    scores = rank_features(query, gallery, labels, metric="cosine").scores
    intervals = score_intervals(scores, seed=3)
    assert list(intervals) == ["mAP", "rank1", "rank5", "rank10", "mINP"]
    assert intervals["mAP"].mean == pytest.approx(scores.mean_average_precision)
    assert intervals["mINP"].mean == pytest.approx(scores.mean_inverse_negative_penalty)
    for rank in (1, 5, 10):
        assert intervals[f"rank{rank}"].mean == pytest.approx(scores.cmc[rank - 1])
    assert {one.n for one in intervals.values()} == {scores.n_valid}
    assert scores.n_valid < 40
    assert intervals["rank1"] == bootstrap_interval(scores.hits(1), seed=3)


def test_camera_matrix_ranks_one_camera_alone():
    query, gallery, labels = random_case(10)
    labels = replace(labels, gallery_cameras=np.where(labels.gallery_cameras == 2, 1, labels.gallery_cameras))
    found = camera_matrix(query, gallery, labels, metric="euclidean", n_cameras=4)
    matrix = np.linalg.norm(query[:, None].astype(float) - gallery, axis=2)
    for a in range(4):
        for b in range(4):
            q, g = np.flatnonzero(labels.query_cameras == a), np.flatnonzero(labels.gallery_cameras == b)
            part = RankingLabels(labels.query_ids, labels.gallery_ids[g]) if len(g) else None
            precisions = sorted_average_precision(matrix[:, g], part)[q] if part and a != b else np.array([np.nan])
            defined = precisions[~np.isnan(precisions)]
            assert found[a, b] == pytest.approx(defined.mean() if len(defined) else np.nan, nan_ok=True), (a, b)
    assert np.isfinite(found).sum() == 4  # cameras 0 and 1 of the gallery, each against two others with queries


def test_means_of_groups_leave_out_undefined_values():
    values, groups = np.array([1.0, np.nan, 0.5, np.nan, 0.0]), np.array([0, 0, 2, 3, 2])
    np.testing.assert_array_equal(group_means(values, groups, 4), [1.0, np.nan, 0.25, np.nan])
    with pytest.raises(UsageError, match="from 0 to 2, got 0 to 3"):
        group_means(values, groups, 3)


def test_random_rankings_score_as_the_formula_says():
    _, _, labels = random_case(11)
    rng = np.random.default_rng(12)
    found = [ranking_scores(rng.random((40, 90)), *parts(labels)).mean_average_precision for _ in range(400)]
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(random_mean_average_precision(labels), abs=4 * error)
    assert error < 0.002


def test_formula_of_random_rankings_by_hand():
    # n = 1 of N = 2: ranks 1 and 2 alike; a single match alone is first; the value of the demo set, n = 9 of N = 445
    assert random_mean_average_precision(RankingLabels([1], [1, 2])) == pytest.approx(0.75)
    assert random_mean_average_precision(RankingLabels([1], [1])) == 1.0
    assert random_mean_average_precision(RankingLabels([1], [1] * 9 + [2] * 436)) == pytest.approx(0.0328, abs=5e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.1, 0.2]], [1], [1, 2], [0], None), "query_cameras needs gallery_cameras"),
        (([[0.1, 0.2]], [1], [1, 2], None, [0, 0]), "gallery_cameras needs query_cameras"),
        (([[0.1, 0.2]], [1], [1, 2], [0], [0]), "gallery_cameras has 1 entries for 2 gallery_ids"),
        (([[0.1, 0.2]], [1, 1], [1, 2]), "distances of 1 queries for 2 query_ids"),
        (([[0.1, 0.2]], [1], [1, 2, 3]), r"shape \(1, 2\), but there are labels for \(1, 3\)"),
        (([0.1, 0.2], [1], [1, 2]), r"must be a matrix .* shape \(2,\)"),
        (([[0.1, 0.2]], [[1]], [1, 2]), r"query_ids must be a list of labels, got the shape \(1, 1\)"),
        (([[0.1, math.nan]], [1], [1, 2]), "distances have NaN"),
        ((np.empty((1, 0)), [1], []), "the gallery has no image"),
        ((np.empty((0, 1)), [], [1]), "the query has no image"),
        (([[0.1, 0.2]], [3], [1, 2]), "none of the 1 queries has a match in the gallery of 2 images"),
        (([[0.1, 0.2]], [1], [1, 2], [0], [0, 0]), "none of the 1 queries has a match of another camera"),
        (([[0.1, 0.2]], [1], [1, 2], None, None, 0), "max_rank must be >= 1, got 0"),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        ranking_scores(*arguments)


def test_wrong_settings_of_a_ranking_are_refused():
    query, gallery, labels = random_case(13)
    with pytest.raises(UsageError, match="top_k must be >= 0, got -1"):
        rank_features(query, gallery, labels, metric="cosine", top_k=-1)
    with pytest.raises(UsageError, match="block_rows must be >= 1, got 0"):
        rank_features(query, gallery, labels, metric="cosine", block_rows=0)
    with pytest.raises(UsageError, match=r"shape \(40, 80\), but there are labels for \(40, 90\)"):
        rank_features(query, gallery[:80], labels, metric="cosine")
    without = replace(labels, query_cameras=None, gallery_cameras=None)
    with pytest.raises(UsageError, match="camera matrix needs"):
        camera_matrix(query, gallery, without, metric="cosine", n_cameras=3)
    with pytest.raises(UsageError, match="none of the 40 queries"):
        random_mean_average_precision(replace(without, query_ids=np.full(40, 99)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_features_may_lie_on_a_gpu():
    query, gallery, labels = random_case(14)
    on_gpu = [torch.from_numpy(one).cuda() for one in (query, gallery)]
    found = rank_features(*on_gpu, labels, metric="euclidean", top_k=3)
    expected = rank_features(query, gallery, labels, metric="euclidean", top_k=3)
    np.testing.assert_array_equal(found.nearest, expected.nearest)
    np.testing.assert_allclose(found.scores.average_precision, expected.scores.average_precision)
    assert distances(*on_gpu, metric="cosine").is_cuda
    reranked = rerank(*on_gpu, k1=5, k2=2, lambda_value=0.3)
    np.testing.assert_allclose(reranked.cpu().numpy(), rerank(query, gallery, k1=5, k2=2, lambda_value=0.3), atol=1e-5)
