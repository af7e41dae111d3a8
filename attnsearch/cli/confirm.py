"""The command that repeats the best trials of a search with fresh seeds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from attnsearch.cli._console import StopRequest, print_json, print_line, signals_to
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage, StudyArgument, Workers
from attnsearch.errors import DONE, INTERRUPTED


def confirm(
    study: StudyArgument,
    top: Annotated[int | None, typer.Option("--top", metavar="K", help="Best trials to repeat; 5 by default.")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", metavar="N", help="Seeds of each; 5 by default.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Study of the repetitions, STUDY_confirm by default; another name, other seeds."),
    ] = None,
    workers: Workers = None,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> int:
    """Train the best trials of a study again with fresh seeds, and test whether the winner wins again."""
    from attnsearch.cli._progress import watching
    from attnsearch.config.load import load_stored_study
    from attnsearch.results.reader import find_study
    from attnsearch.results.selection import confirmation_lines
    from attnsearch.search.confirm import asked_or_begun, confirm_study  # imports torch
    from attnsearch.search.run import run_study

    reader = find_study(study, results, storage=storage)
    stored = load_stored_study(reader.layout.study_yaml)
    source = replace(stored, study=stored.study.model_copy(update={"storage": storage}))
    asked = asked_or_begun(source.study, reader.layout, name, top=top, seeds=seeds)
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        run = partial(run_study, root=results, n_workers=workers, should_stop=stop.is_asked, tick=watcher)
        ended = confirm_study(source, reader.layout, asked, run, name=name)
        watcher.refresh()
    found = reader.confirmation
    if found is not None and ended.outcome == "finished":
        print_json(found.model_dump()) if as_json else print_line("\n".join(confirmation_lines(found)))
    return INTERRUPTED if ended.outcome == "interrupted" else DONE
