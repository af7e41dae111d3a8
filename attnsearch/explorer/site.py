"""What the pages of one server have in common: the results, what was read of them, and how they are asked for."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flask import Response, abort, current_app, request

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.explorer.archives import Archives, OpenArchive
from attnsearch.explorer.failures import Answers
from attnsearch.explorer.images import SIZES_PX, Images
from attnsearch.explorer.model_worker import ModelWorker
from attnsearch.files import FileCache
from attnsearch.results.reader import Results
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from attnsearch.types import Split

MAX_DIGITS = 10
"""Of the number of a trial or an epoch in a URL."""


@dataclass(frozen=True, eq=False)
class Site:
    """The results that the pages of one server show, and what was read of them.

    Attributes:
        dashboards_of: the experiments that optuna-dashboard can show beside them.
        allow_edit: whether pages may store what people send.
    """

    results: Results
    dashboards_of: frozenset[str] = frozenset()
    allow_edit: bool = False
    archives: Archives = field(default_factory=Archives)
    images: Images = field(default_factory=Images)
    models: ModelWorker = field(default_factory=ModelWorker)
    answers: FileCache[Answers] = field(default_factory=lambda: FileCache(16))
    studies: FileCache[dict[str, Any]] = field(default_factory=lambda: FileCache(8))
    importances: FileCache[dict[str, Any]] = field(default_factory=lambda: FileCache(8))


class TrialArchive(NamedTuple):
    """One trial's archive of one split."""

    trial: TrialReader
    opened: OpenArchive


def site() -> Site:
    """That of the app that answers."""
    one: Site = current_app.extensions["site"]
    return one


def study_of(experiment: str, study: str) -> StudyReader:
    """A study by its names.

    Raises:
        ConfigError: there is none.
    """
    return site().results.find(experiment, study)


def known_trial(experiment: str, study: str, number: int) -> TrialReader:
    """A trial by its names.

    Raises:
        ConfigError: there is none.
    """
    return study_of(experiment, study).existing_trial(number)


def split_of(splits: Collection[str]) -> str:
    """The split in the URL, else validation, else the first one that has maps."""
    return request.args.get("split") or ("val" if "val" in splits or not splits else next(iter(splits)))


def open_archive(experiment: str, study: str, number: int) -> TrialArchive:
    """The archive of the split in the URL.

    Raises:
        ConfigError: there is no such trial, or it has no maps of the split.
        StoreError: it is damaged.
    """
    trial = study_of(experiment, study).trial(number)
    return TrialArchive(trial, site().archives.open(trial, split_of(trial.archives())))


def image_id_at(opened: OpenArchive, row: int) -> str:
    """The id of the image in a row of an archive; answers 404 where there is no such row."""
    ids = opened.archive.image_ids
    if row >= len(ids):
        abort(404, f"the archive has {len(ids)} images, there is no row {row}")
    return ids[row]


def answer_json(values: Any) -> Response:
    """Values for a script, which may hold no NaN."""
    return Response(json.dumps(values, allow_nan=False, separators=(",", ":")), mimetype="application/json")


def answer_image(trial: TrialReader, split: Split, image_id: str) -> Response:
    """A JPEG of an image, `px` in the URL being its longer side, 0 for the original.

    Raises:
        ConfigError: another size, or the image is not on this machine.
        DataError: the file is no image.
    """
    px = request.args.get("px", "512")
    if px == "0":
        encoded = site().images.full(trial, split, image_id)
    elif px in map(str, SIZES_PX):
        encoded = site().images.small(trial, split, image_id, longest_px=int(px))
    else:
        raise ConfigError(f"px must be 0 for the original or one of {SIZES_PX}, got {px!r}")
    response = Response(encoded.body, mimetype="image/jpeg")
    response.set_etag(encoded.etag)
    response.headers["Cache-Control"] = "private, max-age=60"
    return response


def trials_with_maps(experiment: str) -> list[dict[str, str]]:
    """All trials of an experiment that have maps, as choices.

    Raises:
        ConfigError: no such experiment.
    """
    if experiment not in site().results.experiments:
        raise ConfigError(f"no experiment {experiment!r}")
    studies = [study for study in site().results if study.layout.experiment == experiment]
    names = [(study.layout.study, number) for study in studies for number in study.numbers_with_maps()]
    return [{"t": f"{name}:{number}", "label": f"{name} {number}"} for name, number in names]


def archive_or_error(experiment: str, word: str, split: str) -> TrialArchive | dict[str, Any]:
    """The archive of one trial, or why there is none."""
    study, _, number = word.rpartition(":")
    try:
        if not (number.isascii() and number.isdecimal() and len(number) < MAX_DIGITS):
            raise ConfigError(f"a trial is named STUDY:NUMBER, got {word!r}")
        trial = study_of(experiment, study).trial(int(number))
        return TrialArchive(trial, site().archives.open(trial, split))
    except AttnSearchError as error:
        return {"study": study, "number": number, "error": str(error)}
