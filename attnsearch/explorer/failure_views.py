"""Pages that lead to the images where a trial fails: errors, wrong reasons, disagreement, confused pairs, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flask import Blueprint, Response, render_template, request
from numpy.typing import NDArray

from attnsearch.errors import ConfigError
from attnsearch.explorer.archives import OpenArchive, image_scores
from attnsearch.explorer.failures import (
    UNKNOWN,
    Answers,
    ClassAnswers,
    Rows,
    class_answers,
    gains_by_class,
    mean_saliency,
    predictions_of,
)
from attnsearch.explorer.image_query import page_of, whole_number
from attnsearch.explorer.security import PREFIX
from attnsearch.explorer.serialize import class_name, image_values, map_values, plain
from attnsearch.explorer.site import (
    TrialArchive,
    answer_json,
    archive_or_error,
    known_trial,
    open_archive,
    site,
    split_of,
    study_of,
    trials_with_maps,
)
from attnsearch.files import stamp_of
from attnsearch.metrics.registry import title_of
from attnsearch.results.trial import TrialReader

N_SHOWN = 12
N_PAIRS, N_OF_PAIR = 8, 6
N_OTHERS = 3
"""Other trials that predictions are compared with where the URL names none."""
MAX_OTHERS = 12
failure_pages = Blueprint("failures", __name__, url_prefix=PREFIX)


@dataclass(frozen=True, eq=False)
class Finding:
    """A list of images to look at.

    Attributes:
        kind: names it in URLs.
        text: what it lists, in which order, or why it is empty.
        note: what is said of an image, by its row, beside its prediction.
    """

    kind: str
    title: str
    text: str
    rows: Rows
    note: Callable[[int], str]


@failure_pages.get("/failures/<experiment>/<study>/<int:number>")
def failures_page(experiment: str, study: str, number: int) -> str:
    """The images to look at first, by what is wrong with them."""
    return _page("failures.html", experiment, study, number, choices=trials_with_maps(experiment))


@failure_pages.get("/classes/<experiment>/<study>/<int:number>")
def classes_page(experiment: str, study: str, number: int) -> str:
    """All classes of a trial, or the one that the URL names."""
    return _page("classes.html", experiment, study, number)


def _page(template: str, experiment: str, study: str, number: int, **values: Any) -> str:
    trial = known_trial(experiment, study, number)
    archives = trial.archives()
    return render_template(
        template, layout=trial.study.layout, number=number, split=split_of(archives), splits=list(archives), **values
    )


@failure_pages.get("/api/failures/<experiment>/<study>/<int:number>")
def failures_json(experiment: str, study: str, number: int) -> Response:
    """The first images of each list and the most confused pairs; with `kind` one page of one list."""
    one = open_archive(experiment, study, number)
    answers = _answers(one)
    others, problems = _others(one)
    findings = _findings(one, answers, others)
    kind = request.args.get("kind", "")
    if kind == "pair":
        findings = [_pair_finding(one.opened, answers)]
    elif kind:
        findings = [finding for finding in findings if finding.kind == kind]
    if not findings:
        raise ConfigError(f"kind must be one of confident, reason, faithful, disagree, pair, got {kind!r}")
    shown = [_finding_values(one, finding, is_alone=bool(kind)) for finding in findings]
    pairs = [] if kind else _pair_values(one, answers)
    n_judged, n_wrong = int(answers.is_judged.sum()), int(answers.is_wrong.sum())
    return answer_json(
        {
            **{"split": one.opened.archive.split, "judged": n_judged, "wrong": n_wrong, "problems": problems},
            **{"findings": shown, "pairs": pairs, "compared": [label for label, _ in others]},
            "map": next(iter(one.opened.map_labels.values()), None),
        }
    )


def _answers(one: TrialArchive) -> Answers:
    """Those of an archive; read again when its files, its scores or the data set change."""
    trial, opened = one
    split = opened.archive.split
    paths, table = trial.files.scores(split), trial.study.shared.image_files.table(trial.files.config, split)
    stamp = (opened.stamp, stamp_of(paths.about, paths.table), id(table))
    key = (trial.study.layout.study_dir, trial.number, split)

    def read() -> Answers:
        return Answers.of(opened, image_scores(trial, split), site().archives.hits(trial, opened))

    return site().answers.get(key, stamp, read)


Others = list[tuple[str, NDArray[np.int64]]]
"""Names of other trials, and what each predicts of the images (N,)."""


def _others(one: TrialArchive) -> tuple[Others, list[str]]:
    """The trials `t=STUDY:NUMBER` of the URL, else the best other ones of the study; and why some are left out."""
    layout, split = one.trial.study.layout, one.opened.archive.split
    words = request.args.getlist("t")[:MAX_OTHERS] or _usual_others(one.trial)
    found: Others = []
    problems = []
    for word in dict.fromkeys(words):
        other = archive_or_error(layout.experiment, word, split)
        if not isinstance(other, TrialArchive):
            problems.append(f"{word}: {other['error']}")
            continue
        predictions = predictions_of(other.opened, one.opened)
        if (predictions == UNKNOWN).all():
            problems.append(f"{word}: it has none of these images or classes")
        else:
            found.append((word, predictions))
    return found, problems


def _usual_others(trial: TrialReader) -> list[str]:
    """Other trials of the study, the best ones first."""
    layout = trial.study.layout
    study = study_of(layout.experiment, layout.study)
    best = study.rows.best
    numbers = [number for number in study.numbers_with_maps() if number != trial.number]
    ranked = sorted(numbers, key=lambda number: (number not in best, number))
    return [f"{layout.study}:{number}" for number in ranked[:N_OTHERS]]


def _findings(one: TrialArchive, answers: Answers, others: Others) -> list[Finding]:
    """Each list of images but the pairs."""
    return [
        Finding("confident", "Confident errors", "Predicted wrongly, the most confident first.",
                answers.confident_errors(), lambda row: ""),
        _misplaced(answers),
        _least_faithful(one, answers),
        _disagreed(one.opened, answers, others),
    ]  # fmt: skip


def _misplaced(answers: Answers) -> Finding:
    name, rows = answers.energy_name, answers.misplaced()
    n_misses = int(answers.is_miss.sum())
    whose = "image has its" if n_misses == 1 else "images have their"
    misses = f"{n_misses} correct {whose} most salient cell beside the object"
    if np.isnan(answers.hits).all():
        misses = "There is no pointing game of these images"
    text = f"{misses}; then the correct ones with the least {title_of(name)}." if name else f"{misses}."
    if np.isnan(answers.hits).all() and name is None:
        text = "Nothing tells where the object is: there are no masks, boxes or pointing scores."
    title = "Right class, wrong reason" if n_misses or name is None else f"Right class, least {title_of(name)}"
    return Finding("reason", title, text, rows,
                   lambda row: _score_note(name, answers.energy[row]))  # fmt: skip


def _least_faithful(one: TrialArchive, answers: Answers) -> Finding:
    name, layout = answers.gain_name, one.trial.study.layout
    n_scored = int((~np.isnan(answers.gain)).sum())
    text = f"The lowest {title_of(name or '')} first, of {n_scored} scored images."
    if name is None:
        text = f"Not scored; `attnsearch faithfulness {layout.study} --trial {one.trial.number}` scores validation."
    return Finding("faithful", "Least faithful maps", text, answers.least_faithful(),
                   lambda row: _score_note(name, answers.gain[row]))  # fmt: skip


def _score_note(name: str | None, value: float) -> str:
    return "" if name is None or np.isnan(value) else f"{title_of(name)} {value:.3g}"


def _disagreed(opened: OpenArchive, answers: Answers, others: Others) -> Finding:
    names = ", ".join(name for name, _ in others)
    most = "most of " if len(others) > 1 else ""
    text = f"Predicted otherwise by {most}{names}, the most confident first."
    if not others:
        text = "There is no other trial with maps of these images to compare with."
    stacked = np.array([predictions for _, predictions in others], dtype=np.int64).reshape(-1, len(answers.labels))

    def note(row: int) -> str:
        said = [(name, int(predictions[row])) for name, predictions in others]
        told = [(name, label) for name, label in said if label not in (UNKNOWN, answers.predictions[row])]
        return "; ".join(f"{name}: {class_name(opened.archive.class_names, label)}" for name, label in told)

    return Finding("disagree", "Trials disagree", text, answers.disagreed(stacked), note)


def _pair_finding(opened: OpenArchive, answers: Answers) -> Finding:
    """The pair `first` and `second` of the URL."""
    names = opened.archive.class_names
    ends = [whole_number(request.args, key) for key in ("first", "second")]
    labels = [label for label in ends if label is not None and label < len(names)]
    if len(labels) < len(ends):
        raise ConfigError(f"first and second must be numbers of classes, 0 to {len(names) - 1}")
    first, second = labels
    title = f"{names[first]} and {names[second]}"
    text = "Images of either that are taken for the other, the most confident first."
    return Finding("pair", title, text, answers.between(first, second), lambda row: "")


def _finding_values(one: TrialArchive, finding: Finding, *, is_alone: bool) -> dict[str, Any]:
    rows, page, n_pages = finding.rows[:N_SHOWN].tolist(), 1, 1
    if is_alone:
        rows, page, n_pages = page_of(finding.rows.tolist(), whole_number(request.args, "page") or 1)
    values = {"kind": finding.kind, "title": finding.title, "text": finding.text, "total": len(finding.rows)}
    images = [{**values_, "note": finding.note(values_["row"])} for values_ in _tiles(one, rows)]
    return {**values, "page": page, "pages": n_pages, "images": images}


def _pair_values(one: TrialArchive, answers: Answers) -> list[dict[str, Any]]:
    names = one.opened.archive.class_names
    return [
        {
            **{"first": pair.first, "second": pair.second, "n": pair.n_errors, "rate": pair.rate},
            **{"names": [class_name(names, pair.first), class_name(names, pair.second)]},
            **{"there": pair.first_as_second, "back": pair.second_as_first},
            "images": _tiles(one, answers.between(pair.first, pair.second)[:N_OF_PAIR].tolist()),
        }
        for pair in answers.pairs(N_PAIRS)
    ]


def _tiles(one: TrialArchive, rows: Iterable[int]) -> list[dict[str, Any]]:
    """Images with their saliency, as the tiles of pages take them."""
    trial, opened = one
    split, key = opened.archive.split, next(iter(opened.map_labels), None)
    hits = _answers(one).hits
    return [
        image_values(opened, row)
        | {"map": None if key is None else map_values(opened.map_at(key, row))}
        | {"hit": None if np.isnan(hits[row]) else bool(hits[row])}
        | {"source": site().images.source(trial, split, opened.archive.image_ids[row])}
        for row in rows
    ]


@failure_pages.get("/api/classes/<experiment>/<study>/<int:number>")
def classes_json(experiment: str, study: str, number: int) -> Response:
    """A row for each class; with `class` also that one's mean map and images."""
    one = open_archive(experiment, study, number)
    archive = one.opened.archive
    answers, names = _answers(one), archive.class_names
    split = archive.split
    gains = gains_by_class(one.trial.score_table(split), one.opened) if one.trial.has_scores(split) else {}
    rows = class_answers(answers, len(names), gains)
    values: dict[str, Any] = {"split": split, "classes": [_class_values(row, names) for row in rows]}
    wanted = request.args.get("class", "")
    if wanted:
        if wanted not in names:
            raise ConfigError(f"the archive has no class {wanted!r}")
        values["detail"] = _class_detail(one, answers, names.index(wanted))
    return answer_json(values)


def _class_values(row: ClassAnswers, names: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = plain(
        {
            **{"name": names[row.label], "label": row.label, "n": row.n_images, "predicted": row.n_predicted},
            **{"accuracy": row.accuracy, "precision": row.precision, "confidence": row.confidence},
            **{"gain": row.gain, "gain_error": row.gain_error, "scored": row.n_scored},
            "confused": [{"name": names[label], "label": label, "n": n} for label, n in row.confused],
        }
    )
    return values


def _class_detail(one: TrialArchive, answers: Answers, label: int) -> dict[str, Any]:
    mean = mean_saliency(one.opened, label)
    wrong = answers.confident_errors()
    correct = np.flatnonzero(answers.is_correct & (answers.labels == label))
    lists = {
        "missed": wrong[answers.labels[wrong] == label],
        "taken": wrong[answers.predictions[wrong] == label],
        "correct": correct[np.argsort(answers.confidences[correct], kind="stable")],
    }
    shown = {name: {"total": len(rows), "images": _tiles(one, rows[:N_SHOWN].tolist())} for name, rows in lists.items()}
    return {**shown, "mean": None if mean is None else map_values(mean)}
