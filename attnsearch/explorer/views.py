"""The explorer's pages and JSON as a Flask app; every argument of a URL is a name that is looked up, never a path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, abort, current_app, render_template, request
from werkzeug.exceptions import HTTPException

from attnsearch.errors import AttnSearchError, ConfigError, DataError
from attnsearch.explorer.archives import OpenArchive
from attnsearch.explorer.image_query import chosen_rows, parse_wanted, rows_to_show
from attnsearch.explorer.images import SIZES_PX, EncodedImage
from attnsearch.explorer.reading import Named, Reading
from attnsearch.explorer.security import API, PREFIX
from attnsearch.explorer.serialize import (
    class_name,
    epochs_values,
    image_values,
    map_values,
    plain,
    study_values,
    trial_values,
)
from attnsearch.results.reader import Results
from attnsearch.results.trial import NO_SCORES
from attnsearch.store.layout import StudyLayout

MAX_COMPARED = 24
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
pages = Blueprint("attention", __name__, url_prefix=PREFIX)


def create_explorer(library: Results, *, dashboard_of: str | None = None) -> Flask:
    """The attention explorer below `/attention`.

    Args:
        dashboard_of: the experiment that optuna-dashboard shows at the root of the same server, if it does.
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
    app.extensions["reading"] = Reading(library)
    app.jinja_env.globals["dashboard_of"] = dashboard_of
    app.register_blueprint(pages)
    app.register_error_handler(AttnSearchError, _show_error)
    app.register_error_handler(HTTPException, _show_http_error)
    app.after_request(_protect)
    return app


def _reading() -> Reading:
    found: Reading = current_app.extensions["reading"]
    return found


def _protect(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    if response.status_code == 200 and not response.is_streamed and "ETag" not in response.headers:
        response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
        response.headers["Cache-Control"] = "no-cache"
    if response.status_code == 200:
        response.make_conditional(request)
    return response


def _show_error(error: AttnSearchError) -> tuple[Response, int]:
    """What cannot be found or read, in one line; JSON for scripts."""
    code = 404 if isinstance(error, ConfigError | DataError) else 503
    return _fault(str(error), code), code


def _show_http_error(error: HTTPException) -> tuple[Response, int]:
    code = error.code or 500
    return _fault(error.description or "this cannot be shown", code), code


def _fault(text: str, code: int) -> Response:
    if request.path.startswith(API):
        return Response(json.dumps({"error": text}), mimetype="application/json")
    return Response(render_template("fault.html", text=text, code=code), mimetype="text/html")


def _json(values: Any) -> Response:
    return Response(json.dumps(values, allow_nan=False, separators=(",", ":")), mimetype="application/json")


@pages.get("/")
def studies() -> str:
    """All studies and plain runs."""
    return render_template("studies.html", studies=[_reading().summary(layout) for layout in _reading().studies()])


@pages.get("/study/<experiment>/<study>")
def study(experiment: str, study: str) -> str:
    """The trials of a study: table, Pareto plot, learning curves."""
    layout = _reading().library.find(experiment, study)
    return render_template("study.html", layout=layout, values=_study_values(layout))


@pages.get("/api/study/<experiment>/<study>")
def study_json(experiment: str, study: str) -> Response:
    """The same for the script of the page, while a study runs."""
    return _json(_study_values(_reading().library.find(experiment, study)))


def _study_values(layout: StudyLayout) -> dict[str, Any]:
    rows = _reading().library.rows(layout)
    with_maps = frozenset(_reading().archives.numbers(layout))
    made: dict[str, Any] = _reading().pages.get(
        layout, (rows, with_maps), lambda: study_values(layout, rows, with_maps=with_maps)
    )
    return made


@pages.get("/api/epochs/<experiment>/<study>")
def epochs_json(experiment: str, study: str) -> Response:
    """Learning curves of some trials."""
    layout = _reading().library.find(experiment, study)
    numbers = [int(word) for word in request.args.get("trials", "").split(",") if word.isascii() and word.isdecimal()]
    return _json(epochs_values(_reading().library.epochs(layout, numbers)))


@pages.get("/trial/<experiment>/<study>/<int:number>")
def trial(experiment: str, study: str, number: int) -> str:
    """The images of a trial as a grid."""
    layout, opened, split = _open(experiment, study, number, may_lack=True)
    rows = _reading().library.rows(layout)
    row = _reading().library.trial(layout, number)
    scores = NO_SCORES if opened is None else _reading().scores.of(layout, number, opened.archive.split)
    return render_template(
        "trial.html",
        layout=layout,
        trial=trial_values(row, rows, has_maps=opened is not None),
        split=split,
        splits=list(_reading().archives.of_trial(layout, number)),
        maps={} if opened is None else opened.map_labels,
        fault=None if opened is None else opened.fault,
        classes=() if opened is None else opened.archive.class_names,
        metrics=list(scores.values),
        means=scores.means(),
        n_scored=len(scores.rows),
    )


@pages.get("/api/grid/<experiment>/<study>/<int:number>")
def grid_json(experiment: str, study: str, number: int) -> Response:
    """One page of images with one map each."""
    layout, opened, split = _require_open(experiment, study, number)
    wanted = parse_wanted(request.args)
    reading = _reading()
    scores = reading.scores.of(layout, number, opened.archive.split)
    hits = reading.places.hits(layout, number, opened, scores)
    rows = chosen_rows(opened, wanted, scores, hits)
    shown, page, n_pages = rows_to_show(rows, wanted)
    key = _map_key(opened)
    images = [
        image_values(opened, row)
        | {"map": None if key is None else map_values(opened.map_at(key, row)), "hit": hits[row]}
        | {"picture": reading.pictures.source(layout, number, split, opened.archive.image_ids[row])}
        | {"scores": scores.of_image(opened.archive.image_ids[row])}
        for row in shown
    ]
    about = {"total": len(opened.archive.image_ids), "matching": len(rows), "page": page, "pages": n_pages}
    about["right"] = sum(int(opened.archive.labels[row]) == int(opened.archive.predictions[row]) for row in rows)
    can_place = any(hit is not None for hit in hits)
    return _json({**about, "split": split, "map": key, "can_place": can_place, "images": images})


def _map_key(opened: OpenArchive) -> str | None:
    """The map that the URL names, or the first one; None where there are no arrays."""
    labels = opened.map_labels
    return None if not labels else (request.args.get("map") or next(iter(labels)))


@pages.get("/image/<experiment>/<study>/<int:number>/<int:row>")
def image(experiment: str, study: str, number: int, row: int) -> str:
    """One image in detail."""
    layout, opened, split = _require_open(experiment, study, number)
    _require_row(opened, row)
    names = opened.archive.class_names
    maps = opened.map_labels
    return render_template(
        "image.html",
        layout=layout,
        number=number,
        split=split,
        row=row,
        n_rows=len(opened.archive.image_ids),
        image_id=opened.archive.image_ids[row],
        true_class=class_name(names, int(opened.archive.labels[row])),
        maps=maps,
        fault=opened.fault,
    )


@pages.get("/api/image/<experiment>/<study>/<int:number>/<int:row>")
def image_json(experiment: str, study: str, number: int, row: int) -> Response:
    """Every map of one image, its scores and its curves."""
    layout, opened, split = _require_open(experiment, study, number)
    _require_row(opened, row)
    reading = _reading()
    scores = reading.scores.of(layout, number, opened.archive.split)
    image_id = opened.archive.image_ids[row]
    values = image_values(opened, row) | {
        "maps": {key: map_values(opened.map_at(key, row)) for key in opened.map_labels},
        "labels": opened.map_labels,
        "picture": reading.pictures.source(layout, number, split, image_id),
        "original": reading.pictures.original(layout, number, split, image_id) is not None,
        "scores": scores.of_image(image_id),
        "curves": scores.curves_of(image_id),
        "fractions": list(scores.fractions),
        "settings": plain(dict(scores.settings or {})),
        "hit": reading.places.hits(layout, number, opened, scores)[row],
    }
    return _json(values)


@pages.get("/compare/<experiment>")
def compare(experiment: str) -> str:
    """The same image under several trials; the script asks for the rest."""
    return render_template("compare.html", experiment=experiment, choices=_reading().comparable(experiment))


@pages.get("/api/compare/<experiment>")
def compare_json(experiment: str) -> Response:
    """One map of one image from several trials, `t=STUDY:NUMBER` each; trials that lack it say why."""
    split = request.args.get("split") or "val"
    wanted = [_named(experiment, word, split) for word in request.args.getlist("t")[:MAX_COMPARED]]
    first = next((one for one in wanted if isinstance(one, Named)), None)
    image_id, around = _reading().image_and_neighbours(first, request.args.get("image", ""))
    found = [_compared(one, image_id, split) if isinstance(one, Named) else one for one in wanted]
    return _json({"image": image_id, "split": split, "trials": found, **around})


def _named(experiment: str, word: str, split: str) -> Named | dict[str, Any]:
    """The archive of one trial, or why there is none."""
    study, _, number = word.rpartition(":")
    try:
        return _reading().named(experiment, study, number, split)
    except AttnSearchError as error:
        return {"study": study, "number": number, "fault": str(error)}


def _compared(named: Named, image_id: str, split: str) -> dict[str, Any]:
    name = {"study": named.layout.study, "number": named.number}
    try:
        opened = named.opened
        row = _reading().row_of(opened, image_id)
        key = _map_key(opened)
        if key is None:
            return {**name, "fault": opened.fault or "it has no maps"}
        picture = _reading().pictures.source(named.layout, named.number, split, image_id)
        one = map_values(opened.map_at(key if key in opened.map_labels else "saliency", row))
        return {**name, **image_values(opened, row), "map": one, "labels": opened.map_labels, "picture": picture}
    except AttnSearchError as error:
        return {**name, "fault": str(error)}


@pages.get("/picture/<experiment>/<study>/<int:number>/<split>/<int:row>")
def picture(experiment: str, study: str, number: int, split: str, row: int) -> Response:
    """The picture of one archive row: `px` is the longer side, 0 the original."""
    layout = _reading().library.find(experiment, study)
    opened = _reading().archives.open(layout, number, split)
    _require_row(opened, row)
    image_id = opened.archive.image_ids[row]
    px = request.args.get("px", "512")
    if px == "0":
        return _jpeg(_reading().pictures.full(layout, number, split, image_id))
    if px not in map(str, SIZES_PX):
        raise ConfigError(f"px must be 0 for the original or one of {SIZES_PX}, got {px!r}")
    return _jpeg(_reading().pictures.small(layout, number, split, image_id, longest_px=int(px)))


def _jpeg(rendered: EncodedImage) -> Response:
    response = Response(rendered.body, mimetype="image/jpeg")
    response.set_etag(rendered.etag)
    response.headers["Cache-Control"] = "private, max-age=60"
    return response


def _open(
    experiment: str, study: str, number: int, *, may_lack: bool = False
) -> tuple[StudyLayout, OpenArchive | None, str]:
    layout = _reading().library.find(experiment, study)
    known = list(_reading().archives.of_trial(layout, number))
    split = request.args.get("split") or ("val" if "val" in known or not known else known[0])
    if may_lack and not known:
        return layout, None, split
    return layout, _reading().archives.open(layout, number, split), split


def _require_open(experiment: str, study: str, number: int) -> tuple[StudyLayout, OpenArchive, str]:
    layout, opened, split = _open(experiment, study, number)
    assert opened is not None
    return layout, opened, split


def _require_row(opened: OpenArchive, row: int) -> None:
    n_images = len(opened.archive.image_ids)
    if row >= n_images:
        abort(404, f"the archive has {n_images} images, there is no row {row}")
