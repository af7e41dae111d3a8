"""Embeds and ranks a split with a checkpoint: branches, re-ranking, and floors that no trained model is needed for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.device import device_errors
from attnsearch.errors import UsageError
from attnsearch.evaluation.base import ModelOnData, run_split, untrained
from attnsearch.evaluation.confusion import COMBINED
from attnsearch.evaluation.ranking import (
    Reranking,
    RetrievalReport,
    floor_names,
    labels_of,
    matrix_of,
    metric_name,
    ranking_row,
    scores_of,
)
from attnsearch.metrics.retrieval import (
    RankingScores,
    random_mean_average_precision,
    rank_distances,
    rerank_blocks,
)
from attnsearch.progress import with_bar
from attnsearch.tasks.floors import histogram_features
from attnsearch.tasks.reid import ReidTask
from attnsearch.tasks.retrieval import put_rows, rank_split
from attnsearch.types import Retrieval, Split

Features = NDArray[np.float32]


def rank_galleries(opened: ModelOnData, split: Split, *, reranking: Reranking | None = None) -> RetrievalReport:
    """Ranks the gallery of each query of a split, by the model's own embedding and by that of each branch.

    Args:
        reranking: also re-ranks the galleries of the model's own embedding.
    Raises:
        DataError: there is no such split.
        UsageError: the model predicts classes, no query has a match, or re-ranking needs more memory than is free.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    task = _reid_task(opened)
    table = opened.table(split)
    retrievals = {
        name: rank_split(table, features, distance=task.settings.distance)[0]
        for name, features in embed_split(opened, split).items()
    }
    own = retrievals[COMBINED]
    rows = tuple(ranking_row(name, scores_of(one), one.match_rule) for name, one in retrievals.items())
    reranked = None if reranking is None else rerank_scores(own, reranking)
    return RetrievalReport(own, rows, matrix_of(own), measure_floors(opened, split), reranking, reranked)


def rank_gallery(opened: ModelOnData, split: Split) -> Retrieval:
    """The features of a split and the ranked gallery of each of its queries, by the model's own embedding.

    Raises:
        DataError: there is no such split.
        UsageError: the model predicts classes, the split has no queries, or none with a match.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    task, table = _reid_task(opened), opened.table(split)
    if table.is_query is None:
        raise UsageError(f"the split {split!r} has no queries; val and test of re-identification have them")
    return rank_split(table, embed_split(opened, split)[COMBINED], distance=task.settings.distance)[0]


def _reid_task(opened: ModelOnData) -> ReidTask:
    task = opened.task
    if not isinstance(task, ReidTask):
        raise UsageError(f"{opened.checkpoint.path} predicts classes, and there is no gallery to rank; see confusion")
    return task


@device_errors()
def embed_split(opened: ModelOnData, split: Split) -> dict[str, Features]:
    """What the images of a split are compared by, under the model's own head, `combined`, and under each branch.

    Returns:
        Name -> (N, D) in the order of the split. The own head of a model with branches has their vectors side by side.
    Raises:
        DataError: there is no such split.
        UsageError: the model predicts classes.
    """
    task, n_batches, n_images = _reid_task(opened), len(opened.loader(split)), len(opened.table(split))
    features: dict[str, Tensor] = {}
    for batch in with_bar(opened.batches(split), f"Embedding {split}", n_steps=n_batches, force=False):
        output = opened.output(batch, maps=None)
        for name, head in {COMBINED: output.head, **output.branches}.items():
            embedded = task.embed(replace(output, head=head))  # (B, D)
            features[name] = put_rows(features.get(name), batch.rows, embedded, n_rows=n_images)
    return {name: embedded.cpu().numpy() for name, embedded in features.items()}


def rerank_scores(retrieval: Retrieval, reranking: Reranking) -> RankingScores:
    """The scores of the queries after k-reciprocal re-ranking; under the cosine, features are normalised first.

    Raises:
        UsageError: settings out of range, or more memory needed than is free, with the estimate.
    """
    features = retrieval.features
    if retrieval.distance == "cosine":
        norms = np.linalg.norm(features, axis=1, keepdims=True)
        features = features / np.maximum(norms, np.finfo(np.float32).tiny)
    is_query = retrieval.is_query
    blocks = rerank_blocks(features[is_query], features[~is_query], **vars(reranking))
    return rank_distances(blocks, labels_of(retrieval)).scores


@device_errors()
def measure_floors(opened: ModelOnData, split: Split) -> dict[str, float]:
    """The mAP of a split without a trained model, by the names of `floor_names`; empty for a split of classes.

    Random orders have their expected value, histograms are of the colours of the model's input, and the random weights
    are those that a training from scratch starts from.

    Raises:
        DataError: there is no such split.
        OutOfMemory, DeviceError: the device has too little memory for the setting, or it failed.
    """
    table = opened.table(split)
    if table.is_query is None or table.match_rule is None:
        return {}
    name = metric_name("mAP", table.match_rule)
    batches = with_bar(opened.batches(split), f"Histograms of {split}", n_steps=len(opened.loader(split)), force=False)
    histograms = torch.cat([histogram_features(batch.images).cpu() for batch in batches]).numpy()  # (N, 64)
    retrieval, metrics = rank_split(table, histograms, distance="cosine")
    values = random_mean_average_precision(labels_of(retrieval)), metrics[name]
    of_random_weights = run_split(untrained(opened), split)[f"{split}/{name}"]
    return dict(zip(floor_names(table.match_rule), (*values, of_random_weights), strict=True))
