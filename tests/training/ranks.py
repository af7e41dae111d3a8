"""A program for several processes that train together: `python -m tests.training.ranks FOLDER RANK N_RANKS`.

`FOLDER/cases.json` lists what they do, one thing after the other; each trains `cases/NAME` and leaves there what came
out of it. Tests start the processes once for many cases, as each of them imports torch.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import open_data
from attnsearch.errors import LeaseLost, NonFiniteLoss, TrialInterrupted
from attnsearch.training import loop, trainer
from attnsearch.training.parallel import Ranks, join_ranks, leave_ranks
from attnsearch.training.trainer import fit, follow_epochs
from tests.tiny import RecordingContext


def start_ranks(folder: Path, n_ranks: int, cases: Mapping[str, Any]) -> list[subprocess.Popen[bytes]]:
    """Starts the processes on the cases, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "tests.training.ranks", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(n_ranks):
        with (folder / f"stderr.{rank}").open("wb") as log:
            words = [*command, str(rank), str(n_ranks)]
            processes.append(subprocess.Popen(words, env=environment, stderr=log))
    return processes


def run_ranks(folder: Path, n_ranks: int, cases: Mapping[str, Any]) -> list[int]:
    """Runs the cases to their end; returns the exit codes."""
    processes = start_ranks(folder, n_ranks, cases)
    try:
        return [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def outcome(folder: Path, name: str, rank: int = 0) -> dict[str, Any]:
    """What a rank has left of a case: the state of the model, or its error."""
    content: dict[str, Any] = torch.load(folder / "cases" / f"{name}.{rank}.pt", weights_only=True)
    return content


@contextmanager
def harmed(harm: str, ranks: Ranks) -> Iterator[None]:
    """Lets a rank fail as a case asks for: `KIND:RANK:CALL`, at the CALL-th forward pass of training, from 0."""
    kind, rank, call = harm.split(":") if harm else ("", "-1", "-1")
    forward, calls = loop.forward, iter(range(10_000))

    def failing(*arguments: Any) -> Any:
        if ranks.rank == int(rank) and next(calls) == int(call):
            _fail(kind)
        return forward(*arguments)

    loop.forward = failing
    try:
        yield
    finally:
        loop.forward = forward


def _fail(kind: str) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise {
        "memory": torch.OutOfMemoryError("out of memory, as a test asks for"),
        "loss": NonFiniteLoss("no number"),
        "stop": TrialInterrupted(),
        "lease": LeaseLost(),
        "bug": KeyError("a bug"),
    }[kind]


def run_case(folder: Path, name: str, case: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Trains a case as one of the ranks; returns what it leaves.

    Args:
        case: `config`, and perhaps `harm`, `prune_after`, `attempt` and `directory`, of another case.
    """
    config = ExperimentConfig.model_validate_json(json.dumps(case["config"]))
    states: list[dict[str, Any]] = []
    with harmed(case.get("harm", ""), ranks), keeping_states(states):
        left: dict[str, Any] = {}
        try:
            if ranks.rank == 0:
                context = RecordingContext(
                    folder / "cases" / case.get("directory", name), attempt=case.get("attempt", 1)
                )
                context.prune_after = case.get("prune_after")
                result = fit(config, context, data=open_data(config.data), ranks=ranks)
                left = {"metrics": dict(result.metrics), "state": result.state}
            else:
                follow_epochs(config, data=open_data(config.data), ranks=ranks)
        except Exception as error:
            left = {"error": type(error).__name__, "text": str(error)}
    return {**left, "models": states}


@contextmanager
def keeping_states(states: list[dict[str, Any]]) -> Iterator[None]:
    """Keeps the state of the model after each epoch."""
    validate: Callable[..., Any] = trainer.validate_epoch

    def keeping(run: Any, epoch: int, **settings: Any) -> Any:
        states.append({key: value.clone() for key, value in run.model.state_dict().items()})
        return validate(run, epoch, **settings)

    trainer.validate_epoch = keeping
    try:
        yield
    finally:
        trainer.validate_epoch = validate


def main(folder: Path, rank: int, n_ranks: int) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    ranks = join_ranks(folder / "store", rank, n_ranks)
    cases = json.loads((folder / "cases.json").read_text())
    (folder / "cases").mkdir(exist_ok=True)
    for name, case in cases.items():
        torch.save(run_case(folder, name, case, ranks), folder / "cases" / f"{name}.{rank}.pt")
    leave_ranks()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
