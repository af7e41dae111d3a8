"""What a pause costs: a trial that pauses after every epoch and resumes, against the same one trained in one go.

    PYTHONPATH=. python tests/benchmarks/legs.py [--study br_npa_low_res] [--epochs 5] [--repeats 3] [key=value ...]

Both sides alternate. A leg reads the resume checkpoint, builds model and optimizer, and writes the checkpoints to the
end; claims of the database, milliseconds, are left out. Halving pauses a trial first after a tenth of its epochs.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_study
from attnsearch.data.loader import DataSource, open_data
from attnsearch.training.trainer import fit
from tests.tiny import RecordingContext


def seconds_of(config: ExperimentConfig, data: DataSource, pauses: list[int | None]) -> float:
    """Trains one trial in a leg for each pause, None = to the end."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for pause in pauses:
            fit(config, RecordingContext(Path(folder), pause_after=pause), data=data)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="br_npa_low_res")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_intermixed_args()
    n_epochs = arguments.epochs
    overrides = [*arguments.overrides, f"train.epochs={n_epochs}"]
    config = load_study(arguments.study, profile=arguments.profile, overrides=overrides).experiment
    data = open_data(config.data)
    seconds_of(config, data, [1])
    legs: list[int | None] = [*range(1, n_epochs), None]
    whole, paused = [], []
    for _ in range(arguments.repeats):
        whole.append(seconds_of(config, data, [None]))
        paused.append(seconds_of(config, data, legs))
    one, many = statistics.median(whole), statistics.median(paused)
    leg = (many - one) / (n_epochs - 1)
    print(
        f"{arguments.study}: {one:.1f} s in one go, {many:.1f} s in {n_epochs} legs: a pause costs {leg:.2f} s, "
        f"{leg / (one / n_epochs):.2f} epochs"
    )


if __name__ == "__main__":
    main()
