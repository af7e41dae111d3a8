"""How quickly the browser part answers on a large study, made in bulk.

    PYTHONPATH=. python tests/benchmarks/explorer.py [--n-trials 5000] [--n-epochs 50] [--folder FOLDER]

Asks a real server over its socket: the first page of the study in a fresh server and again, the page and the images
of one grid (48 images), learning curves, and what optuna-dashboard polls. Prints wall seconds, and beside
them the processor seconds of server and asker, for a machine that is not idle. A folder that was made before is used
again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attnsearch.explorer.image_query import PAGE
from attnsearch.store.layout import StudyLayout
from tests.explorer.built import Built, build, serving

STUDY = "here/hunt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-trials", type=int, default=5000)
    parser.add_argument("--n-epochs", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the study is made, or was made before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        built = make(arguments.folder or Path(temporary), arguments.n_trials, arguments.n_epochs)
        megabytes = built.layout.database.stat().st_size / 1e6
        print(f"{arguments.n_trials} trials of {arguments.n_epochs} epochs, database of {megabytes:.0f} MB")
        with serving(built) as served:
            measure(served.url.split("/attention")[0], arguments.n_trials)


def make(folder: Path, n_trials: int, n_epochs: int) -> Built:
    """The study, with maps of 60 images for its first 20 trials."""
    if (folder / "results").is_dir():
        return Built(folder / "results", folder / "pictures", StudyLayout(folder / "results", "here", "hunt"))
    start = time.perf_counter()
    built = build(folder, n_trials=n_trials, n_epochs=n_epochs, n_with_maps=20, n_per_class=30)
    print(f"made in {time.perf_counter() - start:.0f} s")
    return built


def measure(base: str, n_trials: int) -> None:
    def ask(path: str) -> bytes:
        with urllib.request.urlopen(base + path) as answer:
            body: bytes = answer.read()
            return body

    def grid(number: int) -> None:
        page = json.loads(ask(f"/attention/api/grid/{STUDY}/{number}"))
        assert len(page["images"]) == PAGE
        for image in page["images"]:
            ask(f"/attention/picture/{STUDY}/{number}/val/{image['row']}?px=256")

    poll = f"/api/studies/1?after={n_trials}"
    show("first page of the study, fresh server", lambda: ask(f"/attention/study/{STUDY}"), 1)
    show("the same again", lambda: ask(f"/attention/study/{STUDY}"))
    show("fresh numbers while it runs", lambda: ask(f"/attention/api/study/{STUDY}"))
    show("learning curves of eight trials", lambda: ask(f"/attention/api/epochs/{STUDY}?trials=0,1,2,3,4,5,6,4999"))
    show("first grid of a trial with its 48 pictures", lambda: grid(0), 1)
    show("grid of another trial, same pictures", lambda: grid(1), 1)
    show("the same grid again", lambda: grid(1))
    show("list of studies", lambda: ask("/attention/"))
    show("optuna-dashboard, whole study", lambda: ask("/api/studies/1?after=0"), 1)
    show("optuna-dashboard, its poll", lambda: ask(poll))


def show(name: str, action: Callable[[], Any], n: int = 5) -> None:
    walls, processor = [], []
    for _ in range(n):
        wall, busy = time.perf_counter(), sum(os.times()[:2])
        action()
        walls.append(time.perf_counter() - wall)
        processor.append(sum(os.times()[:2]) - busy)
    print(f"  {name}: {statistics.median(walls):.3f} s ({statistics.median(processor):.2f} cpu)", flush=True)


if __name__ == "__main__":
    main()
