"""Distances against golden numbers, exact ones, and near duplicates, which float32 products cannot tell apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from attnsearch.errors import UsageError
from attnsearch.metrics.feature_distances import FeatureDistances, distances, nearest_entries

METRICS = ("euclidean", "cosine")


def test_import_imports_neither_torch_nor_scipy():
    code = "import sys, attnsearch.metrics.retrieval; sys.exit(not {'torch', 'scipy'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("metric", METRICS)
def test_golden_distances(metric):
    with np.load(Path(__file__).parents[1] / "golden" / "reid_eval.npz", allow_pickle=False) as golden:
        found = distances(golden["q_feat"], golden["g_feat"], metric=metric)
        np.testing.assert_allclose(found, golden[f"dist_{metric}"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
def test_embeddings_that_hardly_differ_are_told_apart(metric):
    """A model whose embeddings have collapsed: all are close to one vector."""
    rng = np.random.default_rng(0)
    features = (5 * rng.standard_normal(64) + 1e-3 * rng.standard_normal((600, 64))).astype(np.float32)
    features[7] = features[300]
    found = distances(features[:550], features, metric=metric)
    np.testing.assert_allclose(found, cdist(features[:550], features, metric), rtol=1e-5, atol=1e-12)
    assert found[7, 300] == found[7, 7] == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_few_near_duplicates_are_told_apart(metric):
    rng = np.random.default_rng(1)
    query, gallery = (rng.standard_normal((n, 32)).astype(np.float32) for n in (20, 30))
    gallery[3] = query[2] + np.float32(1e-4)
    gallery[4] = query[2]
    found = distances(query, gallery, metric=metric)
    np.testing.assert_allclose(found, cdist(query, gallery, metric), rtol=2e-6, atol=1e-6)
    assert found[2, 3] == pytest.approx(cdist(query[2:3], gallery[3:4], metric).item(), rel=1e-5)
    assert found[2, 4] == 0.0


@pytest.mark.parametrize("metric", METRICS)
def test_equal_images_are_at_equal_distances_wherever_they_stand(metric):
    rng = np.random.default_rng(2)
    query, gallery = (rng.standard_normal((n, 48)).astype(np.float32) for n in (530, 2600))
    gallery[2048:] = gallery[:552]
    found = distances(query, gallery, metric=metric)
    np.testing.assert_array_equal(found[:, 2048:], found[:, :552])


def test_arrays_give_arrays_and_tensors_tensors():
    rng = np.random.default_rng(3)
    query, gallery = rng.standard_normal((4, 5)), rng.standard_normal((6, 5))
    array = distances(query, gallery, metric="euclidean")
    tensor = distances(torch.from_numpy(query), torch.from_numpy(gallery), metric="euclidean")
    assert (array.dtype, tensor.dtype) == (np.float32, torch.float32)
    np.testing.assert_array_equal(array, tensor.numpy())
    np.testing.assert_array_equal(array, distances(query.tolist(), gallery.tolist(), metric="euclidean"))


def test_reduced_precision_around_it_changes_nothing():
    query, gallery = torch.randn(8, 64, requires_grad=True), torch.randn(9, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = distances(query, gallery, metric="cosine")
    assert torch.equal(inside, distances(query, gallery, metric="cosine"))
    assert not inside.requires_grad


def test_a_vector_of_zeros_has_the_cosine_zero():
    features = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert distances(features, features, metric="cosine").tolist() == [[1, 1, 1], [1, 0, 0], [1, 0, 0]]


def test_squared_distances_of_one_query():
    rng = np.random.default_rng(4)
    query, gallery = rng.standard_normal((4, 5)), rng.standard_normal((6, 5))
    columns = np.array([5, 0])
    found = FeatureDistances(query, gallery, metric="cosine").squared(2, columns)
    np.testing.assert_allclose(found, cdist(query[2:3], gallery[columns], "sqeuclidean")[0], rtol=1e-6)


@pytest.mark.parametrize("n_levels", [6, 10**6])
def test_nearest_entries_are_those_of_a_stable_sort(n_levels):
    rng = np.random.default_rng(5)
    row = rng.integers(n_levels, size=1000).astype(np.float32)
    row[rng.permutation(1000)[:40]] = np.nan
    row[[3, 77]] = np.inf
    expected = [position for position in np.argsort(row, kind="stable").tolist() if not np.isnan(row[position])]
    for k in (0, 1, 13, 60, 70, 959, 960, 1100):
        assert nearest_entries(row, k).tolist() == expected[:k]


@pytest.mark.parametrize(
    ("query", "gallery", "metric", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "cosine", "same number of features, got 3 and 4"),
        (np.ones((2, 3)), np.ones(3), "cosine", r"gallery must be a matrix .* got \(3,\)"),
        (np.ones((0, 3)), np.ones((2, 3)), "cosine", r"query must be a matrix .* got \(0, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), "dot", "one of euclidean, cosine, got 'dot'"),
        (np.ones((2, 3)), np.array([[1, 2, 3], [1, np.inf, 3]]), "cosine", "row 1 of gallery has values that are not"),
        (np.full((2, 3), 1e30), np.ones((2, 3)), "euclidean", "row 0 of query has values .* too large"),
        (np.array([["a"]]), np.ones((2, 1)), "cosine", "features must be numbers"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(query, gallery, metric, message):
    with pytest.raises(UsageError, match=message):
        distances(query, gallery, metric=metric)
