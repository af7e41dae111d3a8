"""How retrieval is measured in validation, and what explanations of a match explain."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.config.evaluation import TargetChoice
from attnsearch.data.fixed_rows import fixed_halves
from attnsearch.data.tables import places_of
from attnsearch.errors import NonFiniteLoss, UsageError
from attnsearch.metrics.registry import RETRIEVAL_RULES
from attnsearch.metrics.retrieval import RankingLabels, distances, rank_features
from attnsearch.tasks.base import PassMetrics, RunningSums
from attnsearch.types import HALVES, AttentionArchive, AttentionOutput, Batch, Distance, Followed, Need, Retrieval

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
    Outside of training the loss is that of triplets, so that batches without one are left out of its mean.

    Args:
        embed: what images are compared by; None in training.
        in_halves: the mAP also of each half of the queries, such as `mAP_half_a`.
    """

    def __init__(
        self, table: ImageTable, embed: Embed | None, *, distance: Distance = "euclidean", in_halves: bool = False
    ) -> None:
        super().__init__()
        self._in_halves = in_halves
        self._table, self._embed, self._distance = table, embed, distance
        self._features: Tensor | None = None  # (N, D) on the device, in the order of the split
        self._n_embedded = 0

    @torch.no_grad()
    def add(self, batch: Batch, output: AttentionOutput, terms: Mapping[str, Tensor]) -> None:
        """Adds one batch.

        Args:
            terms: of the loss; scalars, each a mean over the batch.
        """
        self.add_terms(len(batch.labels), terms, has_loss=self._embed is None or has_triplet(batch.labels))
        if self._embed is None:
            self.add_metric("identity_accuracy", (output.logits.argmax(dim=1) == batch.labels).sum())
        else:
            self._features = put_rows(self._features, batch.rows, self._embed(output), n_rows=len(self._table))
            self._n_embedded += len(batch.rows)
        self.add_sparsity(output)

    def sums(self) -> dict[str, Tensor]:
        """All that was added so far, by name; features that were not embedded here are 0."""
        n_embedded = torch.tensor(self._n_embedded, dtype=torch.float64)
        features = {} if self._features is None else {"features": self._features}
        return {**super().sums(), "n_embedded": n_embedded, **features}

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts other sums in the place of its own ones."""
        super().load(sums)
        self._n_embedded, self._features = int(sums["n_embedded"]), sums.get("features")

    def scores(self) -> PassMetrics:
        """All that was measured; the ranked gallery is in `retrieval` then.

        Raises:
            ValueError: no batch was added, or no query has a match.
            NonFiniteLoss: an embedding is NaN, infinite or too large.
        """
        terms, metrics, _ = self.means()
        is_whole = self._n_embedded == len(self._table)
        if self._table.is_query is not None and self._features is not None and is_whole:
            _require_finite(self._features, self._table)
            features = self._features.cpu().numpy()
            self.retrieval, retrieved = rank_split(self._table, features, distance=self._distance)
            metrics |= retrieved
            if self._in_halves:
                metrics |= mean_precision_of_halves(self._table, self.retrieval)
        return PassMetrics(self.n_images, sum(terms.values()), terms, metrics)


def put_rows(features: Tensor | None, rows: Tensor, embeddings: Tensor, *, n_rows: int) -> Tensor:
    """Puts embeddings (B, D) at rows (B,) of float32 features (N, D) on the same device, which None makes room for.

    Args:
        n_rows: N.
    """
    if features is None:
        features = torch.zeros(n_rows, embeddings.shape[1], device=embeddings.device)
    return features.index_copy_(0, rows.to(features.device, non_blocking=True), embeddings.float())


def has_triplet(identities: Tensor) -> Tensor:
    """Whether a batch of identities (B,) has two images of one identity, and one of another: a scalar on its device."""
    n_alike = (identities[:, None] == identities).sum(dim=1)  # (B,)
    return (n_alike > 1).any() & (n_alike < len(identities)).any()


def _require_finite(features: Tensor, table: ImageTable) -> None:
    """Raises NonFiniteLoss where features (N, D) of a split have no finite square of their length."""
    squares = torch.linalg.vector_norm(features, dim=1).square()  # (N,)
    if n_broken := int((~squares.isfinite()).sum()):
        raise NonFiniteLoss(
            f"the embeddings of {n_broken} of {len(squares)} {table.split} images are NaN, infinite or too large; "
            "lower train.optimizer.lr, or set train.clip_norm or train.precision=fp32"
        )


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
    labels = RankingLabels.of_split(table.labels, keys, table.is_query)
    of_queries, of_gallery = _rows_of(features, queries), _rows_of(features, gallery)
    ranking = rank_features(of_queries, of_gallery, labels, metric=distance, top_k=N_RANKED)
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


def mean_precision_of_halves(table: ImageTable, retrieval: Retrieval) -> dict[str, float]:
    """The mAP of each half of the queries of a split; NaN for a half without any."""
    halves = fixed_halves(table)[retrieval.is_query]  # (n_queries,)
    name = f"mAP{RETRIEVAL_RULES[retrieval.match_rule][0]}"
    precisions = [retrieval.average_precision[halves == half] for half in range(2)]
    means = [float(of_half.mean()) if len(of_half) else float("nan") for of_half in precisions]
    return {f"{name}{half}": mean for half, mean in zip(HALVES, means, strict=True)}


def _rows_of(features: NDArray[np.float32], rows: NDArray[np.intp]) -> NDArray[np.float32]:
    """The features (n, D) of ascending rows (n,), without a copy where these follow each other, as most files do."""
    first, last = int(rows[0]), int(rows[-1])
    return features[first : last + 1] if last - first + 1 == len(rows) else features[rows]


def nearest_gallery(retrieval: Retrieval, row: int, *, only_matches: bool) -> int | None:
    """The row of the gallery image that is nearest to a query, among all that are not removed or among its matches.

    Args:
        row: of the query in the split.
    Returns:
        None where there is none.
    """
    if not only_matches:
        nearest = int(retrieval.ranked_rows[np.count_nonzero(retrieval.is_query[:row]), 0])
        return None if nearest < 0 else nearest
    has_other_key = retrieval.removal_keys != retrieval.removal_keys[row]
    matches = np.flatnonzero((retrieval.labels == retrieval.labels[row]) & has_other_key & ~retrieval.is_query)
    if not len(matches):
        return None
    query = retrieval.features[row : row + 1]
    return int(matches[distances(query, retrieval.features[matches], metric=retrieval.distance)[0].argmin()])


def references_of(archived: AttentionArchive, places: NDArray[np.int64], choice: TargetChoice) -> Tensor:
    """(B, D) the features of the gallery images that archived queries at places (B,) are explained against.

    Args:
        choice: `predicted` takes the nearest gallery image, `label` the nearest match.
    Raises:
        UsageError: the archive has no features, an image is no query, or has no such gallery image.
    """
    retrieval, rows = _queries(archived, places)
    found = [nearest_gallery(retrieval, int(row), only_matches=choice == "label") for row in rows]
    nearest = [row for row in found if row is not None]
    if len(nearest) < len(rows):
        raise _no_match()
    return torch.from_numpy(np.array(retrieval.features[nearest]))


def _queries(archived: AttentionArchive, places: NDArray[np.int64]) -> tuple[Retrieval, NDArray[np.int64]]:
    """What an archive holds of its split, and the rows there of queries at places (B,).

    Raises:
        UsageError: the archive has no features, or an image is no query.
    """
    retrieval = archived.retrieval
    if retrieval is None:
        raise UsageError("the archive has no features of its images; evaluate the trial again")
    rows = places_of([archived.image_ids[place] for place in places], retrieval.image_ids)
    if not retrieval.is_query[rows].all():
        raise _no_match()
    return retrieval, rows


def _no_match() -> UsageError:
    return UsageError("only queries that have a match in the gallery can be explained by their similarity to it")


@dataclass(frozen=True, eq=False)
class GalleryRanking:
    """The gallery of a split, which masked copies of queries rank again; nothing of it is embedded twice.

    Attributes:
        labels, removal_keys: (B,) int64, of the queries.
        gallery_labels, gallery_keys: (G,) int64.
        features: (G, D) float32, of length 1 where images are compared by the cosine.
        offsets: (G,) float32: with the embedding x of a query, offset - 2 <x, feature> orders the gallery as the
            distance does.
    """

    labels: Tensor
    removal_keys: Tensor
    gallery_labels: Tensor
    gallery_keys: Tensor
    features: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, archived: AttentionArchive, places: NDArray[np.int64]) -> GalleryRanking:
        """That of archived queries at places (B,).

        Raises:
            UsageError: the archive has no features, or an image is no query.
        """
        retrieval, rows = _queries(archived, places)
        gallery = np.flatnonzero(~retrieval.is_query)
        labels, keys = torch.from_numpy(retrieval.labels), torch.from_numpy(retrieval.removal_keys)
        features = torch.from_numpy(np.array(retrieval.features[gallery]))
        if retrieval.distance == "cosine":
            features = F.normalize(features)
        offsets = features.square().sum(dim=1)  # with the cosine all are 1
        return cls(labels[rows], keys[rows], labels[gallery], keys[gallery], features, offsets)

    def average_precision(self, embeddings: Tensor) -> Tensor:
        """That of the gallery in the order of its distances to embeddings (B, D): (B,) float32, NaN without a match.

        As of `metrics.retrieval.ranking_scores`: what the rule removes is left out, and equal distances rank by
        position in the gallery.
        """
        is_same = self.labels[:, None] == self.gallery_labels  # (B, G)
        is_removed = is_same & (self.removal_keys[:, None] == self.gallery_keys)
        gaps = (self.offsets - 2 * embeddings @ self.features.T).masked_fill(is_removed, torch.inf)
        is_match = (is_same & ~is_removed).gather(1, gaps.argsort(dim=1, stable=True)).double()
        ranks = torch.arange(1, is_match.shape[1] + 1, device=is_match.device)
        precision = is_match.cumsum(dim=1) / ranks  # (B, G)
        return ((precision * is_match).sum(dim=1) / is_match.sum(dim=1)).float()

    def take(self, rows: Tensor | slice) -> GalleryRanking:
        """That of the queries at rows (M,)."""
        return replace(self, labels=self.labels[rows], removal_keys=self.removal_keys[rows])

    def to(self, device: torch.device) -> GalleryRanking:
        """The same on a device."""
        return GalleryRanking(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True, eq=False)
class SimilarityTarget:
    """The cosine between the embedding of each image and that of a reference.

    Attributes:
        references: (B, D) float32.
        embed: what images are compared by, of a model's output.
        ranking: of the gallery that the images are queries of, where there is one.
    """

    references: Tensor
    embed: Embed
    ranking: GalleryRanking | None = None

    @property
    def known(self) -> tuple[Need, ...]:
        return () if self.ranking is None else ("gallery",)

    def score(self, output: AttentionOutput) -> Tensor:
        return F.cosine_similarity(self.embed(output), self.references, dim=1)  # (B,)

    def followed(self, output: AttentionOutput) -> dict[Followed, Tensor]:
        scores: dict[Followed, Tensor] = {"score": self.score(output)}  # (B,)
        if self.ranking is not None:
            scores["average_precision"] = self.ranking.average_precision(self.embed(output))
        return scores

    def raw_score(self, output: AttentionOutput) -> Tensor:
        """The cosine itself, which no softmax follows, (B,)."""
        return self.score(output)

    def take(self, rows: Tensor | slice) -> SimilarityTarget:
        ranking = None if self.ranking is None else self.ranking.take(rows)
        return SimilarityTarget(self.references[rows], self.embed, ranking)  # (M, D)

    def to(self, device: torch.device) -> SimilarityTarget:
        ranking = None if self.ranking is None else self.ranking.to(device)
        return SimilarityTarget(self.references.to(device), self.embed, ranking)
