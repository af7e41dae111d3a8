"""Times the evaluation of retrieval at the sizes of public data sets, on random features mapped from files.

    python tests/benchmarks/retrieval.py [--size market|msmt17] [--features 2048] [--top-k 50] [--rerank]
    python tests/benchmarks/retrieval.py --against FILE

Each size is evaluated in a process of its own, whose largest resident memory is told; files that are mapped count in
it. FILE is the module `rank.py` of fast-reid or torchreid, from a copy of yours: the same distances, of which no two of
a query are equal, and labels are given to it and to ours by turns, and the numbers must agree to 1e-6. Where its
compiled part can be imported, that is timed too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from attnsearch.metrics.retrieval import (
    RankingLabels,
    RankingScores,
    random_mean_average_precision,
    rank_distances,
    rank_features,
    ranking_scores,
    rerank_blocks,
)


@dataclass(frozen=True)
class Size:
    """Numbers of query images, gallery images, identities and cameras."""

    queries: int
    gallery: int
    identities: int
    cameras: int


SIZES = {"market": Size(3_368, 15_913, 751, 6), "msmt17": Size(11_659, 82_161, 3_060, 15)}
TOLERANCE = 1e-6
_CHUNK = 4096


def make_labels(size: Size) -> RankingLabels:
    rng = np.random.default_rng((1, size.queries))
    ids = (rng.integers(size.identities, size=n) for n in (size.queries, size.gallery))
    cameras = (rng.integers(size.cameras, size=n) for n in (size.queries, size.gallery))
    return RankingLabels(*ids, *cameras)


def write_features(path: Path, ids: np.ndarray, n_features: int, *, seed: int, spread: float) -> None:
    """Directions of the identities with noise around them; with an infinite spread noise alone."""
    rng = np.random.default_rng((seed, len(ids)))
    centres = np.random.default_rng(2).standard_normal((ids.max() + 1, n_features), dtype=np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(ids), n_features)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(ids), _CHUNK):
            part = ids[start : start + _CHUNK]
            noise = rng.standard_normal((len(part), n_features), dtype=np.float32)
            file.write((noise if np.isinf(spread) else centres[part] + np.float32(spread) * noise).tobytes())


def evaluate(folder: Path, arguments: argparse.Namespace) -> None:
    """Inside of the process that is measured."""
    import torch

    labels = make_labels(SIZES[arguments.size])
    query, gallery = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("query", "gallery"))
    start, used = time.perf_counter(), sum(os.times()[:2])
    if arguments.rerank:
        blocks = rerank_blocks(query, gallery, k1=20, k2=6, lambda_value=0.3)
        scores = rank_distances(blocks, labels, top_k=arguments.top_k).scores
    else:
        scores = rank_features(query, gallery, labels, metric="cosine", top_k=arguments.top_k).scores
    wall, cpu = time.perf_counter() - start, sum(os.times()[:2]) - used
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{wall:.1f} s, {cpu:.1f} s of the processor, {torch.get_num_threads()} threads, at most {peak_gb:.2f} GB")
    expected = random_mean_average_precision(labels)
    print(f"  mAP {scores.mean_average_precision:.5f}, of a random embedding {expected:.5f}")


def run_apart(arguments: argparse.Namespace) -> None:
    size = SIZES[arguments.size]
    labels = make_labels(size)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for seed, (name, ids) in enumerate((("query", labels.query_ids), ("gallery", labels.gallery_ids))):
            write_features(Path(folder) / f"{name}.npy", ids, arguments.features, seed=seed, spread=arguments.spread)
        what = "re-ranking" if arguments.rerank else "evaluation"
        print(f"{what} of {size.queries} x {size.gallery} images, {arguments.features} features: ", end="", flush=True)
        subprocess.run([sys.executable, __file__, "--inside", folder, *sys.argv[1:]], check=True)


def load_foreign(file: Path) -> types.ModuleType:
    """A module as part of a package that is its folder, without the packages around it."""
    package = types.ModuleType("foreign")
    package.__path__ = [str(file.parent)]
    sys.modules["foreign"] = package
    spec = importlib.util.spec_from_file_location(f"foreign.{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # says that the compiled part is missing
        spec.loader.exec_module(module)
    return module


def check_equal(found: RankingScores, other: tuple[np.ndarray, ...]) -> None:
    """Of the other: CMC, then AP or its mean, then INP where it has that."""
    ours = (found.cmc, found.average_precision, found.inverse_negative_penalty)
    for name, mine, its in zip(("CMC", "AP", "INP"), ours, other, strict=False):
        its = np.asarray(its)
        mine = np.nanmean(mine) if its.ndim == 0 else mine[~np.isnan(mine)]
        difference = float(np.abs(mine - its).max())
        print(f"  {name}: largest difference {difference:.1e}")
        assert difference <= TOLERANCE


def cost_of(work: Callable[[], object], repeats: int) -> float:
    """Processor seconds, the least of the repeats: a busy machine only ever adds. All sides use one thread."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def compare(arguments: argparse.Namespace) -> None:
    size, foreign = SIZES[arguments.size], load_foreign(arguments.against)
    labels = make_labels(size)
    arrays = (labels.query_ids, labels.gallery_ids, labels.query_cameras, labels.gallery_cameras)
    matrix = np.tile(np.arange(size.gallery, dtype=np.float32), (size.queries, 1))
    np.random.default_rng(3).permuted(matrix, axis=1, out=matrix)
    print(f"{arguments.against.name}, {size.queries} x {size.gallery}, processor seconds")
    for is_compiled in (False, True) if foreign.IS_CYTHON_AVAI else (False,):
        evaluate_theirs = partial(foreign.evaluate_rank, matrix, *arrays, use_cython=is_compiled)
        check_equal(ranking_scores(matrix, *arrays), evaluate_theirs())
        ours, theirs = (cost_of(work, 3) for work in (lambda: ranking_scores(matrix, *arrays), evaluate_theirs))
        print(f"  its {'compiled' if is_compiled else 'Python'} evaluation {theirs:.2f} s, ours {ours:.2f} s, ", end="")
        print(f"{theirs / ours:.1f} x faster")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="market")
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--top-k", type=int, default=0, help="images at the top of each ranking that are kept")
    parser.add_argument("--rerank", action="store_true")
    parser.add_argument(
        "--spread", type=float, default=np.inf, help="noise around an identity's direction; default: no direction"
    )
    parser.add_argument("--folder", type=Path, help="where the features are written; default: that of temporary files")
    parser.add_argument("--against", type=Path, metavar="FILE")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        evaluate(arguments.inside, arguments)
    elif arguments.against:
        compare(arguments)
    else:
        run_apart(arguments)


if __name__ == "__main__":
    main()
