"""`attnsearch list`: what can be run, and the studies in the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage
from attnsearch.errors import AttnSearchError

if TYPE_CHECKING:
    from attnsearch.config.yaml_reader import Kind
    from attnsearch.results.progress import StudySummary
    from attnsearch.results.quality import Quality
    from attnsearch.results.study import StudyReader

KINDS: dict[Kind, str] = {"studies": "study", "configs": "config", "configs/profiles": "profile"}
PLURALS = {"study": "studies", "config": "configs", "profile": "profiles"}
OTHERS = {"paused": "paused", "fail": "failed"}
COLUMNS = ("study", "trials", "model", "data", "best", "gain (floor)")


def list_all(results: Results = RESULTS, storage: Storage = None, as_json: AsJson = False) -> None:
    """List the studies and configs that can be run, and the studies in the results."""
    from attnsearch.results.reader import studies_in  # imports Optuna

    files, studies = known_files(), [(study, study.summary()) for study in studies_in(results, storage=storage)]
    if as_json:
        for row in (*files, *(_json_row(summary) for _, summary in studies)):
            print_json(row)
        return
    print_names(files)
    rows = [_cells(study, summary) for study, summary in studies if summary.error is None]
    if rows:
        print_table(COLUMNS, rows, title=f"\nin {results}")
    for _, summary in studies:
        if summary.error is not None:
            print_line(f"{summary.experiment}/{summary.study}: {_one_line(summary.error)}")


def print_names(files: Sequence[Mapping[str, str]]) -> None:
    """What can be run, a paragraph for each kind; where the files lie is in the JSON."""
    for kind, plural in PLURALS.items():
        names = ", ".join(row["name"] for row in files if row["kind"] == kind)
        print_line(fill(f"{plural}: {names}", width=80, subsequent_indent="  ", break_on_hyphens=False))


def known_files() -> list[dict[str, str]]:
    """All studies, configs and profiles that have a bare name."""
    from attnsearch.config.yaml_reader import find_file, list_names

    return [
        {"name": name, "kind": word, "file": str(find_file(name, (kind,)))}
        for kind, word in KINDS.items()
        for name in list_names(kind)
    ]


def _json_row(study: StudySummary) -> dict[str, Any]:
    place = {"experiment": study.experiment, "study": study.study, "state": study.state}
    if study.error is not None:
        unknown = dict.fromkeys(("trials", "paused", "failed", "best"))
        return {**place, **unknown, "quality": [], "error": _one_line(study.error)}
    return {
        **place,
        "trials": _done(study),
        "paused": _count(study, "paused"),
        "failed": _count(study, "fail"),
        "best": next(iter(study.values), None),
        "errors": study.errors,
        "quality": [one.fields for one in study.quality],
        "error": None,
    }


def _cells(study: StudyReader, summary: StudySummary) -> tuple[str, ...]:
    answer, gain = summary.answer, summary.faithfulness
    return (
        study.name,
        _trials(summary),
        *_parts(study),
        number(None) if answer is None else f"{answer.metric} {answer.value:.3f}",
        _with_floor(gain),
    )


def _with_floor(gain: Quality | None) -> str:
    if gain is None:
        return "not scored"
    return f"{gain.value:.3f}" + (f" ({gain.floor:.2g})" if gain.floors else "")


def _trials(summary: StudySummary) -> str:
    """How many are done, and what became of the others."""
    others = [f"{n} {shown}" for state, shown in OTHERS.items() if (n := summary.states.get(state, 0))]
    state = [] if summary.state == "finished" else [summary.state]
    return ", ".join([" ".join([_done(summary), *state]), *others])


def _parts(study: StudyReader) -> tuple[str, str]:
    """Model and data set; dashes where a plugin that names them is missing."""
    try:
        experiment = study.experiment
    except AttnSearchError:
        return "-", "-"
    return experiment.model.name, experiment.data.name


def _done(study: StudySummary) -> str:
    return f"{study.n_done}/{study.n_trials}"


def _count(study: StudySummary, state: str) -> str:
    return str(study.states.get(state, 0))


def _one_line(error: str) -> str:
    return "; ".join(line.strip() for line in error.splitlines())
