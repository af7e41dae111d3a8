"""What a cluster is told that places workers: the command of one, and the database that all of them reach."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attnsearch.errors import ConfigError
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import connection_url, redact, sqlite_path
from attnsearch.types import URL_VARIABLE


def worker_words(layout: StudyLayout, *, overrides: Sequence[str] = (), plugins: Sequence[str] = ()) -> list[str]:
    """What follows `python` in the command of a worker; it means the same in every current folder.

    Args:
        overrides: `key=value` settings of the machines.
        plugins: modules, or files relative to the current folder of this process.
    """
    named = (str(Path(name).absolute()) if name.endswith(".py") else name for name in plugins)
    options = [word for name in named for word in ("--plugin", name)]
    return ["-m", "attnsearch", "worker", str(layout.study_dir), *overrides, *options]


def require_server(storage: str | None) -> str:
    """The storage as it was written, if it is a database that workers on several machines reach.

    Raises:
        ConfigError: there is none, it is an SQLite file, or not a usable URL.
    """
    if storage is None or sqlite_path(connection_url(storage)) is not None:
        named = "an SQLite file" if storage is None else redact(storage)
        raise ConfigError(
            f"{named} cannot coordinate workers on several machines: create the study with a postgresql:// storage, "
            f"and name it by --storage URL or {URL_VARIABLE}"
        )
    return storage
