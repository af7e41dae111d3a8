"""Verbs that look at studies and results, check them, copy them or thin them out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, size
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage

Study = Annotated[str, typer.Argument(help="A study in the results: NAME, EXPERIMENT/NAME or its folder.")]


def list_all(results: Results = RESULTS, storage: Storage = None, as_json: AsJson = False) -> None:
    """List the studies and configs that can be run, and the studies in the results."""
    from attnsearch.cli.listing import known_files, known_studies

    files, studies = known_files(), known_studies(results, storage)
    if as_json:
        for row in (*files, *studies):
            print_json(row)
        return
    print_table(("name", "kind", "file"), [(row["name"], row["kind"], row["file"]) for row in files], title="to run")
    columns = ("study", "state", "trials", "failed", "best")
    rows = [
        (f"{row['experiment']}/{row['study']}", row["state"], row["trials"], row["failed"], number(row["best"]))
        for row in studies
        if row["error"] is None
    ]
    print_table(columns, rows, title=f"in {results}")
    for row in studies:
        if row["error"] is not None:
            print_line(f"{row['experiment']}/{row['study']}: {row['error']}")


def show(study: Study, results: Results = RESULTS, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show every trial of a study: state, objectives, best epoch, settings, time."""
    from attnsearch.cli.found import find_study
    from attnsearch.cli.listing import print_front, print_reliability, print_trials, trial_values
    from attnsearch.search.pareto import importances
    from attnsearch.search.trials import open_to_read, reader_url, rows_of
    from attnsearch.store.damage import database_content_errors

    layout = find_study(study, results)
    url = reader_url(layout, storage)
    opened = open_to_read(url, layout.study)
    rows = rows_of(opened, url)
    if not as_json:
        print_trials(rows)
        if len(rows.objectives) > 1:
            with database_content_errors(url):
                shares = importances(opened)
            print_front(rows, shares)
        print_reliability(layout, rows)
        return
    for trial in rows.trials:
        print_json(trial_values(trial, rows))


def export(
    experiment: Annotated[str, typer.Argument(help="An experiment in the results, or its folder.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="FILE", help="A new .tar.gz, .tgz or .zip file.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="With what unfinished trials need to go on.")] = False,
    results: Results = RESULTS,
) -> None:
    """Copy an experiment, running or not, into one archive file."""
    from attnsearch.cli.found import find_experiment
    from attnsearch.store.export import export_experiment

    layout = find_experiment(experiment, results)
    done = export_experiment(layout.directory, to or Path(f"{layout.experiment}.tar.gz"), with_resume=resume)
    print_line(f"{done.target}: {done.n_files} files and the database, {size(done.target.stat().st_size)}")


def prune_files(
    study: Study,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    results: Results = RESULTS,
    storage: Storage = None,
) -> None:
    """Delete weights and maps that the study's retention does not keep; shows them first."""
    from attnsearch.cli.found import find_study, open_study
    from attnsearch.search.publish import removable
    from attnsearch.store.retention import remove

    plan = removable(open_study(find_study(study, results), storage))
    rows = [(str(file.number), file.path.name, size(file.bytes)) for file in plan]
    print_table(("trial", "file", "size"), rows, title=f"{size(sum(file.bytes for file in plan))} can be freed")
    if not plan or not (yes or (sys.stdin.isatty() and typer.confirm("Delete these files?"))):
        print_line("nothing was deleted" if yes or not plan else "nothing was deleted; --yes deletes without asking")
        return
    print_line(f"{size(remove(plan))} freed")
