"""The command `retrieval`: how well a trial ranks galleries, by camera, identity, branch and query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, print_written
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage, StudyOrFile
from attnsearch.types import Distance

if TYPE_CHECKING:
    from attnsearch.evaluation.ranking import GroupRow, RankingRow
    from attnsearch.results.retrieval import SavedRetrieval

N_SHOWN = 10
"""Identities and queries that are printed; the files have all."""


def retrieval(
    study: StudyOrFile,
    overrides: Overrides = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="By default the published one.")] = None,
    split: Annotated[
        Literal["val", "test"], typer.Option("--split", help="Which images; a test evaluation is logged.")
    ] = "val",
    rerank: Annotated[bool, typer.Option("--rerank", help="Also re-rank by k-reciprocal neighbours.")] = False,
    k1: Annotated[int, typer.Option("--k1", min=1, help="With --rerank: its neighbours.")] = 20,
    k2: Annotated[int, typer.Option("--k2", min=1, help="With --rerank: neighbours whose encodings it averages.")] = 6,
    lambda_value: Annotated[
        float, typer.Option("--lambda", min=0, max=1, help="With --rerank: weight of the plain distance.")
    ] = 0.3,
    distance: Annotated[Distance | None, typer.Option("--distance", help="By default that of the run.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Average embeddings with those of mirrored images.")] = False,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Rank the galleries of a re-identification study: mAP and CMC, cameras, identities, branches, floors."""
    from attnsearch.results.checkpoints import find_published
    from attnsearch.results.names import is_file_name
    from attnsearch.results.retrieval import RankingChoice, write_retrieval_report

    source = Path(study) if is_file_name(study) else find_published(study, trial, results, storage)
    reranking = {"k1": k1, "k2": k2, "lambda_value": lambda_value} if rerank else None
    saved = write_retrieval_report(source, split, RankingChoice(distance, flip, reranking), overrides or ())
    print_retrieval_json(saved) if as_json else print_retrieval(saved)


def print_retrieval(saved: SavedRetrieval) -> None:
    """Scores beside their floors, cameras, identities and queries with the lowest scores; re-ranked scores apart."""
    report, of_split = saved.report, saved.report.retrieval
    counts = f"{int(of_split.is_query.sum())} queries, {int((~of_split.is_query).sum())} gallery images"
    _print_rankings(report.rankings, f"{saved.name}, {saved.ending}, {counts}, {of_split.distance} distance")
    floors = [(name.replace("_", " "), number(value)) for name, value in report.floors.items()]
    print_table(("floor", "value"), floors, title="without a trained model")
    if report.reranked_row is not None and report.reranking is not None:
        settings = ", ".join(f"{key} {number(value)}" for key, value in asdict(report.reranking).items())
        _print_rankings(
            [report.reranked_row],
            f"re-ranked by k-reciprocal neighbours, {settings}: compares with re-ranked scores alone",
        )
    _print_groups("camera", report.cameras)
    if report.matrix is not None:
        rows = zip(of_split.camera_names, report.matrix.tolist(), strict=True)
        cells = [(name, *map(number, row)) for name, row in rows]
        print_table(("query camera", *of_split.camera_names), cells, title="mAP against one camera of the gallery")
    _print_groups("identity", report.identities[:N_SHOWN], "identities with the lowest mAP")
    _print_hardest(report.hardest(N_SHOWN))
    n_skipped = int((of_split.first_match == 0).sum())
    if n_skipped:
        print_line(f"note: {n_skipped} of {len(of_split.first_match)} queries have no match and are left out")
    print_written(*saved.files)


def _print_rankings(rows: Sequence[RankingRow], title: str) -> None:
    cells = [
        (row.name, *(f"{number(one.mean)} ({number(one.low)} to {number(one.high)})" for one in row.scores.values()))
        for row in rows
    ]
    print_table(("ranking", *rows[0].scores), cells, title=title)


def _print_groups(what: str, rows: Sequence[GroupRow], title: str | None = None) -> None:
    if rows:
        cells = [(row.name, str(row.n_queries), str(row.n_gallery), *map(number, row.scores.values())) for row in rows]
        print_table((what, "queries", "gallery", *rows[0].scores), cells, title=title)


def _print_hardest(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [
        (row["image_id"], row["identity"], row["camera"] or "-", number(row["average_precision"]),
         str(row["first_match"]), row["nearest"] or "-", row["nearest_identity"] or "-")
        for row in rows
    ]  # fmt: skip
    columns = ("query", "identity", "camera", "AP", "first match", "nearest", "its identity")
    print_table(columns, cells, title="queries with the lowest AP")


def print_retrieval_json(saved: SavedRetrieval) -> None:
    """A line for each ranking, the floors, each camera, and the identities and queries with the lowest scores."""
    report, about = saved.report, {"name": saved.name, "split": saved.ending}
    for row in report.rankings:
        print_json({**about, "ranking": row.name, **_flat(row)})
    print_json({**about, "floors": report.floors})
    if report.reranked_row is not None and report.reranking is not None:
        print_json({**about, "ranking": "reranked", **asdict(report.reranking), **_flat(report.reranked_row)})
    for what, groups in (("camera", report.cameras), ("identity", report.identities[:N_SHOWN])):
        for group in groups:
            print_json({what: group.name, "n_queries": group.n_queries, "n_gallery": group.n_gallery, **group.scores})
    names = report.retrieval.camera_names
    for camera, row in zip(names, [] if report.matrix is None else report.matrix.tolist(), strict=False):
        print_json({"query_camera": camera, "mAP_by_gallery_camera": dict(zip(names, row, strict=True))})
    for query in report.hardest(N_SHOWN):
        print_json({"query": query.pop("image_id"), **query})


def _flat(row: RankingRow) -> dict[str, Any]:
    """The scores of a ranking: the mean under the metric's name, and the ends of its interval."""
    ends = {f"{metric}_{end}": getattr(one, end) for metric, one in row.scores.items() for end in ("low", "high")}
    return {"n_queries": row.n_queries, **{metric: one.mean for metric, one in row.scores.items()}, **ends}
