"""Asks everything that reads results, commands and pages, and tells what ended in a raw exception."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import typer
from werkzeug.exceptions import InternalServerError
from werkzeug.test import Client

from attnsearch.cli.app import app
from attnsearch.errors import AttnSearchError
from attnsearch.explorer.server import build_app
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint, read_model_checkpoint, write_model_checkpoint
from attnsearch.report.page import build_report
from attnsearch.results.reader import find_experiments
from attnsearch.search.trials import read_study
from attnsearch.store.file_records import describe_file
from attnsearch.store.image_scores import read_scores
from attnsearch.store.inspection import inspect_database
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import open_trial_records, opened_trial_store
from attnsearch.store.urls import default_url
from attnsearch.tasks.base import restore_model
from attnsearch.tasks.classification import LinearHeads
from tests.explorer.built import CLASSES, Built, build, loaded, write_trial_scores

RAW = (InternalServerError.description or "", "Internal Server Error", "internal server error", "Traceback")
"""What a page says that nobody wrote for its reader."""
COMMANDS = (
    *("list", "list --json", "show here/hunt", "show here/hunt --json", "prune-files here/hunt"),
    "compare here/hunt:0 here/hunt:1",
)
PAGES = (
    *("study/here/hunt", "study/here/alone", "compare/here", "trial/here/hunt/0", "trial/here/hunt/1"),
    *("trial/here/hunt/2", "trial/here/hunt/8", "trial/here/alone/0", "image/here/hunt/0/0", "image/here/hunt/1/2"),
    *("image/here/alone/0/0", "picture/here/hunt/0/val/0?px=256", "picture/here/hunt/0/val/1?px=512"),
    "picture/here/hunt/1/val/2?px=0",
)
API = (
    *(
        "study/here/hunt",
        "study/here/alone",
        "selection/here/hunt",
        "selection/here/alone",
        "epochs/here/hunt?trials=0,1,2",
        "epochs/here/alone?trials=0",
    ),
    *("grid/here/hunt/0", "grid/here/hunt/1?order=true&split=test", "grid/here/hunt/2?order=predicted&map=weighted0"),
    *("grid/here/hunt/0?verdict=misplaced&order=relevance_gain&down=1", "grid/here/alone/0", "image/here/hunt/0/0"),
    *("image/here/hunt/1/1?split=test", "image/here/hunt/2/5", "compare/here?t=hunt:0&t=hunt:1&t=hunt:2&t=alone:0"),
)
DASHBOARD = ("dashboard", "api/meta", "api/studies", "api/studies/1", "api/studies/1/param_importances", "csv/1")
ADDRESSES = (
    "/attention/",
    *(f"/attention/{page}" for page in PAGES),
    *(f"/attention/api/{page}" for page in API),
    *(f"/{page}" for page in DASHBOARD),
)


@dataclass(frozen=True)
class Asked:
    """How many readers were asked, and which of them ended in something that nobody wrote for a person."""

    n_readers: int
    faults: list[str]


def build_whole(folder: Path) -> Built:
    """A study of nine trials with every file that a search writes, its published set, and a plain run beside it."""
    built = build(folder, n_trials=9)
    layout = built.layout
    ids = sorted(path.relative_to(built.data_root).as_posix() for path in built.data_root.glob("val/*/*.jpg"))
    for number in range(3):
        gains = [0.1 * number + 0.05 * row for row in range(len(ids))]
        write_trial_scores(layout, number, ids, {"relevance_gain": gains, "pointing_hit": [1.0] * len(ids)})
    experiment = loaded(built.data_root, "squash").experiment
    model = build_model(experiment.model, LinearHeads(len(CLASSES)), load_weights=False)
    for number in range(2):
        kept = layout.trial(number).best
        write_model_checkpoint(
            ModelCheckpoint(
                kept,
                config=experiment,
                class_names=CLASSES,
                epoch=3,
                accumulation=1,
                val_hash="v",
                state=model.state_dict(),
            )
        )
    _publish(layout, number=1)
    _fill_tables(layout, number=1)
    shutil.copytree(layout.trial(1).directory, layout.experiment_dir / "alone" / "trials" / "00000")
    return built


def _publish(layout: StudyLayout, *, number: int) -> None:
    target, source = layout.published(3), layout.trial(number).archive("val")
    paths = target.archive("test")
    for name, array in source.arrays.items():
        shutil.copy(array, paths.arrays[name])
    shutil.copy(source.images, paths.images)
    about = json.loads(source.about.read_text(encoding="utf-8"))
    paths.about.write_text(json.dumps({**about, "split": "test"}), encoding="utf-8")
    target.model_csv("test").write_text("accuracy,loss\n0.5,1.25\n")
    layout.test_evaluations.write_text(f"time,trial,epoch,split\n2026-01-01T00:00:00Z,{number},3,test\n")
    sets = [{"trial": number, "epoch": 3, "folder": "."}]
    layout.published_json.write_text(json.dumps({"format": 1, "study": "hunt", "sets": sets, "files": []}))


def _fill_tables(layout: StudyLayout, *, number: int) -> None:
    """A row in each of our own tables that `build` leaves empty."""
    url, trial = default_url(layout), layout.trial(number)
    uuid = read_study(url, layout.study).uuid
    files = {"maps": describe_file(trial.archive("val").maps, layout.experiment_dir)}
    with opened_trial_store(url, uuid, layout) as store:
        store.write_artifacts(number, files, attempt=None)
        store.write_scores(number, read_scores(trial.scores("val")), attempt=None)


def ask_every_reader(layout: StudyLayout, scratch: Path) -> Asked:
    """Runs every command and opens every page that reads the results."""
    readers = [*_readers(layout, scratch), ("report", lambda: build_report(layout.root))]
    found = [fault for name, read in readers for fault in _tried(name, read)]
    return Asked(len(readers) + len(ADDRESSES), [*found, *page_faults(layout.root)])


def _readers(layout: StudyLayout, scratch: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    url, uuid = default_url(layout), "another"
    yield "inspect", lambda: inspect_database(url, must_exist=True)
    for words in COMMANDS:
        yield words, lambda words=words: _run(*words.split(), "--results", str(layout.root))  # type: ignore[misc]
    target = scratch / "copy.zip"
    target.unlink(missing_ok=True)
    yield "export", lambda: _run("export", "here", "--results", str(layout.root), "--to", str(target))
    for number in range(2):
        yield f"kept {number}", lambda number=number: restore_model(read_model_checkpoint(layout.trial(number).best))  # type: ignore[misc]
    yield "artifacts", lambda: open_trial_records(url, uuid).read_artifacts()
    yield "score rows", lambda: open_trial_records(url, uuid).read_scores()


def _run(*words: str) -> None:
    app(list(words), prog_name="attnsearch", standalone_mode=False)


def _tried(name: str, read: Callable[[], object]) -> Iterator[str]:
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            read()
    except (AttnSearchError, typer.Exit):
        return
    except Exception as error:
        yield f"{name}: {_described(error)}"


def page_faults(root: Path, addresses: Sequence[str] = ADDRESSES) -> list[str]:
    """The pages that fail without saying why, the dashboard's and the explorer's."""
    try:
        client = Client(build_app(find_experiments(root))[0])
    except AttnSearchError:  # the command ends with this line
        return []
    except Exception as error:
        return [f"dashboard: {_described(error)}"]
    return [fault for address in addresses for fault in _opened(client, address)]


def _opened(client: Client, address: str) -> Iterator[str]:
    try:
        with client.get(address, headers={"Host": "localhost"}) as answer:
            text = answer.text if answer.status_code >= 500 else "-"
    except Exception as error:
        yield f"{address}: {_described(error)}"
        return
    if not text or any(words in text for words in RAW):
        yield f"{address}: {answer.status_code} {text[:100]!r}"


def _described(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/attnsearch/" in frame.filename]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))
    return f"{type(error).__name__}: {str(error)[:200]} at {places}"
