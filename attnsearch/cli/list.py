"""`attnsearch list`: what can be run, and the studies in the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage
from attnsearch.results.uncertainty import with_error

if TYPE_CHECKING:
    from attnsearch.config.yaml_reader import Kind
    from attnsearch.results.progress import StudySummary

KINDS: dict[Kind, str] = {"studies": "study", "configs": "config", "configs/profiles": "profile"}


def list_all(results: Results = RESULTS, storage: Storage = None, as_json: AsJson = False) -> None:
    """List the studies and configs that can be run, and the studies in the results."""
    from attnsearch.results.reader import studies_in  # imports Optuna

    files, studies = known_files(), [study.summary() for study in studies_in(results, storage=storage)]
    if as_json:
        for row in (*files, *map(_json_row, studies)):
            print_json(row)
        return
    print_table(("name", "kind", "file"), [(row["name"], row["kind"], row["file"]) for row in files], title="to run")
    readable = [_cells(study) for study in studies if study.error is None]
    print_table(("study", "state", "trials", "paused", "failed", "best"), readable, title=f"in {results}")
    for study in studies:
        if study.error is not None:
            print_line(f"{study.experiment}/{study.study}: {_one_line(study.error)}")


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
        return {**place, "trials": None, "paused": None, "failed": None, "best": None, "error": _one_line(study.error)}
    best = next(iter(study.values), None)
    return {
        **place,
        "trials": _done(study),
        "paused": _count(study, "paused"),
        "failed": _count(study, "fail"),
        "best": best,
        "errors": study.errors,
        "error": None,
    }


def _cells(study: StudySummary) -> tuple[str, ...]:
    first = next(zip(study.objectives, study.values, strict=False), None)
    best = number(None) if first is None else with_error(first[1], study.errors.get(first[0]))
    return (
        f"{study.experiment}/{study.study}",
        study.state,
        _done(study),
        *(_count(study, state) for state in ("paused", "fail")),
        best,
    )


def _done(study: StudySummary) -> str:
    return f"{study.n_done}/{study.n_trials}"


def _count(study: StudySummary, state: str) -> str:
    return str(study.states.get(state, 0))


def _one_line(error: str) -> str:
    return "; ".join(line.strip() for line in error.splitlines())
