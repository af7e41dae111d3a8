"""Finds the experiments and studies of a results folder; one finder for commands, explorer, report and Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.errors import ConfigError, StoreError, suggest
from attnsearch.results.databases import StudyDatabases, is_plain_run
from attnsearch.results.names import none_in, unknown_study
from attnsearch.results.shared import SharedReads
from attnsearch.results.study import StudyReader
from attnsearch.store.layout import ExperimentLayout, StudyLayout, study_folder

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Results:
    """The studies of some experiments; what is read is remembered until the files change, and nothing is written.

    Attributes:
        experiments: name -> layout.
        folder: where they were looked for, as it was given.
    """

    experiments: Mapping[str, ExperimentLayout]
    shared: SharedReads = field(default_factory=SharedReads, compare=False)
    folder: Path = Path("results")

    def __iter__(self) -> Iterator[StudyReader]:
        """All studies, by experiment and name."""
        layouts = [layout for experiment in self.experiments.values() for layout in studies_of(experiment)]
        return (StudyReader(layout, self.shared) for layout in layouts)

    def __repr__(self) -> str:
        return f"<results: {', '.join(study.name for study in self) or 'no study'}>"

    def _repr_html_(self) -> str:
        return str(self.studies.to_html(max_rows=50, float_format="{:.4g}".format))

    @property
    def studies(self) -> pd.DataFrame:
        """A row per study, index `experiment` and `study`.

        Returns:
            Columns `state` ("finished", "running", "stopped" or "unreadable"), `n_trials` (budget), `n_done`,
            `n_running`, `n_paused`, `n_failed`, `best` (number of the best trial), `objective` and `value` of the first
            objective, `error`.
        """
        import pandas as pd

        counts = {"n_running": "running", "n_paused": "paused", "n_failed": "fail"}
        columns = ["state", "n_trials", "n_done", *counts, "best", "objective", "value", "error"]
        rows = [study.summary() for study in self]
        index = pd.MultiIndex.from_tuples([(row.experiment, row.study) for row in rows], names=["experiment", "study"])
        cells = [
            {
                **{column: getattr(row, column) for column in ("state", "n_trials", "n_done", "best", "error")},
                **{column: row.states.get(state, 0) for column, state in counts.items()},
                "objective": next(iter(row.objectives), None),
                "value": next(iter(row.values), None),
            }
            for row in rows
        ]
        return pd.DataFrame(cells, index=index, columns=columns).astype({"best": "Int64", "value": "float64"})

    @property
    def trials(self) -> pd.DataFrame:
        """A row per trial of all studies, those of a study that cannot be read apart: `studies` says why it cannot.

        Returns:
            Columns `experiment`, `study`, `trial` and those of `StudyReader.trials`, NaN where a study has none.
        """
        import pandas as pd

        readable = [study for study in self if study.summary().error is None]
        rows = [
            {"experiment": study.layout.experiment, "study": study.layout.study, "trial": number, **row}
            for study in readable
            for number, row in study.trials.to_dict("index").items()
        ]
        return pd.DataFrame(rows, columns=None if rows else ["experiment", "study", "trial"])

    def find(self, experiment: str, study: str) -> StudyReader:
        """One study by both of its names.

        Raises:
            ConfigError: there is none.
        """
        if experiment in self.experiments:
            for layout in studies_of(self.experiments[experiment]):
                if layout.study == study:
                    return StudyReader(layout, self.shared)
        raise ConfigError(f"no study {study!r} in the experiment {experiment!r}")

    def study(self, name: str) -> StudyReader:
        """One study by its bare name or `EXPERIMENT/NAME`.

        Raises:
            ConfigError: there is none, or several; the message lists them.
        """
        studies = list(self)
        matching = [study for study in studies if name in (study.layout.study, study.name)]
        if len(matching) == 1:
            return matching[0]
        if matching:
            names = ", ".join(study.name for study in matching)
            raise ConfigError(f"study {name!r} exists in several experiments, write one of: {names}")
        raise unknown_study(name, [study.name for study in studies], self.folder)


def studies_in(root: Path, *, storage: str | None = None) -> Results:
    """As `load_results`, without any study where there is no such folder."""
    return Results(experiments_in(root), SharedReads(StudyDatabases(storage)), root)


def load_results(path: str | os.PathLike[str] = "results", *, storage: str | None = None) -> Results:
    """The studies of a results folder, or of one experiment in it, read-only.

    Args:
        storage: URL of the database of the trials, for studies that do not use `hypSearch.db` of their experiment; what
            the files of the folder name is never opened.
    Raises:
        ConfigError: `storage` is not a usable URL.
        StoreError: no such folder, or nothing was run in it.
    """
    return Results(find_experiments(Path(path)), SharedReads(StudyDatabases(storage)), Path(path))


def load_study(path: str | os.PathLike[str], *, storage: str | None = None) -> StudyReader:
    """The study in a folder `RESULTS/EXPERIMENT/STUDY`, read-only.

    Args:
        path: the folder, or the `study.yaml` in it.
        storage: as `load_results`.
    Raises:
        ConfigError: there is no study, or `storage` is not a usable URL.
    """
    layout = _study_at(Path(path))
    if layout is None:
        raise ConfigError(f"there is no study in {path}; give a folder RESULTS/EXPERIMENT/STUDY")
    return StudyReader(layout, SharedReads(StudyDatabases(storage)))


def _study_at(path: Path) -> StudyLayout | None:
    folder = study_folder(path).expanduser().absolute()
    if not folder.is_dir() or len(folder.parts) < 3:
        return None
    try:
        layout = StudyLayout(folder.parents[1], folder.parent.name, folder.name)
    except ConfigError:
        return None
    return layout if layout.study_yaml.is_file() or is_plain_run(layout) else None


def find_study(name: str, root: Path, *, storage: str | None = None) -> StudyReader:
    """A study by its bare name, `EXPERIMENT/NAME`, or the path of its folder or `study.yaml`.

    Args:
        root: the results folder.
        storage: as `load_results`.
    Raises:
        ConfigError: there is none, or several; the message lists them.
    """
    shared = SharedReads(StudyDatabases(storage))
    layout = _study_at(Path(name))
    if layout is not None:
        return StudyReader(layout, shared)
    return Results(experiments_in(root), shared, root).study(name)


def find_experiment(name: str, root: Path) -> ExperimentLayout:
    """An experiment by its bare name or the path of its folder.

    Raises:
        ConfigError: there is none; the message lists those with studies.
    """
    for folder in (root / name, Path(name)):
        if folder.is_dir():
            return ExperimentLayout.at(folder)
    if Path(name) == root:
        raise ConfigError(f"there is no folder {root.absolute()}; go to where you searched, or name it")
    known = list(experiments_in(root))
    raise ConfigError(
        f"no experiment {name!r} in {root}{suggest(name, known)}; known: {', '.join(known) or none_in(root)}"
    )


def find_folder(path: Path, root: Path) -> Path:
    """A results folder, or an experiment by its bare name or folder; a name is first looked up among the results.

    Raises:
        ConfigError: there is none; the message lists the experiments.
    """
    for folder in (root / path, path):
        if experiments_in(folder):
            return folder
    if path.is_dir():
        return path
    if len(path.parts) > 1:
        raise ConfigError(f"{path} is not a folder; give the results folder or one experiment in it")
    return find_experiment(str(path), root).directory


def find_experiments(folder: Path) -> dict[str, ExperimentLayout]:
    """The experiments in a folder: those below it, or the folder itself where it is one.

    Raises:
        StoreError: no such folder, or nothing was run in it.
    """
    folder = folder.expanduser().absolute()
    if not folder.is_dir():
        raise StoreError(f"{folder} is not a folder; give the results folder or one experiment in it")
    experiments = experiments_in(folder)
    if not experiments:
        raise StoreError(f"{folder} holds no study and no run; `attnsearch search` or `attnsearch train` make them")
    return experiments


def experiments_in(folder: Path) -> dict[str, ExperimentLayout]:
    """As `find_experiments`; empty where there are none."""
    folder = folder.expanduser().absolute()
    experiments: dict[str, ExperimentLayout] = {}
    for candidate in (folder, *sorted(folder.iterdir())) if folder.is_dir() else ():
        try:
            experiment = ExperimentLayout.at(candidate)
        except ConfigError:
            continue
        if candidate.is_dir() and studies_of(experiment):
            if candidate == folder:
                return {experiment.experiment: experiment}
            experiments[experiment.experiment] = experiment
    return experiments


def studies_of(experiment: ExperimentLayout) -> list[StudyLayout]:
    """The studies of an experiment, by name; a folder that holds one trial and no study is one of them."""
    return sorted([*experiment.studies(), *_plain_runs(experiment)], key=lambda layout: layout.study)


def _plain_runs(experiment: ExperimentLayout) -> list[StudyLayout]:
    if not experiment.directory.is_dir():
        return []
    layouts = []
    for folder in sorted(path for path in experiment.directory.iterdir() if path.is_dir()):
        try:
            layout = experiment.study(folder.name)
        except ConfigError:
            continue  # another folder, such as `artifacts`
        if is_plain_run(layout):
            layouts.append(layout)
    return layouts
