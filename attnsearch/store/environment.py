"""What is stored of the environment: a whitelist, with no variables, paths, host or user names."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TypedDict

import attnsearch

PACKAGES = (
    *("torch", "torchvision", "timm", "safetensors", "numpy", "scipy", "pandas", "pillow"),
    *("optuna", "sqlalchemy", "pydantic"),
)
_GIT_TIMEOUT_S = 10


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
    """What a reader needs to repeat a run.

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
