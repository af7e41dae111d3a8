"""Re-ranking against golden numbers and against the paper's steps, written out sample by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from attnsearch.errors import UsageError
from attnsearch.metrics.reranking import rerank, rerank_blocks
from attnsearch.metrics.retrieval import RankingLabels, rank_distances, ranking_scores
from attnsearch.metrics.retrieval import rerank as public_rerank

with np.load(Path(__file__).parents[1] / "golden" / "reid_eval.npz", allow_pickle=False) as stored:
    GOLDEN = dict(stored)
SETTINGS = {"k1": int(GOLDEN["k1"]), "k2": int(GOLDEN["k2"]), "lambda_value": float(GOLDEN["lambda_value"])}
LABELS = RankingLabels(*(GOLDEN[name] for name in ("q_pid", "g_pid", "q_cam", "g_cam")))


def features(name: str) -> list[np.ndarray]:
    raw = [GOLDEN["q_feat"], GOLDEN["g_feat"]]
    return [one / np.linalg.norm(one, axis=1, keepdims=True) for one in raw] if name == "rerank_l2" else raw


def clusters(seed: int, *, n_queries: int, n_gallery: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, 8))
    return [
        (centres[rng.integers(5, size=n)] + 0.7 * rng.standard_normal((n, 8))).astype(np.float32)
        for n in (n_queries, n_gallery)
    ]


def written_out(query: np.ndarray, gallery: np.ndarray, *, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    """The steps of the paper with sets and dense matrices."""
    samples = np.concatenate([query, gallery]).astype(float)
    squared = cdist(samples, samples, "sqeuclidean")
    plain = squared / squared.max(axis=1, keepdims=True)
    order = np.argsort(plain, axis=1, kind="stable")
    n = len(samples)

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i, : k + 1].tolist() if i in order[j, : k + 1]}

    weights = np.zeros((n, n))
    for i in range(n):
        own = reciprocal(i, k1)
        members = set(own)
        for candidate in own:
            near = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(near & own) > 2 / 3 * len(near):
                members |= near
        chosen = sorted(members)
        weights[i, chosen] = np.exp(-plain[i, chosen])
    weights /= weights.sum(axis=1, keepdims=True)
    if k2 > 1:
        weights = np.stack([weights[order[i, :k2]].mean(axis=0) for i in range(n)])
    overlap = np.minimum(weights[:, None], weights[None]).sum(axis=2)
    final = (1 - lambda_value) * (1 - overlap / (2 - overlap)) + lambda_value * plain
    return final[: len(query), len(query) :]


@pytest.mark.parametrize("name", ["rerank", "rerank_l2"])
def test_golden_distances_and_scores(name):
    found = public_rerank(*features(name), **SETTINGS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN[f"dist_{name}"], atol=1e-6, rtol=0)
    scores = ranking_scores(found, LABELS.query_ids, LABELS.gallery_ids, LABELS.query_cameras, LABELS.gallery_cameras)
    curve = GOLDEN[f"cmc_{name}"]
    np.testing.assert_allclose(scores.cmc[: len(curve)], curve, atol=1e-12)
    np.testing.assert_allclose(scores.cmc[[0, 4, 9]], GOLDEN[f"rank_{name}"], atol=1e-12)
    assert scores.mean_average_precision == pytest.approx(float(GOLDEN[f"map_{name}"]), abs=1e-12)
    assert scores.mean_inverse_negative_penalty == pytest.approx(float(GOLDEN[f"minp_{name}"]), abs=1e-12)


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [(1, 1, 0.3), (5, 1, 0.0), (9, 4, 0.5), (13, 6, 0.3), (25, 3, 0.3), (4, 9, 0.3), (200, 90, 0.3)],
)
def test_steps_written_out_give_the_same(k1, k2, lambda_value):
    """13 and 25 are halved to even numbers, 6 and 12; the last ones are more than there are samples."""
    query, gallery = clusters(k1, n_queries=9, n_gallery=71)
    expected = written_out(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    np.testing.assert_allclose(rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value), expected, atol=1e-5)


def test_a_weight_of_one_leaves_the_plain_order():
    query, gallery = clusters(1, n_queries=6, n_gallery=40)
    found = rerank(query, gallery, k1=5, k2=2, lambda_value=1.0)
    assert np.array_equal(np.argsort(found), np.argsort(cdist(query, gallery)))


def test_blocks_make_up_the_whole():
    query, gallery = clusters(2, n_queries=600, n_gallery=100)
    blocks = [block.copy() for block in rerank_blocks(query, gallery, k1=6, k2=3, lambda_value=0.3)]
    assert [len(block) for block in blocks] == [512, 88]
    np.testing.assert_array_equal(np.concatenate(blocks), rerank(query, gallery, k1=6, k2=3, lambda_value=0.3))


def test_blocks_can_be_ranked():
    blocks = rerank_blocks(*features("rerank"), **SETTINGS)
    scores = rank_distances(blocks, LABELS).scores
    assert scores.mean_average_precision == pytest.approx(float(GOLDEN["map_rerank"]), abs=1e-12)


def test_tensors_give_a_tensor():
    query, gallery = clusters(3, n_queries=4, n_gallery=20)
    found = rerank(torch.from_numpy(query), torch.from_numpy(gallery), k1=3, k2=2, lambda_value=0.3)
    np.testing.assert_array_equal(found.numpy(), rerank(query, gallery, k1=3, k2=2, lambda_value=0.3))


def test_equal_features_have_finite_distances():
    found = rerank(np.ones((2, 3)), np.ones((4, 3)), k1=2, k2=2, lambda_value=0.3)
    assert np.isfinite(found).all()


def test_what_does_not_fit_into_memory_is_refused_with_an_estimate(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 200000 kB\n")
    monkeypatch.setattr("attnsearch.device._MEMORY", tmp_path / "meminfo")
    query, gallery = np.ones((1000, 2), np.float32), np.ones((40_000, 2), np.float32)
    with pytest.raises(
        UsageError, match=r"re-ranking 41000 samples needs about 0\.\d GB \(0\.2 of the result"
    ) as caught:
        rerank(query, gallery, k1=1, k2=1, lambda_value=0.3)
    assert "0.2 GB are free" in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k1": 0}, "k1 must be >= 1, got 0"),
        ({"k2": 0}, "k2 must be >= 1, got 0"),
        ({"lambda_value": 1.5}, r"lambda_value must be in \[0, 1\], got 1\.5"),
    ],
)
def test_wrong_settings_are_refused(changed, message):
    with pytest.raises(UsageError, match=message):
        rerank(*features("rerank"), **{**SETTINGS, **changed})
