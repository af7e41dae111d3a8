"""How retrieval is measured in validation, and what explanations of a match explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.config.evaluation import TargetChoice
from attnsearch.data.tables import places_of
from attnsearch.errors import UsageError
from attnsearch.metrics.registry import RETRIEVAL_RULES
from attnsearch.metrics.retrieval import RankingLabels, distances, rank_features
from attnsearch.tasks.base import PassMetrics, RunningSums
from attnsearch.types import AttentionArchive, AttentionOutput, Batch, Distance, Retrieval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from attnsearch.data.tables import ImageTable

RETRIEVAL_METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
N_RANKED = 50
"""Gallery images that are kept of each ranked list."""
Embed = Callable[[AttentionOutput], Tensor]


class RetrievalMeter(RunningSums):
    """Losses and metrics of a pass, and outside of training the ranked gallery of each query.

    Metrics are `identity_accuracy` in training, and else those of `RETRIEVAL_METRICS`, whose names end in the rule
    where it is not the camera; `sparsity` where the outputs carry maps or norms. A pass that ended early ranks nothing.

    Args:
        embed: what images are compared by; None in training.
    """

    def __init__(self, table: ImageTable, embed: Embed | None, *, distance: Distance = "euclidean") -> None:
        super().__init__()
        self._table, self._embed, self._distance = table, embed, distance
        self._features: list[Tensor] = []
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def add(self, batch: Batch, output: AttentionOutput, terms: Mapping[str, Tensor]) -> None:
        """Adds one batch.

        Args:
            terms: of the loss; scalars, each a mean over the batch.
        """
        self.add_terms(len(batch.labels), terms)
        if self._embed is None:
            self.add_metric("identity_accuracy", (output.logits.argmax(dim=1) == batch.labels).sum())
        else:
            self._features.append(self._embed(output).cpu())
            self._rows.append(batch.rows)
        self.add_sparsity(output)

    def scores(self) -> PassMetrics:
        """All that was measured; the ranked gallery is in `retrieval` then.

        Raises:
            ValueError: no batch was added, or no query has a match.
        """
        terms, metrics, _ = self.means()
        rows = torch.cat(self._rows) if self._rows else torch.zeros(0)
        if self._table.is_query is not None and len(rows) == len(self._table):
            features = torch.empty(len(rows), self._features[0].shape[1])
            features[rows] = torch.cat(self._features)
            self.retrieval, retrieved = rank_split(self._table, features.numpy(), distance=self._distance)
            metrics |= retrieved
        return PassMetrics(self.n_images, sum(terms.values()), terms, metrics)


def rank_split(
    table: ImageTable, features: NDArray[np.float32], *, distance: Distance
) -> tuple[Retrieval, dict[str, float]]:
    """The ranked gallery of each query of a split, and the metrics of `RETRIEVAL_METRICS` under its rule.

    Args:
        features: (N, D) in the order of the split.
    Raises:
        ValueError: no query has a match.
    """
    assert table.is_query is not None
    assert table.match_rule is not None
    queries, gallery = np.flatnonzero(table.is_query), np.flatnonzero(~table.is_query)
    keys = table.removal_keys
    labels = RankingLabels(table.labels[queries], table.labels[gallery], keys[queries], keys[gallery])
    ranking = rank_features(features[queries], features[gallery], labels, metric=distance, top_k=N_RANKED)
    scores = ranking.scores
    retrieval = Retrieval(
        image_ids=table.image_ids,
        identities=table.class_names,
        camera_names=table.camera_names,
        match_rule=table.match_rule,
        distance=distance,
        labels=table.labels,
        cameras=table.cameras,
        removal_keys=keys,
        is_query=table.is_query,
        features=features,
        ranked_rows=np.where(ranking.nearest < 0, -1, gallery[ranking.nearest]),
        average_precision=scores.average_precision,
        inverse_negative_penalty=scores.inverse_negative_penalty,
        first_match=scores.first_match,
    )
    values = (scores.mean_average_precision, *(float(scores.cmc[k - 1]) for k in (1, 5, 10)),
              scores.mean_inverse_negative_penalty)  # fmt: skip
    suffix = RETRIEVAL_RULES[table.match_rule][0]
    return retrieval, {f"{name}{suffix}": value for name, value in zip(RETRIEVAL_METRICS, values, strict=True)}


def nearest_gallery(retrieval: Retrieval, row: int, *, only_matches: bool) -> int | None:
    """The row of the gallery image that is nearest to a query, among all that are not removed or among its matches.

    Args:
        row: of the query in the split.
    Returns:
        None where there is none.
    """
    is_same = retrieval.labels == retrieval.labels[row]
    is_removed = is_same & (retrieval.removal_keys == retrieval.removal_keys[row])
    candidates = np.flatnonzero((is_same if only_matches else True) & ~is_removed & ~retrieval.is_query)
    if not len(candidates):
        return None
    query = retrieval.features[row : row + 1]
    return int(candidates[distances(query, retrieval.features[candidates], metric=retrieval.distance)[0].argmin()])


def references_of(archived: AttentionArchive, places: NDArray[np.int64], choice: TargetChoice) -> Tensor:
    """(B, D) the features of the gallery images that archived queries at places (B,) are explained against.

    Args:
        choice: `predicted` takes the nearest gallery image, `label` the nearest match.
    Raises:
        UsageError: the archive has no features, an image is no query, or has no such gallery image.
    """
    retrieval = archived.retrieval
    if retrieval is None:
        raise UsageError("the archive has no features of its images; evaluate the trial again")
    rows = places_of([archived.image_ids[place] for place in places], retrieval.image_ids)
    found = [nearest_gallery(retrieval, int(row), only_matches=choice == "label") for row in rows]
    nearest = [row for row in found if row is not None]
    if len(nearest) < len(rows) or not retrieval.is_query[rows].all():
        raise UsageError("only queries that have a match in the gallery can be explained by their similarity to it")
    return torch.from_numpy(np.array(retrieval.features[nearest]))


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    """The cosine between the embedding of each image and that of a reference.

    Attributes:
        references: (B, D) float32.
        embed: what images are compared by, of a model's output.
    """

    references: Tensor
    embed: Embed

    def score(self, output: AttentionOutput) -> Tensor:
        return F.cosine_similarity(self.embed(output), self.references, dim=1)  # (B,)

    def raw_score(self, output: AttentionOutput) -> Tensor:
        """The cosine itself, which no softmax follows, (B,)."""
        return self.score(output)

    def take(self, rows: Tensor | slice) -> SimilarityTarget:
        return SimilarityTarget(self.references[rows], self.embed)  # (M, D)

    def to(self, device: torch.device) -> SimilarityTarget:
        return SimilarityTarget(self.references.to(device), self.embed)
