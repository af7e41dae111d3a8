"""What is said when a search ends."""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import duration, number
from attnsearch.search.trials import StudyRows, TrialRow, read_study
from attnsearch.store.epochs import read_split_scores
from attnsearch.store.layout import PublishedLayout, StudyLayout
from attnsearch.store.manifest import read_manifest
from attnsearch.store.urls import default_url, redact
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.search.run import SearchOutcome


@dataclass(frozen=True)
class SearchSummary:
    """A study after one run of `search`; `seconds` and `processor_seconds` are of this run, workers included."""

    rows: StudyRows
    ended: SearchOutcome
    layout: StudyLayout
    url: str
    seconds: float
    processor_seconds: float

    @classmethod
    def of(cls, ended: SearchOutcome, seconds: float, processor_seconds: float) -> SearchSummary:
        """The summary of a search that has just ended."""
        plan = ended.plan
        return cls(read_study(plan.url, plan.study.name), ended, plan.layout, plan.url, seconds, processor_seconds)

    def values(self) -> dict[str, Any]:
        """For machines."""
        return {
            "study": self.rows.name,
            "outcome": self.ended.outcome,
            "trials": self._counts(),
            "best": [self._best_values(trial) for trial in self._best()],
            "published": [str(path) for path in self._published()],
            "folder": str(self.layout.study_dir),
            "storage": redact(self.url),
            "seconds": round(self.seconds, 3),
            "processor_seconds": round(self.processor_seconds, 3),
        }

    def lines(self) -> list[str]:
        """For people."""
        counts = ", ".join(f"{n} {state}" for state, n in self._counts().items())
        lines = [f"study {self.rows.name}: {self.ended.outcome.replace('_', ' ')}; trials: {counts or 'none'}"]
        for trial in self._best():
            lines += self._best_lines(trial)
        for path in self._published():
            lines.append(f"  published  {_shown(path)}")
        lines.append(f"  all files  {_shown(self.layout.study_dir)}")
        lines.append(f"  dashboard  {self.reader_command()}")
        lines.append(f"  or         {self.dashboard_command()}")
        lines.append(f"  time       {duration(self.seconds)}, {self.processor_seconds:.0f} s of processor time")
        return lines

    def reader_command(self) -> str:
        """How all pages are opened; readers do not ask the study's file for another database than its experiment's."""
        is_own = self.url == default_url(self.layout)
        storage = "" if is_own else f" --storage {shlex.quote(redact(self.url))}"
        return f"attnsearch dashboard {shlex.quote(_shown(self.layout.experiment_dir))}{storage}"

    def dashboard_command(self) -> str:
        """How optuna-dashboard is started on this study's database."""
        artifacts = f" --artifact-dir {_shown(self.layout.artifacts)}" if self.layout.artifacts.is_dir() else ""
        return f"optuna-dashboard {redact(self.url)}{artifacts}"

    def _counts(self) -> dict[str, int]:
        return dict(Counter(trial.state for trial in self.rows.trials))

    def _best(self) -> list[TrialRow]:
        return [trial for trial in self.rows.trials if trial.number in self.rows.best]

    def _values_of(self, trial: TrialRow) -> dict[str, float]:
        return dict(zip(self.rows.objectives, trial.values, strict=True))

    def _best_values(self, trial: TrialRow) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "best_epoch": trial.best_epoch,
            "kept_epoch": trial.best_epoch,  # its name in 0.1, until 0.3
            "values": self._values_of(trial),
            "params": trial.params,
            "test": self._test_scores(trial),
        }

    def _best_lines(self, trial: TrialRow) -> list[str]:
        values = ", ".join(f"{key} {number(value)}" for key, value in self._values_of(trial).items())
        names = [key.partition("/")[2] for key in self.rows.objectives]
        scores = {name: value for name, value in self._test_scores(trial).items() if name in names}
        test = "".join(f", test/{name} {number(value)}" for name, value in scores.items())
        params = "  ".join(f"{key}={value}" for key, value in trial.params.items())
        return [
            f"  best       trial {trial.number}, epoch {trial.best_epoch}: {values}{test}",
            f"             {params}",
        ]

    def _test_scores(self, trial: TrialRow) -> dict[str, float]:
        """The scores of the trial on the test split; empty where none are published."""
        paths = [files.model_csv("test") for number, files in self._sets() if number == trial.number]
        if not paths or not paths[0].exists():
            return {}
        return {key: value for key, value in read_split_scores(paths[0]).items() if not math.isnan(value)}

    def _published(self) -> list[Path]:
        """The flat files that a person opens first: scores, maps and norms of the chosen trial."""
        flat = [files for _, files in self._sets() if files.directory == self.layout.experiment_dir]
        splits: tuple[Split, ...] = ("test", "val")
        for split, files in ((split, files) for files in flat for split in splits):
            archive = files.archive(split)
            if archive.images.exists():
                return [path for path in (files.model_csv(split), archive.maps, archive.norms) if path.exists()]
        return []

    def _sets(self) -> list[tuple[int, PublishedLayout]]:
        """Trial number and files of each published set."""
        manifest = read_manifest(self.layout) or {"sets": []}
        folder = self.layout.experiment_dir
        return [
            (one["trial"], PublishedLayout((folder / one["folder"]), self.layout.study, one["epoch"]))
            for one in manifest["sets"]
        ]


def _shown(path: Path) -> str:
    """Relative to where the user is, if it lies below."""
    here = Path.cwd()
    return os.fspath(path.relative_to(here) if path.is_relative_to(here) else path)
