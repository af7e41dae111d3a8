"""Paths and file names of experiments and studies; those of one trial are in `trial_layout.py`, no others anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from attnsearch.store.names import check_name, name_problem
from attnsearch.store.trial_layout import PublishedLayout, TrialLayout, named_file

Curve = Literal["Del", "Add"]
"""The two causal curves, in the letters of the published file names: deletion and insertion ("addition")."""
SIDE_FILES = ("-wal", "-shm", "-journal")
"""What SQLite appends to the name of a database that is in use."""
STAGING = "publishing"


def _study_problem(value: str) -> str | None:
    if value in ("artifacts", "figures") or value.startswith("hypSearch.db"):
        return "must leave the names of the experiment's own files alone"
    if "_epoch" in value:  # `model<study>_epoch*` must find the files of one study only
        return "must not contain '_epoch', which ends it in the published file names"
    return name_problem(value)


@dataclass(frozen=True)
class ExperimentLayout:
    """The folder whose studies share one database: `<root>/<experiment>`; ConfigError for an unusable name."""

    root: Path
    experiment: str

    def __post_init__(self) -> None:
        check_name("experiment", self.experiment, name_problem(self.experiment))

    @classmethod
    def at(cls, folder: Path) -> ExperimentLayout:
        """The experiment that lies in `folder`."""
        folder = folder.expanduser().absolute()
        return cls(folder.parent, folder.name)

    @property
    def directory(self) -> Path:
        return self.root / self.experiment

    @property
    def database(self) -> Path:
        return self.directory / "hypSearch.db"

    @property
    def artifacts(self) -> Path:
        """Optuna's artifact files, shown by optuna-dashboard."""
        return self.directory / "artifacts"

    @property
    def figures(self) -> Path:
        return self.directory / "figures"

    @property
    def report(self) -> Path:
        return self.directory / "report.html"

    def areas_csv(self, curve: Curve, *, per_image: bool = False) -> Path:
        """One line per model and no header: `attMetrics_<curve>.csv` has means, `…_pop.csv` the area of each image."""
        return self.directory / f"attMetrics_{curve}{'_pop' if per_image else ''}.csv"

    @property
    def areas_lock(self) -> Path:
        """Held while a line of `areas_csv` is replaced."""
        return self.directory / "attMetrics.lock"

    def comparison(self, name: str) -> Path:
        """The table of one comparison: a row per model and metric."""
        return self.directory / f"compare_{name}.csv"

    def comparison_pairs(self, name: str) -> Path:
        """A row per pair of models and metric."""
        return self.directory / f"compare_{name}_pairs.csv"

    @property
    def overview(self) -> Path:
        """The image with which the demo ends."""
        return self.directory / "overview.png"

    def tests_figure(self, name: str) -> Path:
        return self.figures / f"ttest_{name}.png"

    def study(self, name: str) -> StudyLayout:
        return StudyLayout(self.root, self.experiment, name)

    def studies(self) -> list[StudyLayout]:
        """The studies that have a folder here, by name; other folders are passed over."""
        names = (path.parent.name for path in self.directory.glob("*/study.yaml"))  # none without the folder
        return [self.study(name) for name in sorted(names) if _study_problem(name) is None]


@dataclass(frozen=True)
class StudyLayout:
    """The files of one study; a name that cannot be a folder is a ConfigError."""

    root: Path
    experiment: str
    study: str

    def __post_init__(self) -> None:
        check_name("experiment", self.experiment, name_problem(self.experiment))
        check_name("study", self.study, _study_problem(self.study))

    @property
    def shared(self) -> ExperimentLayout:
        """The files of all studies of the experiment."""
        return ExperimentLayout(self.root, self.experiment)

    @property
    def experiment_dir(self) -> Path:
        return self.shared.directory

    @property
    def database(self) -> Path:
        return self.shared.database

    @property
    def artifacts(self) -> Path:
        return self.shared.artifacts

    @property
    def study_dir(self) -> Path:
        return self.experiment_dir / self.study

    @property
    def study_yaml(self) -> Path:
        return self.study_dir / "study.yaml"

    @property
    def classes_csv(self) -> Path:
        return self.study_dir / "classes.csv"

    @property
    def data_csv(self) -> Path:
        """The images that a study was given as a table; its data set reads them from here."""
        return self.study_dir / "data.csv"

    @property
    def token(self) -> Path:
        """Tells that this is the folder of the study in the database, which holds the same text."""
        return self.study_dir / ".token"

    @property
    def published_json(self) -> Path:
        """The manifest of the published files; written last."""
        return self.study_dir / "published.json"

    @property
    def confirmation_json(self) -> Path:
        return self.study_dir / "confirmation.json"

    @property
    def forecast_json(self) -> Path:
        return self.study_dir / "forecast.json"

    @property
    def floors_json(self) -> Path:
        """What metrics of validation reach without any information, by the grid of the maps."""
        return self.study_dir / "floors_val.json"

    @property
    def staging(self) -> Path:
        """Where a publication is made before it replaces the one before it."""
        return self.study_dir / STAGING

    @property
    def staged_json(self) -> Path:
        """The manifest of a publication that is made and not yet in place."""
        return self.staging / "published.json"

    @property
    def test_evaluations(self) -> Path:
        """One line for each time that a trial was evaluated on a split that search and training never see."""
        return named_file(self.study_dir, "test_evaluations.csv", before="test_looks.csv")

    @property
    def ask_lock(self) -> Path:
        return self.study_dir / "ask.lock"

    @property
    def run_lock(self) -> Path:
        """Held by the one process that runs the study."""
        return self.study_dir / "run.lock"

    def worker_log(self, index: int | str) -> Path:
        """The log of a worker process by its number, or on a cluster by what its scheduler calls it; `*` is all."""
        return self.study_dir / f"worker{index}.log"

    def logged(self, logger: str) -> Path:
        """The folder of one logger, such as `mlflow`; what lies in it is the logger's own."""
        return self.study_dir / "logs" / logger

    @property
    def thumbnails(self) -> Path:
        return self.study_dir / "thumbnails"

    def thumbnail(self, image_id: str) -> Path:
        """The small JPEG copy of one image; keeps the id's own suffix, so that `a.png` and `a.jpg` stay apart.

        Raises:
            ValueError: the id would lead out of the folder.
        """
        parts = PurePosixPath(image_id).parts
        if not parts or image_id.startswith("/") or ".." in parts:
            raise ValueError(f"image id must be a path below the data root, got {image_id!r}")
        return self.thumbnails.joinpath(*parts[:-1], parts[-1] + ".jpg")

    def trial(self, number: int) -> TrialLayout:
        return TrialLayout(self.study_dir / "trials" / f"{number:05d}")

    def staged_files(self) -> list[Path]:
        """The files of a publication that is made and not yet in place, without its manifest."""
        return sorted(path for path in self.staging.rglob("*") if path.is_file() and path != self.staged_json)

    def published(self, epoch: int) -> PublishedLayout:
        """The flat files of the chosen trial."""
        return PublishedLayout(self.experiment_dir, self.study, epoch)

    def published_files(self) -> list[Path]:
        """All published files of any trial; of a publication that was cut off, the temporary ones too."""
        kinds = ("model", "attMaps", "norm", "saliency", "images", "archive", "retrieval", "features", "ranks")
        patterns = [f"{start}{kind}{self.study}_epoch*" for kind in kinds for start in ("", ".")]
        best = [path for pattern in patterns for path in self.experiment_dir.glob(pattern)]
        return sorted([*best, *(path for path in self.study_dir.glob("pareto/*/*") if path.is_file())])

    def pareto(self, number: int, epoch: int) -> PublishedLayout:
        """The published set of one Pareto trial."""
        return PublishedLayout(self.study_dir / "pareto" / f"{number:05d}", self.study, epoch)

    def curves_npy(self, curve: Curve) -> Path:
        """(N, S + 1, 2): cells that are left, and the class probability."""
        return self.experiment_dir / f"attMetr{curve}_{self.study}.npy"


def study_folder(path: Path) -> Path:
    """The folder of a study, which is named by itself or by the `study.yaml` in it."""
    return path.parent if path.name == "study.yaml" else path


def creation_lock_of(database: Path) -> Path:
    """Held while tables or a study are created in an SQLite file."""
    return database.with_name("create.lock")


def copy_of_version(database: Path, schema: int) -> Path:
    """An SQLite file as it was before its tables were brought to the next version."""
    return database.with_name(f"{database.name}.schema{schema}")


def is_live_state(path: Path) -> bool:
    """Whether the name belongs to a running process only: lock files and SQLite's side files."""
    return path.suffix == ".lock" or path.name.endswith(SIDE_FILES)
