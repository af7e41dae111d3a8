"""What does each pruning rule save, and what does it lose? Recorded curves, replayed in random orders.

    PYTHONPATH=. python tests/benchmarks/replay.py rules --plot docs/halving.svg
    PYTHONPATH=. python tests/benchmarks/replay.py ranks
    PYTHONPATH=. python tests/benchmarks/replay.py workers
    PYTHONPATH=. python tests/benchmarks/replay.py patience
    PYTHONPATH=. python tests/benchmarks/replay.py samplers --orders 40
    PYTHONPATH=. python tests/benchmarks/replay.py samplers photos --orders 40 --searches build/halving

A study is 25 settings of a pool in random order, or all of a smaller pool. Loss: the best accuracy of all its
settings, trained in full, minus that of the best trial that the rule trained to its end, in points. Orders of one pool
overlap, so the interval over orders says how well the mean over this pool is known; the interval over settings, a
bootstrap of the pool itself, what other settings of the same space might have given.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

import numpy as np
import optuna
from numpy.typing import NDArray

from attnsearch.metrics.statistics import rank_correlation
from attnsearch.search.halving import BRACKET_TRIALS
from attnsearch.search.patience import expected_best, next_gain
from tests.benchmarks.curves import HAS_COSINE, NAMES, Pool, path_of, read_pool
from tests.benchmarks.replay_plot import Point, plot
from tests.benchmarks.replay_rules import Halving, Measured, Outcome, Rule, fewer_trials, rules_of, with_patience
from tests.benchmarks.replay_samplers import pool_of_searches, print_samplers, random_study

N_TRIALS, N_LONG = 25, 40
LOST = 0.3
"""Points below which a loss does not matter."""
N_POOLS, ORDERS_PER_POOL = 80, 2
Z = 1.96
WORKERS = (1, 2, 4, 8)
PATIENCES = (8, 10, 15)
SHORT = 20
"""Epochs of a short training."""
EARLY = (1, 2, 3, 4, 5, 8, 10, 20)


@dataclass(frozen=True)
class Summary:
    """A rule over many orders; losses in points, intervals of 95 %, epochs of one study."""

    epochs: float
    saving: float
    loss: float
    over_orders: float
    over_settings: tuple[float, float]
    n_lost: float

    @property
    def line(self) -> str:
        return (
            f"{self.epochs:7.0f} {self.saving:6.2f} {self.loss:6.2f} +- {self.over_orders:4.2f} "
            f"{self.over_settings[0]:6.2f} to {self.over_settings[1]:5.2f} {100 * self.n_lost:5.0f} %"
        )


HEAD = f"{'rule':38} {'epochs':>7} {'saved':>6} {'loss':>6}    {'orders'} {'settings':>15} {'> .3':>6}"


def study_of(pool: Pool, order: int, *, n_trials: int = N_TRIALS, seed: int = 1) -> Measured:
    """(n, E, 3) curves of the settings of one study, in the order in which they are drawn."""
    rng = np.random.default_rng((seed, order))
    return pool.measured[rng.permutation(len(pool))[:n_trials]]


def full_study_of(pool: Pool, order: int) -> Measured:
    """As `study_of`, with settings drawn twice where the pool is too small: times need the right number of trials."""
    if len(pool) >= N_TRIALS:
        return study_of(pool, order)
    return pool.measured[np.random.default_rng((4, order)).integers(0, len(pool), N_TRIALS)]


def loss_of(measured: Measured, outcome: Outcome) -> float:
    return 100 * (float(measured[..., 0].max()) - outcome.best)


def resampled(pool: Pool, number: int) -> Pool:
    """A pool of as many settings, drawn with replacement."""
    rows = np.random.default_rng((2, number)).integers(0, len(pool), len(pool))
    return Pool(pool.name, pool.curves, pool.measured[rows])


def interval_over_settings(pool: Pool, rule: Rule) -> tuple[float, float]:
    """The percentile interval of the mean loss over bootstrapped pools."""
    losses = np.empty((N_POOLS, ORDERS_PER_POOL))
    for number in range(N_POOLS):
        drawn = resampled(pool, number)
        for order in range(ORDERS_PER_POOL):
            accuracy = study_of(drawn, order, seed=number + 3)
            losses[number, order] = loss_of(accuracy, rule(accuracy, order))
    low, high = np.percentile(losses.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def summarise(pool: Pool, rule: Rule, n_orders: int) -> Summary:
    """A rule over random orders of a pool."""
    studies = [study_of(pool, order) for order in range(n_orders)]
    outcomes = [rule(accuracy, order) for order, accuracy in enumerate(studies)]
    losses = np.array([loss_of(*pair) for pair in zip(studies, outcomes, strict=True)])
    epochs = float(np.mean([one.epochs for one in outcomes]))
    of_orders = Z * float(losses.std(ddof=1)) / np.sqrt(n_orders)
    saving = studies[0][..., 0].size / epochs
    lost = float((losses > LOST + 1e-9).mean())
    return Summary(epochs, saving, float(losses.mean()), of_orders, interval_over_settings(pool, rule), lost)


def summary_of(pool: Pool, n_orders: int, name: str) -> Summary:
    """As `summarise`, in a process of its own."""
    return summarise(pool, rules_of(pool.n_epochs)[name], n_orders)


def title_of(pool: Pool) -> str:
    n = min(N_TRIALS, len(pool))
    cut = ", the first epochs of a longer cosine schedule" if HAS_COSINE[pool.name] and is_cut(pool) else ""
    return f"{pool.name}: {n} of {len(pool)} settings, {pool.n_epochs} epochs{cut}"


def is_cut(pool: Pool) -> bool:
    """Whether curves are shorter than they were recorded."""
    return pool.n_epochs < len(pool.curves[0].correct)


def dominated_by(name: str, found: Mapping[str, Summary]) -> list[str]:
    """The rules that save no less and lose no more, and are better in one of them."""
    own = (found[name].saving, -found[name].loss)
    points = {other: (one.saving, -one.loss) for other, one in found.items()}
    return [
        other
        for other, point in points.items()
        if point != own and point[0] >= own[0] - 1e-9 and point[1] >= own[1] - 1e-9
    ]


def print_rules(pools: Sequence[Pool], n_orders: int) -> dict[str, list[Point]]:
    """A table for each pool at its own length and as a short training; returns the points of the former, by title."""
    found: dict[str, list[Point]] = {}
    for pool in [one for whole in pools for one in (whole, whole.cut(SHORT)) if one is whole or whole.n_epochs > SHORT]:
        print(f"\n{title_of(pool)}\n{HEAD}", flush=True)
        summaries, names = {}, list(rules_of(pool.n_epochs))
        with ProcessPoolExecutor() as executor:
            for name, summary in zip(names, executor.map(partial(summary_of, pool, n_orders), names), strict=True):
                summaries[name] = summary
                print(f"{name:38} {summary.line}", flush=True)
        better = dominated_by("halving", summaries)
        print(f"halving: {'on the front' if not better else 'not on the front: ' + '; '.join(better)}")
        if not is_cut(pool):
            points = [Point(name, one.saving, one.loss, one.over_settings[1]) for name, one in summaries.items()]
            found[title_of(pool)] = points
    return found


def print_workers(pools: Sequence[Pool], n_orders: int) -> None:
    """Halving by several workers, against the same workers without: time by the simulated clock."""
    shapes = {"one bracket": BRACKET_TRIALS, "brackets of 9": 9}
    for pool in pools:
        print(f"\n{pool.name}: {N_TRIALS} trials, {pool.n_epochs} epochs, whose time varies by .3 of its mean")
        for name, size in shapes.items():
            for n_workers in WORKERS:
                line = workers_line(pool, Halving(size, n_workers=n_workers), n_orders)
                print(f"{name:14} {line}", flush=True)


def workers_line(pool: Pool, rule: Halving, n_orders: int) -> str:
    """Epochs and time saved, idle fraction, loss and most paused trials of one number of workers."""
    whole = Halving(rule.size, n_finish=N_TRIALS, n_workers=rule.n_workers)  # all finish: no rungs
    studies = [full_study_of(pool, order) for order in range(n_orders)]
    outcomes = [rule(accuracy, order) for order, accuracy in enumerate(studies)]
    unpruned = [whole(accuracy, order) for order, accuracy in enumerate(studies)]
    epochs = np.mean([one.epochs for one in unpruned]) / np.mean([one.epochs for one in outcomes])
    wall = np.mean([one.wall for one in unpruned]) / np.mean([one.wall for one in outcomes])
    loss = np.mean([loss_of(*pair) for pair in zip(studies, outcomes, strict=True)])
    idle = np.mean([one.idle for one in outcomes])
    paused = max(one.peak_paused for one in outcomes)
    return (
        f"{rule.n_workers} workers: epochs {epochs:4.2f} x fewer, time {wall:4.2f} x shorter, idle {idle:4.2f}, "
        f"loss {loss:4.2f}, at most {paused} paused"
    )


def print_patience(pools: Sequence[Pool], n_orders: int) -> None:
    """What `patience` costs on studies of up to 40 trials, against as many trials from the start."""
    for pool in pools:
        studies, source = long_studies(pool, n_orders)
        print(f"\n{pool.name}: {N_LONG} {source}, {pool.n_epochs} epochs, without pruning")
        for patience in PATIENCES:
            outcomes = [with_patience(patience)(accuracy, 0) for accuracy in studies]
            losses = np.array([loss_of(*pair) for pair in zip(studies, outcomes, strict=True)])
            n_run = float(np.mean([one.n_complete for one in outcomes]))
            fixed = [loss_of(accuracy, fewer_trials(N_LONG / n_run)(accuracy, 0)) for accuracy in studies]
            error = Z * losses.std(ddof=1) / np.sqrt(n_orders)
            print(
                f"patience {patience:2}: {n_run:4.1f} trials, loss {losses.mean():4.2f} +- {error:4.2f}, above .3 in "
                f"{100 * (losses > LOST).mean():3.0f} %; that many trials in any case: {np.mean(fixed):4.2f}"
            )
        print(outlook_line(studies))


def long_studies(pool: Pool, n_orders: int) -> tuple[list[Measured], str]:
    """Curves of studies of `N_LONG` trials, and where their settings are from."""
    if len(pool) >= N_LONG:
        studies = [study_of(pool, order, n_trials=N_LONG) for order in range(n_orders)]
        return studies, f"of {len(pool)} recorded settings"
    studies = [random_study(pool, N_LONG, order) for order in range(n_orders)]
    return studies, f"random settings on the surrogate of {len(pool)}"


def outlook_line(studies: Sequence[Measured]) -> str:
    """Whether what `show` estimates after half of the trials comes true on the other half."""
    bests, half = [100 * measured[..., 0].max(axis=1) for measured in studies], len(studies[0]) // 2
    expected = []
    for values in bests:
        quarters, halves = (expected_best(values[:half].tolist(), half // parts) for parts in (4, 2))
        expected.append(next_gain(halves - quarters, max(values[:half]) - halves))
    came = [max(values[: 2 * half]) - max(values[:half]) for values in bests]
    return f"the second half of {2 * half} trials: estimated gain {np.mean(expected):.2f}, came {np.mean(came):.2f}"


def print_ranks(pools: Sequence[Pool], _n_orders: int) -> None:
    """How far early ranks are those of the end, and those of the other half of validation: when a rung may decide."""
    for pool in pools:
        epochs = [epoch for epoch in EARLY if epoch < pool.n_epochs]
        best = np.maximum.accumulate(pool.accuracy, axis=1)  # (N, E)
        at_end = {epoch: (best[:, epoch - 1], best[:, -1]) for epoch in epochs}
        between = {epoch: halves_of_best(pool, epoch) for epoch in epochs}
        print(f"{pool.name}, {len(pool)} settings, best so far against the end, after epoch {ranks_line(at_end)}")
        print(f"{pool.name}, between two halves of validation, after epoch {ranks_line(between)}")


def halves_of_best(pool: Pool, epoch: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) each: the accuracy on both halves at the best epoch so far."""
    at_best = pool.measured[:, :epoch, 0].argmax(axis=1)
    return tuple(pool.measured[np.arange(len(pool)), at_best, half] for half in (1, 2))  # type: ignore[return-value]


def ranks_line(pairs: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> str:
    """Spearman's correlations of pairs (N,) by epoch."""
    return ", ".join(f"{epoch}: {rank_correlation(a[None], b[None])[0]:.2f}" for epoch, (a, b) in pairs.items())


COMMANDS: Mapping[str, Callable[[Sequence[Pool], int], object]] = {
    "rules": print_rules,
    "ranks": print_ranks,
    "workers": print_workers,
    "patience": print_patience,
    "samplers": print_samplers,
}


def write_block(page: Path, command: str, printed: str) -> None:
    """Replaces what is printed on a page below the line that names the command."""
    text = page.read_text()
    begin = text.index("```\n", text.index(f"replay.py {command}")) + 4
    page.write_text(text[:begin] + printed.strip("\n") + text[text.index("\n```", begin) :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("pools", nargs="*", default=[name for name in NAMES if path_of(name).exists()])
    parser.add_argument("--orders", type=int, default=200, help="of samplers: seeds")
    parser.add_argument(
        "--searches", type=Path, help="results of halving.py, whose trials without pruning are the pool"
    )
    parser.add_argument("--plot", type=Path, help="an SVG file of the rules")
    parser.add_argument("--page", type=Path, help="a page on which the output stands, which is replaced there")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    searches: Path | None = arguments.searches
    pools = [pool_of_searches(searches, name) if searches else read_pool(name) for name in arguments.pools]
    written = io.StringIO()
    with redirect_stdout(Both(sys.stdout, written)):
        found = COMMANDS[arguments.command](pools, arguments.orders)
    if arguments.plot is not None and isinstance(found, dict):
        plot(found, arguments.plot)
    if arguments.page is not None:
        write_block(arguments.page, arguments.command, written.getvalue())


class Both(io.TextIOBase):
    """Writes to two places."""

    def __init__(self, first: TextIO, second: TextIO) -> None:
        self._places = (first, second)

    def write(self, text: str) -> int:
        for place in self._places:
            place.write(text)
            place.flush()
        return len(text)


if __name__ == "__main__":
    main()
