"""Pages that ask a kept model: photographs of one's own are explained, and single archived images scored."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, abort, render_template, request
from flask.blueprints import BlueprintSetupState
from PIL import Image

from attnsearch.errors import ConfigError, DataError
from attnsearch.explorer.archives import scores_by_image
from attnsearch.explorer.model_worker import KeptModel, kept_weights
from attnsearch.explorer.photographs import (
    MAX_BYTES,
    accepted_text,
    explained_values,
    keep_photograph,
    read_photograph,
)
from attnsearch.explorer.security import PREFIX
from attnsearch.explorer.serialize import score_values
from attnsearch.explorer.site import answer_json, known_trial, open_archive, site
from attnsearch.figures.explanation import Explanation
from attnsearch.store.image_scores import ScoreTable

model_pages = Blueprint("model", __name__, url_prefix=PREFIX)
_NAME_LETTERS = 80


@model_pages.record_once
def _limit_bodies(setup: BlueprintSetupState) -> None:
    """Werkzeug cuts a body of unknown length at its limit, without an error: one byte more tells that it was longer."""
    setup.app.config["MAX_CONTENT_LENGTH"] = MAX_BYTES + 1


@model_pages.get("/explain/<experiment>/<study>/<int:number>")
def explain_page(experiment: str, study: str, number: int) -> str:
    """Where a photograph is dropped or chosen, and explained by the kept model of a trial."""
    trial = known_trial(experiment, study, number)
    try:
        problem, classes = None, trial.config.task.name == "classification"
        kept_weights(trial)
    except ConfigError as error:
        problem, classes = str(error), False
    return render_template(
        "explain.html",
        layout=trial.study.layout,
        number=number,
        epoch=trial.row.best_epoch,
        problem=problem,
        predicts_classes=classes,
        accepted=accepted_text(),
        max_bytes=MAX_BYTES,
        allow_edit=site().allow_edit,
    )


@model_pages.post("/explain/<experiment>/<study>/<int:number>")
def explain_json(experiment: str, study: str, number: int) -> Response:
    """What the model of a trial makes of the photograph in the body; `name` is that of its file, `keep=1` stores it."""
    trial, name = known_trial(experiment, study, number), _name()
    is_kept = request.args.get("keep") == "1"
    if is_kept and not site().allow_edit:
        abort(403, "photographs are not kept; start the dashboard with --allow-edit to keep them")
    content = _content(name)

    def explain(kept: KeptModel) -> tuple[Explanation, Image.Image]:
        try:
            image = read_photograph(content, name)  # here, so that one photograph at a time is decoded
        except DataError as error:
            abort(415, str(error))
        return kept.model.explain(image, top_q=0), image

    started = time.monotonic()
    explanation, image = site().models.ask(trial, explain)
    values = {"name": name, **explained_values(explanation, image), "seconds": round(time.monotonic() - started, 2)}
    folder = keep_photograph(trial, content, name, explanation) if is_kept else None
    return answer_json({**values, "kept": None if folder is None else str(folder)})


def _name() -> str:
    """What the photograph is called, in one short line."""
    name = request.args.get("name", "").replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in name if letter.isprintable())[-_NAME_LETTERS:] or "the photograph"


def _content(name: str) -> bytes:
    """The body; answers 413 where it is too large, and 400 where there is none."""
    is_announced = (request.content_length or 0) > MAX_BYTES
    content = b"" if is_announced else request.get_data(cache=False)
    if is_announced or len(content) > MAX_BYTES:
        abort(413, f"{name} has more than the {MAX_BYTES // 2**20} MB that are read")
    if not content:
        abort(400, "nothing was sent; choose a photograph")
    return content


@model_pages.post("/score/<experiment>/<study>/<int:number>/<path:image_id>")
def score_json(experiment: str, study: str, number: int, image_id: str) -> Response:
    """The scores of one archived image of the split in the URL, measured now and not stored."""
    trial, opened = open_archive(experiment, study, number)
    archive = opened.archive
    row = opened.row_of.get(image_id)
    if row is None:
        raise ConfigError(f"the {archive.split} archive of trial {trial.name} has no image {image_id!r}")
    if opened.verdicts[row] is None:
        raise ConfigError("only queries with a match are scored, which this image is not")

    def score(kept: KeptModel) -> ScoreTable:
        if archive.split == "test":
            trial.log_test_evaluation(archive.epoch)
        return kept.score(archive.split, image_id)

    table = site().models.ask(trial, score)
    values: dict[str, Any] = score_values(opened, scores_by_image(table), image_id)
    return answer_json(values)
