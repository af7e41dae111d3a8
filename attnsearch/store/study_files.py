"""The small files of a study: class names, the manifest of what is published, a confirmation, the environment."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypedDict

from pydantic import AfterValidator, Field

import attnsearch
from attnsearch.files import atomic_write, csv_text
from attnsearch.store.inspection import Content, read_json
from attnsearch.store.layout import StudyLayout

MANIFEST_FORMAT = 1
CONFIRMATION_FORMAT = 1
_MANIFEST_FIX = "delete it; the next `attnsearch search` publishes the study again"
_GIT_TIMEOUT_S = 10
PACKAGES = (
    *("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "pandas", "pillow"),
    *("optuna", "sqlalchemy", "pydantic"),
)
"""Those whose versions are stored."""


def write_classes(path: Path, names: Sequence[str]) -> None:
    """Writes `label,class_name`, labels from 0.

    Raises:
        StoreError: the disk refuses.
    """
    atomic_write(path, csv_text([("label", "class_name"), *enumerate(names)]))


def _below(path: str) -> str:
    """A path that stays in the experiment's folder."""
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"must lie in the experiment's folder, got {path!r}")
    return path


Relative = Annotated[str, AfterValidator(_below)]


class _PublishedSet(Content):
    trial: int = Field(ge=0)
    epoch: int = Field(ge=0)
    folder: Relative


class _Manifest(Content):
    sets: list[_PublishedSet] = Field(min_length=1)
    files: list[Relative]


def read_manifest(layout: StudyLayout) -> dict[str, Any] | None:
    """What is published of a study: `study`, `sets` and `files`; None if nothing is, or if a publication was cut off.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    if not layout.published_json.exists():
        return None
    return read_json(layout.published_json, _Manifest, version=MANIFEST_FORMAT, fix=_MANIFEST_FIX).model_dump()


Verdict = Literal["separated", "not separated", "not confirmed"]


class ConfirmedTrial(Content):
    """One setting in one metric: the mean over seeds with its interval, and the one-sided p of the winner against it.

    Attributes:
        p: after Holm's correction; None for the winner, and where there are too few seeds.
    """

    trial: int
    n_seeds: int
    mean: float | None
    low: float | None
    high: float | None
    p: float | None
    is_ahead: bool


class ConfirmedMetric(Content):
    """Whether the trial that the search had as the best in a metric is the best with other seeds.

    Attributes:
        winner: number of that trial, the first of `trials`.
        verdict: "separated" from all others, "not separated" from some, or "not confirmed" where another one is ahead.
    """

    metric: str
    winner: int
    verdict: Verdict
    trials: tuple[ConfirmedTrial, ...]


class Confirmation(Content):
    """What repeating the best trials of a study with fresh seeds has shown.

    Attributes:
        study: that holds the repetitions.
        n_seeds: of each setting; a repetition that failed is missing from `ConfirmedTrial.n_seeds`.
    """

    study: str
    n_seeds: int
    metrics: tuple[ConfirmedMetric, ...]


def write_confirmation(layout: StudyLayout, found: Confirmation) -> None:
    """Writes a confirmation into the folder of the study that it is about, also as a table.

    Raises:
        StoreError: the disk refuses.
    """
    columns = list(ConfirmedTrial.model_fields)
    rows = [
        (one.metric, one.winner, one.verdict, *(getattr(trial, name) for name in columns))
        for one in found.metrics
        for trial in one.trials
    ]
    path = layout.confirmation_json
    atomic_write(path.with_suffix(".csv"), csv_text([("metric", "winner", "verdict", *columns), *rows]))
    atomic_write(path, json.dumps({"format": CONFIRMATION_FORMAT, **found.model_dump(mode="json")}, indent=1) + "\n")


def read_confirmation(layout: StudyLayout) -> Confirmation | None:
    """What `write_confirmation` wrote; None where the best trials were not repeated.

    Raises:
        StoreError: the file is damaged, or of another format.
    """
    path = layout.confirmation_json
    if not path.exists():
        return None
    fix = "delete it; the next `attnsearch confirm` writes it again"
    return read_json(path, Confirmation, version=CONFIRMATION_FORMAT, fix=fix)


class GitState(TypedDict):
    """The checkout that the package runs from."""

    commit: str
    dirty: bool


class Environment(TypedDict):
    """JSON-ready; `packages` holds the installed ones of `PACKAGES`, `git` is None outside a checkout."""

    attnsearch: str
    python: str
    system: str
    packages: dict[str, str]
    devices: list[str]
    git: GitState | None


def describe_environment(devices: Sequence[str] = ()) -> Environment:
    """What a reader needs to repeat a run: a whitelist, with no variables, paths, host or user names.

    Args:
        devices: names such as "NVIDIA H200", found by the caller, because this module does not import torch.
    """
    return Environment(
        attnsearch=attnsearch.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=_package_versions(),
        devices=list(devices),
        git=git_state(Path(attnsearch.__file__).parent),
    )


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_state(package: Path) -> GitState | None:
    """Commit of the checkout whose top level holds the folder `package`; None for an installed package.

    A package installed somewhere inside another project's checkout is none of that commit's content.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != package.resolve().parent:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    changes = _git(package.parent, "status", "--porcelain")
    if commit is None or changes is None:
        return None
    return GitState(commit=commit, dirty=bool(changes))


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command; None where git is missing, refuses or takes too long."""
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
