"""The explorer's pages and JSON as a Flask app; every argument of a URL is a name that is looked up, never a path."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flask import Blueprint, Flask, Response, redirect, render_template, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from attnsearch.errors import MISUSED, AttnSearchError, ConfigError
from attnsearch.explorer.archives import OpenArchive, image_scores
from attnsearch.explorer.failure_views import failure_pages
from attnsearch.explorer.film import film_image, film_values
from attnsearch.explorer.image_query import matching_rows, neighbours, parse_query, rows_to_show
from attnsearch.explorer.model_views import model_pages
from attnsearch.explorer.retrieval_views import retrieval_pages
from attnsearch.explorer.security import EXPERIMENT_COOKIE, PREFIX, wants_json
from attnsearch.explorer.serialize import (
    epochs_values,
    image_title,
    image_values,
    map_values,
    metric_values,
    pointing_values,
    score_values,
    selection_values,
    summary_of,
    summary_values,
)
from attnsearch.explorer.site import (
    MAX_DIGITS,
    Site,
    TrialArchive,
    answer_image,
    answer_json,
    archive_or_error,
    image_id_at,
    known_trial,
    open_archive,
    site,
    split_of,
    study_of,
    trials_with_maps,
)
from attnsearch.explorer.studies import importance_values, page_of_study
from attnsearch.explorer.trial_page import page_of_trial, text_of
from attnsearch.metrics.registry import title_of
from attnsearch.results.reader import Results

MAX_COMPARED = 24
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
pages = Blueprint("attention", __name__, url_prefix=PREFIX)


def create_explorer(results: Results, *, dashboards_of: Collection[str] = (), allow_edit: bool = False) -> Flask:
    """The attention explorer below `/attention`.

    Args:
        dashboards_of: the experiments that optuna-dashboard can show at the root of the same server.
        allow_edit: whether photographs that people send may be kept.
    """
    here = Path(__file__).parent
    app = Flask(
        __name__,
        static_folder=str(here / "static"),
        static_url_path=f"{PREFIX}/static",
        template_folder=str(here / "templates"),
    )
    app.jinja_env.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the first map and objective stay the first
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.extensions["site"] = Site(results, frozenset(dashboards_of), allow_edit)
    app.jinja_env.globals["dashboards_of"] = dashboards_of
    app.jinja_env.filters |= {"title_of": title_of, "summary_of": summary_of}
    for blueprint in (pages, retrieval_pages, model_pages, failure_pages):
        app.register_blueprint(blueprint)
    app.register_error_handler(AttnSearchError, _show_error)
    app.register_error_handler(HTTPException, _show_http_error)
    app.after_request(_protect)
    return app


def _protect(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    if response.status_code == 200 and not response.is_streamed and "ETag" not in response.headers:
        response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
        response.headers["Cache-Control"] = "no-cache"
    if response.status_code == 200:
        response.make_conditional(request)
    return response


def _show_error(error: AttnSearchError) -> tuple[Response, int]:
    """The message of an error as a page, or as JSON for scripts; 404 for a wrong name, 503 for damaged results."""
    code = 404 if error.exit_code == MISUSED else 503
    return _error_page(str(error), code), code


def _show_http_error(error: HTTPException) -> tuple[Response, int]:
    code = error.code or 500
    return _error_page(error.description or "this cannot be shown", code), code


def _error_page(text: str, code: int) -> Response:
    if wants_json(request):
        return Response(json.dumps({"error": text}), mimetype="application/json")
    return Response(render_template("error.html", text=text, code=code), mimetype="text/html")


@pages.get("/")
def studies() -> str:
    """All studies."""
    return render_template("studies.html", studies=[summary_values(study) for study in site().results])


@pages.get("/optuna/<experiment>")
def optuna_dashboard(experiment: str) -> BaseResponse:
    """optuna-dashboard on an experiment, which a cookie names from here on."""
    if experiment not in site().dashboards_of:
        raise ConfigError(f"optuna-dashboard shows no experiment {experiment!r}: its database cannot be read")
    answer = redirect("/dashboard")
    answer.set_cookie(EXPERIMENT_COOKIE, quote(experiment, safe=""), httponly=True, samesite="Strict")
    return answer


@pages.get("/study/<experiment>/<study>")
def study(experiment: str, study: str) -> str:
    """The trials of a study: table, Pareto plot, learning curves."""
    reader = study_of(experiment, study)
    return render_template("study.html", layout=reader.layout, values=page_of_study(reader))


@pages.get("/api/study/<experiment>/<study>")
def study_json(experiment: str, study: str) -> Response:
    """The same for the script of the page, while a study runs."""
    return answer_json(page_of_study(study_of(experiment, study)))


@pages.get("/api/selection/<experiment>/<study>")
def selection_json(experiment: str, study: str) -> Response:
    """What the choice of the best trials flatters, and how far the search came."""
    return answer_json(selection_values(study_of(experiment, study).selection()))


@pages.get("/api/epochs/<experiment>/<study>")
def epochs_json(experiment: str, study: str) -> Response:
    """Learning curves of some trials."""
    reader = study_of(experiment, study)
    numbers = [int(word) for word in request.args.get("trials", "").split(",") if word.isascii() and word.isdecimal()]
    return answer_json(epochs_values(reader.epochs_of(numbers)))


@pages.get("/api/importances/<experiment>/<study>")
def importances_json(experiment: str, study: str) -> Response:
    """Objective -> hyperparameter -> how much it matters; empty with few trials."""
    return answer_json(importance_values(study_of(experiment, study)))


@pages.get("/api/film/<experiment>/<study>/<int:number>")
def film_json(experiment: str, study: str, number: int) -> Response:
    """The film strip of a trial, or only the frames after an epoch."""
    word = request.args.get("after", "0")
    after = int(word) if word.isascii() and word.isdecimal() and len(word) < MAX_DIGITS else 0
    return answer_json(film_values(known_trial(experiment, study, number), after=after))


@pages.get("/film-picture/<experiment>/<study>/<int:number>/<int:index>")
def film_picture(experiment: str, study: str, number: int, index: int) -> Response:
    """One of the images of a film strip: `px` is the longer side, 0 the original."""
    reader = known_trial(experiment, study, number)
    return answer_image(reader, "val", film_image(reader, index))


@pages.get("/trial/<experiment>/<study>/<int:number>")
def trial(experiment: str, study: str, number: int) -> str:
    """The images of a trial as a grid, with its scores and its learning curve."""
    reader = study_of(experiment, study)
    archives = reader.trial(number).archives()
    split = split_of(archives)
    opened = site().archives.open(reader.trial(number), split) if archives else None
    values = page_of_trial(reader, number, opened)
    return render_template("trial.html", split=split, splits=list(archives), **values)


@pages.get("/text/<experiment>/<study>/<int:number>/<name>")
def trial_text(experiment: str, study: str, number: int, name: str) -> Response:
    """The settings or the log of a trial as plain text."""
    text = text_of(known_trial(experiment, study, number), name)
    return Response(text, mimetype="text/plain", headers={"X-Content-Type-Options": "nosniff"})


@pages.get("/api/grid/<experiment>/<study>/<int:number>")
def grid_json(experiment: str, study: str, number: int) -> Response:
    """One page of images with one map each."""
    reader, opened = open_archive(experiment, study, number)
    archive, query = opened.archive, parse_query(request.args)
    scores, hits = image_scores(reader, archive.split), site().archives.hits(reader, opened)
    rows = matching_rows(opened, query, scores, hits)
    shown, page, n_pages = rows_to_show(rows, query)
    key = _map_key(opened)
    images = [
        image_values(opened, row)
        | {"map": None if key is None else map_values(opened.map_at(key, row)), "hit": hits[row]}
        | {"source": site().images.source(reader, archive.split, archive.image_ids[row])}
        | {"scores": scores.of_image(archive.image_ids[row])}
        for row in shown
    ]
    counts = {"total": len(archive.image_ids), "matching": len(rows), "page": page, "pages": n_pages}
    judged = [verdict for row in rows if (verdict := opened.verdicts[row]) is not None]
    counts |= {"judged": len(judged), "correct": sum(judged)}
    has_targets = any(hit is not None for hit in hits)
    return answer_json({**counts, "split": archive.split, "map": key, "has_targets": has_targets, "images": images})


def _map_key(opened: OpenArchive) -> str | None:
    """The map in the URL, or the first one; None where there are no arrays."""
    labels = opened.map_labels
    return None if not labels else (request.args.get("map") or next(iter(labels)))


@pages.get("/image/<experiment>/<study>/<int:number>/<int:row>")
def image(experiment: str, study: str, number: int, row: int) -> str:
    """One image in detail."""
    reader, opened = open_archive(experiment, study, number)
    archive = opened.archive
    return render_template(
        "image.html",
        layout=reader.study.layout,
        number=number,
        split=archive.split,
        row=row,
        n_rows=len(archive.image_ids),
        image_id=image_id_at(opened, row),
        title=image_title(opened, row),
        maps=opened.map_labels,
        error=opened.error,
    )


@pages.get("/api/image/<experiment>/<study>/<int:number>/<int:row>")
def image_json(experiment: str, study: str, number: int, row: int) -> Response:
    """Every map of one image, its scores and its curves."""
    reader, opened = open_archive(experiment, study, number)
    split = opened.archive.split
    image_id, scores = image_id_at(opened, row), image_scores(reader, split)
    values = image_values(opened, row) | {
        "maps": {key: map_values(opened.map_at(key, row)) for key in opened.map_labels},
        "labels": opened.map_labels,
        "source": site().images.source(reader, split, image_id),
        "original": reader.original(image_id, split) is not None,
        **score_values(opened, scores, image_id),
        "hit": site().archives.hits(reader, opened)[row],
        "pointing": pointing_values(reader),
    }
    return answer_json(values)


@pages.get("/compare/<experiment>")
def compare(experiment: str) -> str:
    """The same image under several trials; the script of the page loads the maps."""
    return render_template("compare.html", experiment=experiment, choices=trials_with_maps(experiment))


@pages.get("/api/compare/<experiment>")
def compare_json(experiment: str) -> Response:
    """One map of one image from several trials, `t=STUDY:NUMBER` each; a trial that lacks it has an error."""
    split = request.args.get("split") or "val"
    trials = [archive_or_error(experiment, word, split) for word in request.args.getlist("t")[:MAX_COMPARED]]
    first = next((one.opened for one in trials if isinstance(one, TrialArchive)), None)
    ids = () if first is None else first.archive.image_ids
    image_id = request.args.get("image", "") or (ids[0] if ids else "")
    around = neighbours(ids, {} if first is None else first.row_of, image_id)
    values = [_compared(one, image_id) if isinstance(one, TrialArchive) else one for one in trials]
    return answer_json({"image": image_id, "split": split, "trials": values, **around})


def _compared(trial_archive: TrialArchive, image_id: str) -> dict[str, Any]:
    reader, opened = trial_archive
    name = {"study": reader.study.layout.study, "number": reader.number}
    try:
        row = opened.row_of.get(image_id)
        if row is None:
            return {**name, "error": f"its maps have no image {image_id!r}"}
        key = _map_key(opened)
        if key is None:
            return {**name, "error": opened.error or "it has no maps"}
        source = site().images.source(reader, opened.archive.split, image_id)
        key = key if key in opened.map_labels else "saliency"
        shown = {"map": map_values(opened.map_at(key, row)), "label": opened.map_labels[key], "source": source}
        scores = image_scores(reader, opened.archive.split)
        measured = {"scores": scores.of_image(image_id), "metrics": metric_values(scores.values)}
        return {**name, **image_values(opened, row), **shown, **measured, "labels": opened.map_labels}
    except AttnSearchError as error:
        return {**name, "error": str(error)}


@pages.get("/picture/<experiment>/<study>/<int:number>/<split>/<int:row>")
def image_file(experiment: str, study: str, number: int, split: str, row: int) -> Response:
    """The image of one archive row: `px` is the longer side, 0 the original."""
    trial = study_of(experiment, study).trial(number)
    opened = site().archives.open(trial, split)
    image_id = image_id_at(opened, row)
    return answer_image(trial, opened.archive.split, image_id)
