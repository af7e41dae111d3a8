"""How quickly the browser part answers on a large study, or on large ranked galleries, made in bulk.

    PYTHONPATH=. python tests/benchmarks/explorer.py [--n-trials 5000] [--n-epochs 50] [--folder FOLDER]
    PYTHONPATH=. python tests/benchmarks/explorer.py --n-queries 5000 [--n-gallery 20000] [--folder FOLDER]

Asks a real server over its socket: the first page of the study in a fresh server and again, the page and the images
of one grid (48 images), learning curves, and what optuna-dashboard polls; with `--n-queries`, the pages of
re-identification, of two trials with random features of 256 numbers. Prints wall seconds, and beside
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

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.load import resolved_study
from attnsearch.data.tables import ImageTable
from attnsearch.explorer.image_query import PAGE
from attnsearch.store.layout import StudyLayout
from attnsearch.tasks.retrieval import rank_split
from tests.explorer.built import Built, build, fill_database, serving
from tests.explorer.built_reid import draw_one, epoch_records, loaded_reid, trial_values, write_rankings

STUDY, GALLERIES = "here/hunt", "here/seek"
MISSED = "?camera_of=missed&gallery_camera=1"
Ask = Callable[[str], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-trials", type=int, default=5000)
    parser.add_argument("--n-epochs", type=int, default=50)
    parser.add_argument("--n-queries", type=int, default=0, help="measures ranked galleries instead")
    parser.add_argument("--n-gallery", type=int, default=20_000)
    parser.add_argument("--folder", type=Path, help="where the study is made, or was made before")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        if arguments.n_queries:
            with serving(make_galleries(folder, arguments.n_queries, arguments.n_gallery)) as served:
                measure_galleries(asker(served.url.split("/attention")[0]))
            return
        built = make(folder, arguments.n_trials, arguments.n_epochs)
        megabytes = built.layout.database.stat().st_size / 1e6
        print(f"{arguments.n_trials} trials of {arguments.n_epochs} epochs, database of {megabytes:.0f} MB")
        with serving(built) as served:
            measure(asker(served.url.split("/attention")[0]), arguments.n_trials)


def make(folder: Path, n_trials: int, n_epochs: int) -> Built:
    """The study, with maps of 60 images for its first 20 trials."""
    if (folder / "results").is_dir():
        return Built(folder / "results", folder / "pictures", StudyLayout(folder / "results", "here", "hunt"))
    start = time.perf_counter()
    built = build(folder, n_trials=n_trials, n_epochs=n_epochs, n_with_maps=20, n_per_class=30)
    print(f"made in {time.perf_counter() - start:.0f} s")
    return built


def make_galleries(folder: Path, n_queries: int, n_gallery: int) -> Built:
    """A study of two trials with random features of all images; every image has a small copy."""
    built = Built(folder / "results", folder / "pictures", StudyLayout(folder / "results", "here", "seek"))
    if built.root.is_dir():
        return built
    start = time.perf_counter()
    table, layout = gallery_table(n_queries, n_gallery), built.layout
    settings = loaded_reid(built.data_root, n_trials=2)
    layout.study_dir.mkdir(parents=True)
    layout.study_yaml.write_text(resolved_study(settings), encoding="utf-8")
    found = [rank_split(table, random_features(len(table), number), distance="euclidean") for number in range(2)]
    fill_database(layout, settings, 2, 3, values_of=lambda number: trial_values(found[number][1]),
                  records_of=lambda number, n_epochs: epoch_records(found[number][1], n_epochs))  # fmt: skip
    saliency = np.random.default_rng(0).random((len(table), 16, 8), dtype=np.float32)
    for number, (retrieval, _) in enumerate(found):
        rows = range(len(table))
        write_rankings(layout.trial(number).archive("val"), retrieval, rows=rows, saliency=saliency)
    draw_one(folder / "one.jpg", "crimson", "wheat")
    copy = (folder / "one.jpg").read_bytes()
    for path in map(layout.thumbnail, table.image_ids):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(copy)
    print(f"made in {time.perf_counter() - start:.0f} s")
    return built


def gallery_table(n_queries: int, n_gallery: int) -> ImageTable:
    """Images of 1,000 identities and of distractors, from six cameras in turn."""
    n_images = n_queries + n_gallery
    names = ("0000", *(f"{number:04d}" for number in range(1, 1001)))
    labels = np.random.default_rng(1).integers(1, len(names), n_images)
    labels[-n_gallery // 7 :] = 0
    ids = tuple(f"val/{names[label]}/{row:05d}.jpg" for row, label in enumerate(labels.tolist()))
    return ImageTable("val", names, ids, tuple(map(Path, ids)), labels, camera_names=tuple("123456"),
                      cameras=np.arange(n_images) % 6, is_query=np.arange(n_images) < n_queries,
                      match_rule="camera")  # fmt: skip


def random_features(n_images: int, seed: int) -> NDArray[np.float32]:
    """(N, 256), of length 1."""
    features = np.random.default_rng((seed, 256)).normal(size=(n_images, 256)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def asker(base: str) -> Ask:
    def ask(path: str) -> bytes:
        with urllib.request.urlopen(base + path) as answer:
            body: bytes = answer.read()
            return body

    return ask


def measure_galleries(ask: Ask) -> None:
    def api(name: str, words: str = "", number: int = 0) -> Any:
        return json.loads(ask(f"/attention/api/{name}/{GALLERIES}/{number}{words}"))

    def page(name: str, api_name: str, words: str = "") -> None:
        """A page, and what its script asks for."""
        ask(f"/attention/{name}/{GALLERIES}/0{words}")
        api(api_name, words)

    def thumbnails() -> None:
        for query in api("queries")["queries"][:12]:
            for image in (query, query["hit"]):
                ask(f"/attention/split-image/{GALLERIES}/0/val/{image['row']}?px=256")

    before = resident_mb()
    show("first page of queries, fresh server", lambda: page("retrieval", "queries"), 1)
    print(f"  memory that it took: {resident_mb() - before:.0f} MB")
    show("the same again", lambda: page("retrieval", "queries"))
    show("thumbnails of the 12 queries in view", thumbnails, 1)
    show("ranked gallery of one query, 10 nearest", lambda: page("query", "query", "/7"), 1)
    show("the same again", lambda: page("query", "query", "/7"))
    show("50 nearest with their maps", lambda: api("query", "/8?top=50&map=saliency"))
    show("pair beyond the stored ranks", lambda: page("pair", "pair", "/7/20000"))
    show("queries of the ten hardest identities", lambda: api("queries", "?hard=10"))
    show("queries whose missed match is of camera 2, first time", lambda: api("queries", MISSED), 1)
    show("the same again", lambda: api("queries", MISSED))
    name = f"?image={api('queries')['queries'][0]['id']}"
    show("a query in another trial, first time", lambda: api("query", name, 1), 1)
    show("the same again", lambda: api("query", name, 1))
    show("grid of 48 images", lambda: page("trial", "grid"))
    show("study", lambda: ask(f"/attention/study/{GALLERIES}"))


def resident_mb() -> float:
    """Memory of this process, files that are mapped apart."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000


def measure(ask: Ask, n_trials: int) -> None:
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
