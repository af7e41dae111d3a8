"""What ranked galleries tell: scores with intervals, cameras, identities, queries. Importing it imports no torch.

Metrics are named by the rule of the data set, as in validation: `mAP`, `mAP_group` or `mAP_open`, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.evaluation import VERSION
from attnsearch.data.tables import hash_ids, marked_ids
from attnsearch.files import atomic_write, csv_text, disk_errors
from attnsearch.metrics.registry import RETRIEVAL_RULES
from attnsearch.metrics.retrieval import RankingLabels, RankingScores, camera_matrix, group_means, score_intervals
from attnsearch.metrics.statistics import SEED, Floats, Interval
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.trial_layout import TrialLayout, TrialTable
from attnsearch.types import MatchRule, Retrieval, Split

FLOORS = ("floor_random", "floor_histogram", "floor_untrained")
"""A random order of each gallery; colour histograms; the same model with random weights."""


@dataclass(frozen=True)
class RankingRow:
    """The scores of one ranking of all galleries.

    Attributes:
        name: `combined` for the model's own embedding, or a branch, or `reranked`.
        n_queries: that have a match.
        scores: metric -> mean over these queries, with a 95 % interval.
    """

    name: str
    n_queries: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True)
class GroupRow:
    """The queries of one camera or identity; means are NaN where none has a match.

    Attributes:
        n_queries: that have a match.
        scores: metric -> mean over these queries.
    """

    name: str
    n_queries: int
    n_gallery: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Reranking:
    """Settings of k-reciprocal re-ranking, see `metrics.reranking.rerank`."""

    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3


@dataclass(frozen=True, eq=False)
class RetrievalReport:
    """How well galleries are ranked, and by what.

    Attributes:
        retrieval: under the model's own embedding.
        rankings: of the same embedding, `combined`, and of each branch.
        matrix: (n_cameras, n_cameras) mAP of the queries of one camera (row) against the gallery images of one other
            (column), NaN where no query has a match there; None where cameras are not known.
        floors: the metrics of `floor_names`, which need no trained model.
        reranking, reranked: how galleries were re-ranked, and the scores of that; None where they were not.
    """

    retrieval: Retrieval
    rankings: tuple[RankingRow, ...]
    matrix: Floats | None
    floors: Mapping[str, float]
    reranking: Reranking | None = None
    reranked: RankingScores | None = field(default=None, repr=False)

    @property
    def cameras(self) -> tuple[GroupRow, ...]:
        """As `camera_rows`."""
        return camera_rows(self.retrieval)

    @property
    def identities(self) -> tuple[GroupRow, ...]:
        """As `identity_rows`."""
        return identity_rows(self.retrieval)

    def hardest(self, n_queries: int) -> list[dict[str, Any]]:
        """The queries with the lowest AP, each as its cells in `query_columns`."""
        columns = query_columns(self.retrieval)
        places = hardest_queries(self.retrieval, n_queries)
        return [{name: column[place] for name, column in columns.items()} for place in places]

    @property
    def reranked_row(self) -> RankingRow | None:
        """The scores after re-ranking, which compare with nothing that was not re-ranked alike."""
        return None if self.reranked is None else ranking_row("reranked", self.reranked, self.retrieval.match_rule)


def metric_name(name: str, rule: MatchRule) -> str:
    """The metric of this name under a rule, such as `mAP_group`."""
    return f"{name}{RETRIEVAL_RULES[rule][0]}"


def floor_names(rule: MatchRule) -> tuple[str, ...]:
    """The metrics that need no trained model under a rule: `floor_random_mAP` and so on, one for each of `FLOORS`."""
    return tuple(f"{floor}_{metric_name('mAP', rule)}" for floor in FLOORS)


def labels_of(retrieval: Retrieval) -> RankingLabels:
    """Identities and what removes gallery images, of queries and gallery."""
    return RankingLabels.of_split(retrieval.labels, retrieval.removal_keys, retrieval.is_query)


def scores_of(retrieval: Retrieval) -> RankingScores:
    """The scores of each query."""
    return RankingScores(retrieval.average_precision, retrieval.inverse_negative_penalty, retrieval.first_match)


def ranking_row(name: str, scores: RankingScores, rule: MatchRule) -> RankingRow:
    """The means of a ranking, with intervals over its queries."""
    intervals = {metric_name(metric, rule): one for metric, one in score_intervals(scores, seed=SEED).items()}
    return RankingRow(name, scores.n_valid, intervals)


def query_values(retrieval: Retrieval) -> dict[str, Floats]:
    """Metric -> its value of each query, (Q,), whose mean is that of the split; NaN for a query without a match."""
    values = scores_of(retrieval).per_query()
    return {metric_name(name, retrieval.match_rule): column for name, column in values.items()}


def query_table(retrieval: Retrieval, *, split: Split, epoch: int) -> ScoreTable:
    """The same as scores of single images, so that trials can be compared query by query."""
    about = {
        "version": VERSION,
        "split": split,
        "settings": {"match_rule": retrieval.match_rule},
        "distance": retrieval.distance,  # part of the model: mAP under one compares with that under another
        "images": hash_ids(marked_ids(retrieval.image_ids, retrieval.is_query)),
        "checkpoint": {"epoch": epoch},
    }
    ids = tuple(retrieval.image_ids[row] for row in _sides(retrieval)[0].tolist())
    return ScoreTable(ids, query_values(retrieval), np.zeros((len(ids), 0, 0), dtype=np.float32), (), (), about)


def query_columns(retrieval: Retrieval) -> dict[str, list[Any]]:
    """What is known of each query, by column, in the order of the split.

    Returns:
        `image_id`, `identity`, `camera` (None where it is not known), `average_precision` and
        `inverse_negative_penalty` (NaN without a match), `first_match` (rank from 1, 0 without a match), `nearest` and
        `nearest_identity` of the gallery image at the top (None where there is none).
    """
    rows, ids, identities = _sides(retrieval)[0].tolist(), retrieval.image_ids, retrieval.identities
    nearest = retrieval.ranked_rows[:, 0].tolist() if retrieval.ranked_rows.shape[1] else [-1] * len(rows)
    return {
        "image_id": [ids[row] for row in rows],
        "identity": [identities[retrieval.labels[row]] for row in rows],
        "camera": [_camera(retrieval, row) for row in rows],
        "average_precision": retrieval.average_precision.tolist(),
        "inverse_negative_penalty": retrieval.inverse_negative_penalty.tolist(),
        "first_match": retrieval.first_match.tolist(),
        "nearest": [ids[row] if row >= 0 else None for row in nearest],
        "nearest_identity": [identities[retrieval.labels[row]] if row >= 0 else None for row in nearest],
    }


def _camera(retrieval: Retrieval, row: int) -> str | None:
    return None if retrieval.cameras is None else retrieval.camera_names[retrieval.cameras[row]]


def hardest_queries(retrieval: Retrieval, n_queries: int) -> list[int]:
    """Places, among the queries, of those with the lowest AP, lowest first; of equal ones the later first match."""
    precision = retrieval.average_precision
    order = np.lexsort((-retrieval.first_match, precision))  # NaN comes last
    return [int(place) for place in order[:n_queries] if not np.isnan(precision[place])]


def camera_rows(retrieval: Retrieval) -> tuple[GroupRow, ...]:
    """A row per camera, in their order; none where cameras are not known."""
    if retrieval.cameras is None:
        return ()
    return _group_rows(retrieval, retrieval.cameras, retrieval.camera_names)


def identity_rows(retrieval: Retrieval) -> tuple[GroupRow, ...]:
    """A row per identity that has a query with a match, lowest mAP first."""
    rows = [row for row in _group_rows(retrieval, retrieval.labels, retrieval.identities) if row.n_queries]
    return tuple(sorted(rows, key=lambda row: next(iter(row.scores.values()))))


def _group_rows(retrieval: Retrieval, groups: NDArray[np.int64], names: Sequence[str]) -> tuple[GroupRow, ...]:
    """A row for each group of the images (N,)."""
    queries, gallery = _sides(retrieval)
    has_match = retrieval.first_match > 0
    n_queries = np.bincount(groups[queries][has_match], minlength=len(names)).tolist()
    n_gallery = np.bincount(groups[gallery], minlength=len(names)).tolist()
    values = query_values(retrieval)
    means = {name: group_means(column, groups[queries], len(names)).tolist() for name, column in values.items()}
    return tuple(
        GroupRow(name, n_queries[place], n_gallery[place], {metric: column[place] for metric, column in means.items()})
        for place, name in enumerate(names)
    )


def matrix_of(retrieval: Retrieval) -> Floats | None:
    """The mAP of the queries of each camera against the gallery of each other, as in `RetrievalReport`; it uses torch.

    Returns:
        (n_cameras, n_cameras), or None where cameras are not known.
    """
    if retrieval.cameras is None:
        return None
    queries, gallery = _sides(retrieval)
    return camera_matrix(
        retrieval.features[queries],
        retrieval.features[gallery],
        labels_of(retrieval),
        metric=retrieval.distance,
        n_cameras=len(retrieval.camera_names),
    )


def _sides(retrieval: Retrieval) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows of the queries, (Q,), and of the gallery, (G,)."""
    return np.flatnonzero(retrieval.is_query), np.flatnonzero(~retrieval.is_query)


def write_tables(files: TrialLayout, ending: str, report: RetrievalReport) -> tuple[Path, ...]:
    """Writes the tables of a report into the folder of a trial; those of cameras where these are known.

    The scores of an earlier re-ranking are removed where the report has none, as they may be of other settings.

    Args:
        ending: of the names of the files.
    Raises:
        StoreError: the disk refuses.
    """
    paths = {files.table_csv(table, ending): cells for table, cells in _tables(report).items()}
    for path, cells in paths.items():
        atomic_write(path, csv_text([_cell(cell) for cell in row] for row in cells))
    reranked = files.table_csv("reranked", ending)
    if reranked not in paths:
        with disk_errors(reranked):
            reranked.unlink(missing_ok=True)
    return tuple(paths)


def _tables(report: RetrievalReport) -> dict[TrialTable, list[list[Any]]]:
    """Table -> its rows, the names of the columns first."""
    tables: dict[TrialTable, list[list[Any]]] = {
        "rankings": _ranking_cells(report),
        "ranked_queries": _query_cells(report),
        "identities": _group_cells("identity", report.identities),
    }
    if report.matrix is not None:
        names = report.retrieval.camera_names
        rows = zip(names, report.matrix.tolist(), strict=True)
        tables["cameras"] = _group_cells("camera", report.cameras)
        tables["camera_matrix"] = [["query camera", *names], *([name, *row] for name, row in rows)]
    if report.reranking is not None and report.reranked_row is not None:
        header, cells = _score_cells([report.reranked_row])
        settings = asdict(report.reranking)
        tables["reranked"] = [[*header, *settings], [*cells, *settings.values()]]
    return tables


def _ranking_cells(report: RetrievalReport) -> list[list[Any]]:
    """The rankings, then the floors, of which only the mAP is measured."""
    header, *rows = _score_cells(report.rankings)
    place = header.index(metric_name("mAP", report.retrieval.match_rule))
    empty: list[Any] = [None] * len(header)
    floors = [[name, *empty[1:place], value, *empty[place + 1 :]] for name, value in report.floors.items()]
    return [header, *rows, *floors]


def _score_cells(rows: Sequence[RankingRow]) -> list[list[Any]]:
    ends = [(metric, end) for metric in rows[0].scores for end in ("mean", "low", "high")]
    header = ["ranking", "n_queries", *(metric if end == "mean" else f"{metric}_{end}" for metric, end in ends)]
    return [
        header,
        *([row.name, row.n_queries, *(getattr(row.scores[metric], end) for metric, end in ends)] for row in rows),
    ]


def _group_cells(what: str, rows: Sequence[GroupRow]) -> list[list[Any]]:
    metrics = list(rows[0].scores) if rows else []
    return [
        [what, "n_queries", "n_gallery", *metrics],
        *([row.name, row.n_queries, row.n_gallery, *row.scores.values()] for row in rows),
    ]


def _query_cells(report: RetrievalReport) -> list[list[Any]]:
    """A row per query; what follows re-ranking is named so."""
    columns = query_columns(report.retrieval)
    if report.reranked is not None:
        names = ("average_precision", "inverse_negative_penalty", "first_match")
        columns |= {f"reranked_{name}": getattr(report.reranked, name).tolist() for name in names}
    return [list(columns), *(list(row) for row in zip(*columns.values(), strict=True))]


def _cell(value: object) -> object:
    """An undefined number is an empty cell."""
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
