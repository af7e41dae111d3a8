"""How quickly the pages of failures and classes answer for a trial with many images.

    PYTHONPATH=. python tests/benchmarks/failures.py [--n-images 10000] [--n-classes 200] [--grid 12]

Writes three trials with random predictions, scores and maps, and asks a real server over its socket: each page at
first, when archive and scores are read, and again. Prints wall seconds, the processor seconds of server and asker
beside them, and the size of the answer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np

from attnsearch.store.archive import ArchiveWriter, read_archive
from tests.explorer.built import Built, build, serving, write_trial_scores

PAGES = {
    "failures": "failures/here/hunt/0",
    "one list": "failures/here/hunt/0?kind=disagree&page=9",
    "one pair": "failures/here/hunt/0?kind=pair&first=3&second=8",
    "classes": "classes/here/hunt/0",
    "one class": "classes/here/hunt/0?class=class_7",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-images", type=int, default=10_000)
    parser.add_argument("--n-classes", type=int, default=200)
    parser.add_argument("--grid", type=int, default=12, help="rows and columns of the maps")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        built = build(Path(folder))
        for number in range(3):
            enlarge(built, number, arguments.n_images, arguments.n_classes, arguments.grid)
        print(f"{arguments.n_images} images of {arguments.n_classes} classes, maps {arguments.grid} x {arguments.grid}")
        with serving(built) as served:
            for name, path in PAGES.items():
                measure(name, f"{served.url}api/{path}")


def enlarge(built: Built, number: int, n_images: int, n_classes: int, grid: int) -> None:
    """Puts a large archive with scores in the place of the small one of a trial."""
    paths = built.layout.trial(number).archive("val")
    small = read_archive(paths)
    labels = np.arange(n_images) % n_classes
    rng = np.random.default_rng(number)
    is_wrong = rng.random(n_images) < 0.3
    rows = np.zeros(n_images, dtype=np.int64)
    large = replace(
        small,
        image_ids=tuple(f"val/{row}.jpg" for row in range(n_images)),
        labels=labels,
        predictions=np.where(is_wrong, rng.integers(0, n_classes, n_images), labels),
        confidences=rng.random(n_images, dtype=np.float32),
        sizes_hw=small.sizes_hw[rows],
        crop_boxes=small.crop_boxes[rows],
        class_names=tuple(f"class_{label}" for label in range(n_classes)),
        maps=rng.random((n_images, 2, grid, grid), dtype=np.float32),
        norms=np.ones((n_images, 1, grid, grid), dtype=np.float32),
        saliency=rng.random((n_images, grid, grid), dtype=np.float32),
    )
    with ArchiveWriter(paths, n_images) as writer:
        writer.append(large)
        writer.finish()
    drawn = {
        name: rng.random(n_images).tolist() for name in ("relevance_gain.area", "energy_in_mask", "gini", "deletion")
    }
    ends = {"relevance_gain.untouched": [0.9] * n_images, "relevance_gain.filled": [0.2] * n_images}
    hits = {"pointing_hit": (rng.random(n_images) < 0.8).astype(float).tolist()}
    write_trial_scores(built.layout, number, large.image_ids, {**drawn, **ends, **hits})


def measure(name: str, url: str) -> None:
    for when in ("first", "again"):
        wall, processor = time.perf_counter(), time.process_time()
        with urllib.request.urlopen(url) as answer:
            content = answer.read()
        spent = f"{time.perf_counter() - wall:.2f} s wall, {time.process_time() - processor:.2f} s processor"
        print(f"{name:10} {when}: {spent}, {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
