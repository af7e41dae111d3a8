"""The pages of re-identification: queries of a trial, ranked galleries, pairs, the same query under several trials."""

from __future__ import annotations

from typing import Any, NamedTuple

from flask import Blueprint, Response, render_template, request

from attnsearch.errors import ConfigError
from attnsearch.explorer.archives import OpenArchive, image_scores
from attnsearch.explorer.image_query import neighbours, page_of, whole_number
from attnsearch.explorer.retrieval_query import matching_places, parse_filter
from attnsearch.explorer.security import PREFIX
from attnsearch.explorer.serialize import class_name, map_values, plain, score_values, trial_values
from attnsearch.explorer.site import answer_image, answer_json, open_archive, site, split_of, study_of
from attnsearch.figures.rankings import REMOVED_AS, RankedImage, Rankings
from attnsearch.metrics.registry import title_of
from attnsearch.results.retrieval import how_to_rank_again
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader

TOPS = (10, 20, 50)
"""Lengths in which a ranked gallery is shown."""
N_MISSED = 6
"""Matches below the shown part of a ranked gallery that are shown after it."""
MAX_TRIALS = 24
retrieval_pages = Blueprint("retrieval", __name__, url_prefix=PREFIX)


class TrialRankings(NamedTuple):
    """The ranked galleries of one split of a trial."""

    trial: TrialReader
    opened: OpenArchive
    rankings: Rankings


def _open_queries(experiment: str, study: str, number: int) -> TrialRankings:
    """Those of the split in the URL, which may have what was measured of each query alone.

    Raises:
        ConfigError: there is no such trial or split, or it is not of re-identification.
    """
    trial, opened = open_archive(experiment, study, number)
    if opened.rankings is None:
        raise _lacks(trial, opened, opened.error or "its task is not re-identification")
    return TrialRankings(trial, opened, opened.rankings)


def _open(experiment: str, study: str, number: int) -> TrialRankings:
    """Those of the split in the URL, with features and ranks.

    Raises:
        ConfigError: as `_open_queries`, or features or ranks were removed.
    """
    one = _open_queries(experiment, study, number)
    if not one.rankings.retrieval.has_ranks:
        raise _lacks(one.trial, one.opened, _why_no_ranks(one))
    return one


def _lacks(trial: TrialReader, opened: OpenArchive, reason: str) -> ConfigError:
    lacks = f"trial {trial.number} of study {trial.study.layout.study!r} has no ranked galleries"
    return ConfigError(f"{lacks} of {opened.archive.split}: {reason}")


def _why_no_ranks(one: TrialRankings) -> str:
    """Why only what was measured of each query is known, and the command that brings the rest back."""
    return f"retention removed features and ranks; {how_to_rank_again(one.trial, one.opened.archive.split)}"


@retrieval_pages.get("/retrieval/<experiment>/<study>/<int:number>")
def queries(experiment: str, study: str, number: int) -> str:
    """The queries of a trial, the worst first; without galleries where retention removed features or ranks."""
    reader = study_of(experiment, study).trial(number)
    archives = reader.archives()
    one = _open_queries(experiment, study, number) if archives else None
    retrieval = None if one is None else one.rankings.retrieval
    has_ranks = retrieval is not None and retrieval.has_ranks
    return render_template(
        "retrieval.html",
        layout=reader.study.layout,
        trial=trial_values(reader.row, reader.study.rows, has_maps=one is not None),
        split=split_of(archives),
        splits=list(archives),
        cameras=() if retrieval is None or retrieval.cameras is None else retrieval.camera_names,
        removed_as="" if retrieval is None else REMOVED_AS[retrieval.match_rule],
        has_ranks=has_ranks,
        lacks="" if one is None or has_ranks else _why_no_ranks(one),
    )


@retrieval_pages.get("/api/queries/<experiment>/<study>/<int:number>")
def queries_json(experiment: str, study: str, number: int) -> Response:
    """One page of queries, with the first hit of each where it is known."""
    one = _open_queries(experiment, study, number)
    wanted = parse_filter(request.args)
    places = matching_places(one.rankings, wanted)
    shown, page, n_pages = page_of(places, wanted.page)
    retrieval = one.rankings.retrieval
    found = retrieval.average_precision[places]
    first = retrieval.first_match[places]
    n_valid = int((first > 0).sum())
    values = {
        "split": one.opened.archive.split,
        "total": len(one.rankings.query_rows),
        "matching": len(places),
        "page": page,
        "pages": n_pages,
        "valid": n_valid,
        "mean_ap": float(found[first > 0].mean()) if n_valid else None,
        "rank1": float((first == 1).sum() / n_valid) if n_valid else None,
        "queries": [_query_values(one, place) | {"hit": _hit_values(one, place)} for place in shown],
    }
    return answer_json(values)


def _query_values(one: TrialRankings, place: int) -> dict[str, Any]:
    """A query and how its gallery is ranked."""
    retrieval, row = one.rankings.retrieval, int(one.rankings.query_rows[place])
    matches, removed = one.rankings.entries(place)
    return {
        **_image_values(one, row),
        "ap": plain(float(retrieval.average_precision[place])),
        "inp": plain(float(retrieval.inverse_negative_penalty[place])),
        "first_match": int(retrieval.first_match[place]) or None,
        "identity_ap": plain(float(one.rankings.identity_means[retrieval.labels[row]])),
        "n_matches": len(matches),
        "n_removed": len(removed),
    }


def _hit_values(one: TrialRankings, place: int) -> dict[str, Any] | None:
    """The first hit of a query, None where nothing is ranked, or ranks were removed."""
    row = int(one.rankings.nearest[place])
    return None if row < 0 else _ranked_values(one, one.rankings.pair(place, row))


def _image_values(one: TrialRankings, row: int) -> dict[str, Any]:
    """An image of the split; `archived` is its row in the archive, without which `size` and `box` are not known."""
    retrieval, archive = one.rankings.retrieval, one.opened.archive
    image_id = retrieval.image_ids[row]
    archived = one.opened.row_of.get(image_id)
    return {
        "row": row,
        "id": image_id,
        "source": site().images.source(one.trial, archive.split, image_id),
        "identity": class_name(retrieval.identities, int(retrieval.labels[row])),
        "camera": None if retrieval.cameras is None else retrieval.camera_names[retrieval.cameras[row]],
        "group": int(retrieval.removal_keys[row]) if retrieval.match_rule == "group" else None,
        "archived": archived,
        "size": None if archived is None else archive.sizes_hw[archived].tolist(),
        "box": None if archived is None else archive.crop_boxes[archived].tolist(),
    }


def _ranked_values(one: TrialRankings, ranked: RankedImage, key: str | None = None) -> dict[str, Any]:
    """A gallery image of a query, with one of its maps where `key` names one."""
    retrieval = one.rankings.retrieval
    return {
        **_image_values(one, ranked.row),
        "rank": ranked.rank,
        "cosine": plain(ranked.cosine),
        "match": ranked.is_match,
        "distractor": int(retrieval.labels[ranked.row]) == one.rankings.distractor_label,
        "map": _map_values(one, ranked.row, key),
    }


def _map_values(one: TrialRankings, row: int, key: str | None) -> dict[str, Any] | None:
    """A map of an image of the split; None where none is asked for or archived."""
    archived = one.opened.row_of.get(one.rankings.retrieval.image_ids[row])
    return None if key is None or archived is None else map_values(one.opened.map_at(key, archived))


@retrieval_pages.get("/query/<experiment>/<study>/<int:number>/<int:row>")
def query(experiment: str, study: str, number: int, row: int) -> str:
    """The ranked gallery of one query."""
    one = _open(experiment, study, number)
    one.rankings.place_of(row)
    return render_template("query.html", **_page_values(one, row), tops=TOPS)


def _page_values(one: TrialRankings, row: int) -> dict[str, Any]:
    """What the pages of one query have in common."""
    retrieval = one.rankings.retrieval
    return {
        "layout": one.trial.study.layout,
        "number": one.trial.number,
        "split": one.opened.archive.split,
        "row": row,
        "image_id": retrieval.image_ids[row],
        "identity": class_name(retrieval.identities, int(retrieval.labels[row])),
        "maps": one.opened.map_labels,
        "removed_as": REMOVED_AS[retrieval.match_rule],
    }


@retrieval_pages.get("/api/query/<experiment>/<study>/<int:number>")
def named_query_json(experiment: str, study: str, number: int) -> Response:
    """The ranked gallery of the query of an image id, `image` in the URL."""
    one, image_id = _open(experiment, study, number), request.args.get("image", "")
    row = one.rankings.row_of.get(image_id)
    if row is None:
        raise ConfigError(f"split {one.opened.archive.split} of trial {number} has no image {image_id!r}")
    return answer_json(_gallery_values(one, row))


@retrieval_pages.get("/api/query/<experiment>/<study>/<int:number>/<int:row>")
def query_json(experiment: str, study: str, number: int, row: int) -> Response:
    """The ranked gallery of one query, and the queries before and after it among those that the filters choose."""
    one = _open(experiment, study, number)
    values = _gallery_values(one, row)
    places = matching_places(one.rankings, parse_filter(request.args))
    rows = [str(one.rankings.query_rows[place]) for place in places]
    place_of = {key: place for place, key in enumerate(rows)}
    around = neighbours(rows, place_of, str(row))
    return answer_json({**values, **around, "place": place_of.get(str(row)), "matching": len(rows)})


def _gallery_values(one: TrialRankings, row: int) -> dict[str, Any]:
    """A query with the first `top` of its ranked gallery; maps come where `map` in the URL names one.

    Raises:
        ConfigError: the image is no query, or another length of the list is asked for.
    """
    place, key = one.rankings.place_of(row), request.args.get("map") or None
    top = whole_number(request.args, "top") or TOPS[0]
    if top not in TOPS:
        raise ConfigError(f"top must be one of {TOPS}, got {top}")
    retrieval = one.rankings.retrieval
    return {
        "split": one.opened.archive.split,
        "query": _query_values(one, place) | {"map": _map_values(one, row, key)},
        "gallery": [_ranked_values(one, ranked, key) for ranked in one.rankings.ranked(place, top)],
        "missed": [_ranked_values(one, ranked, key) for ranked in one.rankings.missed(place, top, N_MISSED)],
        "n_gallery": len(one.rankings.gallery_rows),
        "removed_as": REMOVED_AS[retrieval.match_rule],
        "error": one.opened.error,
    }


@retrieval_pages.get("/pair/<experiment>/<study>/<int:number>/<int:row>/<int:other>")
def pair(experiment: str, study: str, number: int, row: int, other: int) -> str:
    """A query and one gallery image side by side."""
    one = _open(experiment, study, number)
    one.rankings.pair(one.rankings.place_of(row), other)
    return render_template("pair.html", **_page_values(one, row), other=other)


@retrieval_pages.get("/api/pair/<experiment>/<study>/<int:number>/<int:row>/<int:other>")
def pair_json(experiment: str, study: str, number: int, row: int, other: int) -> Response:
    """Every map of a query and of one gallery image, and the scores and curves of the query."""
    one = _open(experiment, study, number)
    place = one.rankings.place_of(row)
    ranked = one.rankings.pair(place, other)
    scores, labels = image_scores(one.trial, one.opened.archive.split), one.opened.map_labels
    listed = [image.row for image in one.rankings.ranked(place, TOPS[-1]) if image.rank is not None]
    values = {
        "split": one.opened.archive.split,
        "query": _query_values(one, place) | {"maps": {key: _map_values(one, row, key) for key in labels}},
        "other": _ranked_values(one, ranked) | {"maps": {key: _map_values(one, other, key) for key in labels}},
        "labels": labels,
        "removed_as": REMOVED_AS[one.rankings.retrieval.match_rule],
        **neighbours([str(listed_row) for listed_row in listed], {str(r): i for i, r in enumerate(listed)}, str(other)),
        **score_values(one.opened, scores, one.rankings.retrieval.image_ids[row]),
    }
    return answer_json(values)


@retrieval_pages.get("/query-trials/<experiment>/<study>")
def query_trials(experiment: str, study: str) -> str:
    """The same query under the trials of a study; the script of the page asks for each of them."""
    reader = study_of(experiment, study)
    trials = _ranked_trials(reader)
    return render_template(
        "query_trials.html",
        layout=reader.layout,
        image_id=request.args.get("image", ""),
        split=request.args.get("split") or "val",
        trials=trials[:MAX_TRIALS],
        titles={key: title_of(key) for key in reader.rows.objectives},
        n_trials=len(trials),
    )


def _ranked_trials(study: StudyReader) -> list[dict[str, Any]]:
    """The trials of a study that have maps, the best in the first objective first."""
    rows, with_maps = study.rows, set(study.numbers_with_maps())
    sign = -1 if next(iter(rows.objectives.values()), "maximize") == "maximize" else 1
    found = [row for row in rows.trials if row.number in with_maps]
    found.sort(key=lambda row: (not row.values, sign * row.values[0] if row.values else 0.0, row.number))
    return [trial_values(row, rows, has_maps=True) for row in found]


@retrieval_pages.get("/split-image/<experiment>/<study>/<int:number>/<split>/<int:row>")
def split_image(experiment: str, study: str, number: int, split: str, row: int) -> Response:
    """The image in a row of a split, whether its maps are archived or not: `px` as for archived images."""
    trial = study_of(experiment, study).trial(number)
    opened = site().archives.open(trial, split)
    ids = () if opened.rankings is None else opened.rankings.retrieval.image_ids
    if row >= len(ids):
        raise ConfigError(f"the split has {len(ids)} ranked images, there is no row {row}")
    return answer_image(trial, opened.archive.split, ids[row])
