"""The command that searches."""

from __future__ import annotations

import resource
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attnsearch.cli._console import StopRequest, print_json, print_line, program, say, shown_path, signals_to
from attnsearch.cli._ending import outcome_values, summary_lines
from attnsearch.cli._forecast import say_cost
from attnsearch.cli._options import (
    PORT,
    RESULTS,
    AsJson,
    Overrides,
    Plugins,
    Profile,
    Results,
    Storage,
    StudyToSearch,
    Workers,
    setting_options,
)
from attnsearch.errors import DONE, INTERRUPTED, ConfigError

if TYPE_CHECKING:
    from attnsearch.config.load import LoadedStudy


DEMO = "first_search"
"""The study that `attnsearch demo`, and `bash shell/train.sh --demo`, searches under the profile `demo`."""


@setting_options("n_trials", "device", "seed")
def demo(
    overrides: Overrides = None, workers: Workers = None, results: Results = RESULTS, as_json: AsJson = False
) -> int:
    """Search a study of synthetic birds in some minutes, without a GPU: all that a search writes."""
    from attnsearch.config.load import load_study

    loaded = load_study(DEMO, profile="demo", overrides=overrides or ())
    code = _run(loaded, as_json=as_json, root=results, n_workers=workers)
    if code == DONE and not as_json:
        _show_demo(loaded, results)
    return code


def _show_demo(loaded: LoadedStudy, results: Path) -> None:
    """Draws what the best trial has learned, and says where to look on."""
    from attnsearch.results.overview import write_overview
    from attnsearch.results.reader import load_study as read_study

    study = read_study(results / loaded.experiment.experiment / loaded.study.name)
    image = study.layout.shared.overview
    write_overview(study.best, image)
    print_line(f"  image      {shown_path(image)}")
    print_line(f"  explorer   http://127.0.0.1:{PORT}/attention/study/{study.layout.experiment}/{study.layout.study}")
    print_line(f"             while this runs: {program()} dashboard {shlex.quote(str(results))}")


@setting_options("n_trials", "device", "seed")
def search(
    study: StudyToSearch,
    overrides: Overrides = None,
    profile: Profile = None,
    workers: Workers = None,
    results: Results = RESULTS,
    storage: Storage = None,
    plugins: Plugins = None,
    create_only: Annotated[
        bool, typer.Option("--create-only", help="Check and create the study; `attnsearch worker` runs its trials.")
    ] = False,
    join: Annotated[
        bool, typer.Option("--join", help="Take part in a search that another machine has begun in this folder.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the study will cost, by short trials, and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Search the hyperparameters of a study; started again, it continues where it stopped."""
    from attnsearch.config.load import load_study, with_storage

    if create_only + join + dry_run > 1:
        raise ConfigError("--create-only, --join and --dry-run exclude each other; give one of them")
    loaded = load_study(study, profile=profile, overrides=overrides or (), plugins=plugins or ())
    loaded = with_storage(loaded, storage, overrides or ())
    if dry_run:
        return say_cost(loaded, results, n_workers=workers, as_json=as_json)
    if create_only:
        return _create(loaded, results, as_json=as_json)
    return _run(loaded, as_json=as_json, root=results, n_workers=workers, join=join)


def _run(loaded: LoadedStudy, *, as_json: bool, **settings: Any) -> int:
    """Searches with the settings of `run_and_confirm`, and says how it ended."""
    say(f"checking {loaded.study.name}, data {loaded.experiment.data.name}")
    from attnsearch.cli._progress import watching
    from attnsearch.results.reader import load_study as read_study
    from attnsearch.search.confirm import run_and_confirm  # imports torch

    started = time.monotonic()
    stop = StopRequest("stopping: running trials return to the queue; once more ends at once")
    with signals_to(stop.take), watching() as watcher:
        ended = run_and_confirm(loaded, is_fresh=True, should_stop=stop.is_asked, tick=watcher, **settings)
        watcher.refresh()
    reader = read_study(ended.plan.layout.study_dir, storage=loaded.study.storage)
    times = {"seconds": time.monotonic() - started, "processor_seconds": processor_seconds()}
    if as_json:
        print_json(outcome_values(reader, ended, times))
    else:
        print_line("\n".join(summary_lines(reader, ended, times)))
        if ended.outcome == "interrupted" and reader.rows.best and ended.published is None:
            print_line("  published  not published yet")
    return INTERRUPTED if ended.outcome == "interrupted" else DONE


def _create(loaded: LoadedStudy, results: Path, *, as_json: bool) -> int:
    """Begins a study without running a trial, and says how its workers are started."""
    from attnsearch.search.run import create_study_only  # imports torch
    from attnsearch.store.urls import default_url, redact

    plan = create_study_only(loaded, root=results)
    layout, url = plan.layout, redact(plan.url)
    option = "" if plan.url == default_url(layout) else f" --storage {shlex.quote(url)}"
    command = f"attnsearch worker {shlex.quote(str(layout.study_dir))}{option}"
    if as_json:
        print_json({"study": layout.study, "folder": layout.study_dir, "storage": url, "worker": command})
    else:
        print_line(f"study {layout.study} is ready for workers on any machine that sees this folder:\n  {command}")
    return DONE


def processor_seconds() -> float:
    """Processor time of this process and of its workers that have ended, user and system."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)
