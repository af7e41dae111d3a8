"""Seconds that data sets of the size of Market-1501 and MSMT17 take to be indexed, as made-up trees of tiny files.

python tests/benchmarks/reid.py [--data market1501|msmt17] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path

from PIL import Image

from attnsearch.config.data import Market1501Data, Msmt17Data, ReidData
from attnsearch.data.fixed_rows import fixed_queries, fixed_subset
from attnsearch.data.tables import build_tables

N_KEPT = 1000
"""Images of a split whose maps are kept, in the timing of their choice."""


def image_bytes() -> bytes:
    """A JPEG of 4 x 2 pixels; what is appended to it makes files differ and is not decoded."""
    file = io.BytesIO()
    Image.new("RGB", (2, 4), "grey").save(file, format="JPEG")
    return file.getvalue()


def write_all(folder: Path, names: Iterator[str]) -> None:
    pixels = image_bytes()
    made: set[Path] = set()
    for name in names:
        path = folder / name
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        path.write_bytes(pixels + name.encode())


def market_names(identities: list[str], n_images: int, *, first_frame: int = 1) -> Iterator[str]:
    """Names in which identities take turns, each time from its next camera."""
    turns = ((who, (turn + index) % 6 + 1) for turn in count() for index, who in enumerate(identities))
    for frame, (who, camera) in enumerate(islice(turns, n_images), start=first_frame):
        yield f"{who}_c{camera}s1_{frame:06d}_{frame % 100:02d}.jpg"


def write_market1501(root: Path) -> ReidData:
    """12,936 training images of 751 identities, 3,368 queries and 19,732 gallery files with distractors and junk."""
    train, test = ([f"{who:04d}" for who in range(start, 1503, 2)] for start in (2, 1))
    write_all(root / "bounding_box_train", market_names(train, 12936))
    write_all(root / "query", market_names(test[:750], 3368))
    write_all(root / "bounding_box_test", market_names(test[:750], 15913 - 2798, first_frame=20000))
    write_all(root / "bounding_box_test", market_names(["0000"], 2798, first_frame=40000))
    write_all(root / "bounding_box_test", market_names(["-1"], 3819, first_frame=50000))
    return Market1501Data(root=str(root))


def write_msmt17(root: Path) -> ReidData:
    """32,621 training images of 1,041 persons, 11,659 queries and 82,161 gallery images of 3,060 others."""
    parts = {"train": ("train", 1041, 30248), "val": ("train", 1041, 2373)}
    parts |= {"query": ("test", 3060, 11659), "gallery": ("test", 3060, 82161)}
    for part, (folder, n_persons, n_images) in parts.items():
        turns = ((who, (turn + who) % 15 + 1) for turn in count() for who in range(n_persons))
        lines = [
            (f"{who:04d}/{who:04d}_{index:06d}_{camera:02d}_0303{part}_0008_0.jpg", who)
            for index, (who, camera) in enumerate(islice(turns, n_images))
        ]
        write_all(root / folder, (name for name, _ in lines))
        (root / f"list_{part}.txt").write_text("".join(f"{name} {who}\n" for name, who in lines))
    return Msmt17Data(root=str(root))


WRITERS: dict[str, Callable[[Path], ReidData]] = {"market1501": write_market1501, "msmt17": write_msmt17}


@contextmanager
def timed(what: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{what:40} {time.perf_counter() - start:6.2f} s", flush=True)


def index(root: Path, data: str) -> None:
    """Makes the tree and prints how long it takes to be indexed."""
    with timed("write the files"):
        cfg = WRITERS[data](root)
    with timed("build_tables"):
        tables = build_tables(cfg)
    for table in tables.present():
        print(f"  {table.split}: {len(table)} images, {len(table.class_names)} identities")
    test = tables.of("test")
    with timed("fixed_queries"):
        print(f"  {len(fixed_queries(test, None))} queries have a match")
    with timed(f"fixed_subset of {N_KEPT}"):
        fixed_subset(test, N_KEPT)
    with timed("fixed_subset of all but one"):
        fixed_subset(test, len(test) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=WRITERS, default="market1501")
    parser.add_argument("--folder", help="where the tree is made; a temporary folder, removed at the end, by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        index(Path(folder), options.data)


if __name__ == "__main__":
    main()
