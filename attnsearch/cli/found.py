"""Finds studies and experiments in the results folder by name or path."""

from __future__ import annotations

from pathlib import Path

from attnsearch.config.load import load_stored_study
from attnsearch.errors import ConfigError, suggest
from attnsearch.search.handle import StudyHandle, open_handle
from attnsearch.search.trials import reader_url, rows_of
from attnsearch.store.damage import database_content_errors
from attnsearch.store.layout import ExperimentLayout, StudyLayout


def all_studies(root: Path) -> list[StudyLayout]:
    """Every study below a results folder, by experiment and name."""
    folders = sorted(path.parent for path in root.glob("*/*/study.yaml"))
    return [_layout(folder) for folder in folders]


def find_study(name: str, root: Path) -> StudyLayout:
    """A study by its bare name, `EXPERIMENT/NAME`, or the path of its folder or `study.yaml`.

    Raises:
        ConfigError: there is none, or several; the message lists them.
    """
    path = Path(name)
    folder = path.parent if path.name == "study.yaml" else path
    if (folder / "study.yaml").is_file():
        return _layout(folder)
    studies = all_studies(root)
    found = [study for study in studies if name in (study.study, _title(study))]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError(
            f"study {name!r} exists in several experiments, write one of: {', '.join(map(_title, found))}"
        )
    if runs := _runs_named(name, root):
        table = runs[0] / "trials/00000/epochs.csv"
        raise ConfigError(f"{name!r} is a run of `attnsearch train`, not a study; its epochs are in {table}")
    known = [_title(study) for study in studies]
    hint = suggest(name, [*known, *(study.study for study in studies)])
    raise ConfigError(f"no study {name!r} in {root}{hint}; known: {', '.join(known) or _none_in(root)}")


def find_run(name: str, root: Path) -> StudyLayout:
    """A study, or a run of `attnsearch train`, which lies like a study of one trial.

    Raises:
        ConfigError: there is none, or several; the message lists the studies.
    """
    runs = _runs_named(name, root)
    if len(runs) > 1:
        raise ConfigError(f"run {name!r} exists in several experiments, write one of: {', '.join(map(str, runs))}")
    return _layout(runs[0]) if len(runs) == 1 else find_study(name, root)


def _runs_named(name: str, root: Path) -> list[Path]:
    """The folders of runs of `attnsearch train` by a bare name, `EXPERIMENT/NAME` or path."""
    below = [
        folder for folder in sorted(root.glob("*/*")) if name in (folder.name, f"{folder.parent.name}/{folder.name}")
    ]
    return [
        folder
        for folder in (Path(name), *below)
        if (folder / "trials/00000").is_dir() and not (folder / "study.yaml").exists()
    ]


def runs_in(name: str, root: Path) -> list[StudyLayout]:
    """Every study and run of an experiment, by its bare name or folder; none where there is no such experiment."""
    for folder in (root / name, Path(name)):
        if folder.is_dir() and not (folder / "trials").is_dir():
            return [_layout(path.parent) for path in sorted(folder.glob("*/trials"))]
    return []


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
    known = sorted({study.experiment for study in all_studies(root)})
    raise ConfigError(
        f"no experiment {name!r} in {root}{suggest(name, known)}; known: {', '.join(known) or _none_in(root)}"
    )


def find_results(path: Path, root: Path) -> Path:
    """A results folder, or an experiment by its bare name or folder; a name is first looked up among the results.

    Raises:
        ConfigError: there is none; the message lists the experiments.
    """
    for folder in (root / path, path):
        if any(folder.glob("*/trials")):
            return folder
    if path.is_dir():
        return path
    if len(path.parts) > 1:
        raise ConfigError(f"{path} is no folder; give the results folder or one experiment in it")
    return find_experiment(str(path), root).directory


def open_study(layout: StudyLayout, storage: str | None) -> StudyHandle:
    """A handle on a study that has a folder.

    Args:
        storage: as `reader_url`.
    Raises:
        ConfigError, StoreError: as `reader_url`; also a database that is gone or damaged.
    """
    loaded, url = load_stored_study(layout.study_yaml), reader_url(layout, storage)
    with database_content_errors(url):
        handle = open_handle(loaded, layout, url)
    rows_of(handle.study, url)  # so that no command meets a damaged trial half-way
    return handle


def _none_in(root: Path) -> str:
    if root.is_dir():
        return "none"
    return f"none, as there is no folder {root.absolute()}; go to where you searched, or write --results DIR"


def _layout(folder: Path) -> StudyLayout:
    folder = folder.absolute()
    return StudyLayout(folder.parents[1], folder.parent.name, folder.name)


def _title(study: StudyLayout) -> str:
    return f"{study.experiment}/{study.study}"
