"""What a film strip costs: validation of an epoch with its frame and without, by turns, and the writing of the frame.

    PYTHONPATH=. python tests/benchmarks/film.py [--study br_npa_high_res] [--n-repeats 20]

Takes the study under the profile `demo`: 320 validation images of synthetic birds. Processor seconds, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from attnsearch.config.load import load_experiment
from attnsearch.data.loader import open_data
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.film import FilmFrame, film_rows
from attnsearch.training.loop import TrainingSetup, train_epoch, validate_epoch
from attnsearch.training.setup import build_run
from attnsearch.training.state import TrainingState
from tests.tiny import RecordingContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="br_npa_high_res", help="a config")
    parser.add_argument("--n-repeats", type=int, default=20)
    arguments = parser.parse_args()
    config = load_experiment(arguments.study, profile="demo")
    with tempfile.TemporaryDirectory() as folder:
        run = build_run(TrainingState(config, RecordingContext(Path(folder)), open_data(config.data), accumulation=1))
        train = measured(lambda: train_epoch(run, 1, accumulation=1, check=lambda: None))
        validate(run, None)  # warm
        pairs = [(validate(run, None), *with_film(run, TrialLayout(Path(folder)))) for _ in range(arguments.n_repeats)]
        n_bytes = TrialLayout(Path(folder)).film_frame(1).stat().st_size
    plain, filmed, written = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{arguments.study}: an epoch of training takes {train:.2f} s, its validation {plain:.3f} s")
    print(f"  with the frame of a film {filmed:.3f} s, ratio {filmed / plain:.3f}; writing it {1000 * written:.1f} ms")
    print(f"  of the epoch {100 * (filmed - plain + written) / (train + plain):.2f} %; {n_bytes} bytes")


def validate(run: TrainingSetup, film: FilmFrame | None) -> float:
    return measured(lambda: validate_epoch(run, 1, check=lambda: None, film=film))


def with_film(run: TrainingSetup, trial: TrialLayout) -> tuple[float, float]:
    """Seconds of a validation that fills a frame, and of writing it."""
    film = FilmFrame(film_rows(run.val.table))
    seconds = validate(run, film)
    return seconds, measured(lambda: film.writer(trial, 1)(lambda: None))


def measured(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
