"""A job array of Slurm whose elements are workers of one study."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.errors import ConfigError
from attnsearch.types import URL_VARIABLE

SHORTEST_LIMIT_S, LONGEST_MARGIN_S, SHORTEST_MARGIN_S = 120, 600, 60
"""Of a time limit, and between the moment when a worker returns its trial and that when Slurm ends it."""
_TIME = re.compile(r"(?:(?P<days>\d{1,3})-)?(?P<first>\d{1,5})(?::(?P<second>\d{1,2}))?(?::(?P<third>\d{1,2}))?")
_MEMORY = re.compile(r"[1-9]\d{0,8}[KMGT]?")
_OPTION = re.compile(r"--([a-z][a-z-]*)(?:=.*)?")
_RESERVED = {"array", "export", "no-requeue", "parsable", "wait", "wrap"}

_BODY = f"""
# The workers take the database from the environment, so that no password stands here.
: "${{{URL_VARIABLE}:?set it to the URL of the database of the study and export it}}"
export OMP_NUM_THREADS="$SLURM_CPUS_ON_NODE"
[ -z "${{SLURM_JOB_GPUS:-}}" ] || export ATTNSEARCH_ASSIGNED_GPU="$SLURM_JOB_GPUS"

# On SIGTERM a worker returns its trial to the queue; without the trap bash would end and leave it behind.
trap 'kill -TERM "$worker" 2>/dev/null' TERM
{{command}} &
worker=$!
wait "$worker"
code=$?
while kill -0 "$worker" 2>/dev/null; do # it was the trap that ended `wait`
    wait "$worker"
    code=$?
done

# 75: there is more to do, but not in this time. Also 130, SIGTERM, where it came at the time limit: not after scancel.
# What was preempted, or lost with its node, Slurm itself requeues.
me="${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
if [ "$code" = 75 ] || {{ [ "$code" = 130 ] && [ "$(squeue --noheader --format=%r --job="$me")" = TimeLimit ]; }}; then
    scontrol requeue "$me"
fi
exit "$code"
"""


@dataclass(frozen=True)
class SlurmJob:
    """A job array, one worker in each element.

    Attributes:
        name: of the job.
        log: the pattern of the logs, with `%A` and `%a` for the numbers of array and element in its last part.
        n_workers: elements.
        time: limit of an element, as Slurm writes it; at its end the element is requeued, until the study is over.
        n_gpus, n_cpus, memory: of each element; None leaves it to Slurm.
        partition: None is the default one.
        options: others of sbatch, as `--name=value` or `--name`.
    Raises:
        ConfigError: a value that Slurm or its script cannot take.
    """

    name: str
    log: Path
    n_workers: int
    time: str
    n_gpus: int = 1
    n_cpus: int | None = None
    memory: str | None = None
    partition: str | None = None
    options: Sequence[str] = ()

    def __post_init__(self) -> None:
        seconds_of(self.time)
        if self.n_gpus < 0 or (self.n_cpus is not None and self.n_cpus < 1):
            raise ConfigError("a worker needs 0 or more GPUs and 1 or more CPUs; correct the numbers per worker")
        if self.memory is not None and not _MEMORY.fullmatch(self.memory):
            raise ConfigError(f"--memory must be a number with K, M, G or T, such as 32G, got {self.memory[:80]!r}")
        if "\\" in str(self.log):
            raise ConfigError(
                f"{self.log.parent}: Slurm writes no logs below a folder with a backslash; use another folder"
            )
        for option in self.options:
            self._check_option(option)

    def _check_option(self, option: str) -> None:
        match = _OPTION.fullmatch(option)
        if match is None:
            raise ConfigError(
                f"--sbatch must be one long option, such as --sbatch=--account=birds, got {option[:80]!r}"
            )
        own = {name for name, _ in self._own_directives()}
        if match[1] in own | _RESERVED:
            raise ConfigError(f"--sbatch cannot change --{match[1]}, which `attnsearch slurm` sets by itself")

    @property
    def stop_after_s(self) -> int:
        """Seconds after which a worker returns its trial, before its time limit: imports and files take some."""
        limit_s = seconds_of(self.time)
        return limit_s - min(LONGEST_MARGIN_S, max(SHORTEST_MARGIN_S, limit_s // 10))

    def _own_directives(self) -> Iterator[tuple[str, str | None]]:
        """(name, value) of what stands in the script."""
        folder = str(self.log.parent).replace("%", "%%")
        yield "job-name", self.name
        yield "output", f"{folder}/{self.log.name}"
        yield from [("array", f"0-{self.n_workers - 1}"), ("nodes", "1"), ("ntasks", "1"), ("time", self.time)]
        yield from [("requeue", None), ("open-mode", "append")]
        if self.n_gpus:
            yield "gres", f"gpu:{self.n_gpus}"
        cpus = None if self.n_cpus is None else str(self.n_cpus)
        asked = (("cpus-per-task", cpus), ("mem", self.memory), ("partition", self.partition))
        yield from ((name, value) for name, value in asked if value is not None)

    def script(self, command: Sequence[str]) -> str:
        """What sbatch takes.

        Args:
            command: the words that start a worker, which ends with 75 after `stop_after_s`.
        """
        options = [option.removeprefix("--").partition("=") for option in self.options]
        directives = [*self._own_directives(), *((name, value if sign else None) for name, sign, value in options)]
        lines = [f"#SBATCH --{name}" + ("" if value is None else f"={_quoted(value)}") for name, value in directives]
        words = shlex.join(map(_on_one_line, command))
        return "\n".join(["#!/bin/bash", *lines]) + "\n" + _BODY.replace("{command}", words)


def seconds_of(time: str) -> int:
    """Seconds of a time limit as Slurm writes it: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` or `D-H:M:S`.

    Raises:
        ConfigError: of another form, or too short for a worker to begin.
    """
    match = _TIME.fullmatch(time)
    if match is None:
        raise ConfigError(f"--time must be such as 4:00:00 or 1-12 (days-hours), got {time[:80]!r}")
    first, second, third = (int(match[name] or 0) for name in ("first", "second", "third"))
    if match["days"] is not None:
        seconds = int(match["days"]) * 86400 + first * 3600 + second * 60 + third
    elif match["third"] is not None:
        seconds = first * 3600 + second * 60 + third
    else:
        seconds = first * 60 + second
    if seconds < SHORTEST_LIMIT_S:
        raise ConfigError(f"--time must be at least {SHORTEST_LIMIT_S // 60} minutes, got {time!r}")
    return seconds


def _quoted(value: str) -> str:
    """As sbatch reads it: in double quotes, where a backslash takes the next character as it is."""
    escaped = re.sub(r'(["\\])', r"\\\1", _on_one_line(value))
    return f'"{escaped}"'


def _on_one_line(text: str) -> str:
    if not text.isprintable():
        raise ConfigError(f"a job script cannot hold line ends or control characters, got {text[:80]!r}")
    return text


def submit(script: str, *, storage: str) -> str:
    """Hands a script to sbatch; returns the id of the job.

    Args:
        storage: URL of the database as it was written, which travels in the environment of the job.
    Raises:
        ConfigError: Slurm is not installed here, or refuses the job.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise ConfigError("there is no sbatch on this machine; run this on a login node of the cluster, or use --print")
    done = subprocess.run(
        [program, "--parsable", "--export=ALL"],
        input=script,
        env={**os.environ, URL_VARIABLE: storage},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError(f"sbatch refused the job: {' '.join(done.stderr.split())}")
    return done.stdout.strip().partition(";")[0]
