"""Reads what may be damaged, foreign or of another version: databases before they are opened, and files of the results.

Whatever breaks becomes one line with the place and the fix. Nothing is created or written.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import create_engine, inspect, text

from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.files import explain_os_error
from attnsearch.store.servers import CONNECT_TIMEOUT_S, server_errors
from attnsearch.store.tables import PREFIX, SCHEMA
from attnsearch.store.urls import driver_url, near_names, redact, shown, sqlite_path, untouched_uri

if TYPE_CHECKING:
    from numpy.typing import NDArray

DatabaseState = Literal["absent", "unfinished", "ours"]
Model = TypeVar("Model", bound="Content")

MAX_REASON = 200
"""Characters of a reason that are shown, because it may quote damaged content at any length."""
_MAX_DIGITS = 10
_REVISION = "SELECT version_num FROM alembic_version"
_SCHEMA = f"SELECT value FROM {PREFIX}meta WHERE key = 'schema'"
_OPTUNA_TABLES = frozenset({"studies", "trials", "version_info"})


@dataclass(frozen=True)
class _Contents:
    """What identifies the program that made a database; None where the table is missing."""

    tables: frozenset[str]
    optuna_revision: str | None
    schema: str | None


def inspect_database(
    url: str, *, must_exist: bool = False, is_current: bool = False, is_thorough: bool = True
) -> DatabaseState:
    """Whether the database is there and ours; it is not touched.

    Args:
        must_exist: readers set it; for them an absent or empty database is an error.
        is_current: refuses tables of an earlier version, which readers can use and a worker cannot.
        is_thorough: looks at all pages of a file, as a search does before it writes.
    Returns:
        "absent" also for an empty file or an empty server database, which a creator killed at once leaves behind;
        "unfinished" while Optuna's tables are missing, which a creator killed later leaves behind.
    Raises:
        StoreError: a foreign, corrupt, newer or too old database, a folder, one that cannot be read, or a missing one.
        ConfigError: not a URL of a usable kind.
    """
    path = sqlite_path(url)
    if path is not None and not _is_there(path, must_exist=must_exist):
        return "absent"
    contents = _read_server(url) if path is None else _read_file(path, is_thorough=is_thorough)
    if not contents.tables:
        if must_exist:
            raise StoreError(f"{shown(url)} is empty, start a search or `attnsearch train` first")
        return "absent"
    _check_ours(contents.tables, shown(url))
    if must_exist and contents.optuna_revision is None:  # written last; a reader must wait for it
        raise StoreError(f"{shown(url)} holds no study yet, start a search or wait until it has made the tables")
    _check_version(contents, shown(url), SCHEMA if is_current else 1)
    return "ours" if contents.optuna_revision is not None else "unfinished"


def _is_there(path: Path, *, must_exist: bool) -> bool:
    try:
        if path.is_dir():
            raise StoreError(f"{path} is a folder, name the database file in it (usually hypSearch.db)")
        if path.exists():
            return True
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}), check the rights of its folders") from error
    if not must_exist:
        return False
    near = near_names(path)
    hint = f"did you mean {' or '.join(near)}?" if near else "start a search to create it"
    raise StoreError(f"database {path} does not exist, {hint}")


def _read_file(path: Path, *, is_thorough: bool) -> _Contents:
    """What an SQLite file holds, read through SQLite alone.

    Opened in any other way, it would lose the POSIX locks of this whole process when that handle is closed, after which
    other processes delete the write-ahead log under a connection that this one still has open.
    """
    try:
        if path.stat().st_size == 0:
            return _Contents(frozenset(), None, None)
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}), give this user the right to read it") from error
    try:
        with contextlib.closing(sqlite3.connect(untouched_uri(path), uri=True, timeout=CONNECT_TIMEOUT_S)) as db:
            if is_thorough:
                _check_pages(db)
            return _read_sqlite(db)
    except (sqlite3.Error, ValueError) as error:
        if "not a database" in str(error):
            raise StoreError(f"{path} is not an SQLite database, choose another storage") from error
        if "locked" in str(error):
            raise StoreError(
                f"{path} is locked by another process, as while its tables are brought to another version; try again "
                "once that has ended"
            ) from error
        raise StoreError(
            f"{path} cannot be used as a database ({error}), restore it from an `attnsearch export` "
            "or move it away together with its -wal file"
        ) from error


def _check_pages(db: sqlite3.Connection) -> None:
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {' '.join(str(verdict).split())}")


def _read_sqlite(db: sqlite3.Connection) -> _Contents:
    names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    tables = frozenset(str(row[0]) for row in names)

    return _contents(tables, lambda query: (db.execute(query).fetchone() or (None,))[0])


def _read_server(url: str) -> _Contents:
    with server_errors(url):
        engine = create_engine(driver_url(url), connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
        try:
            with engine.connect() as connection:
                tables = frozenset(inspect(connection).get_table_names())
                return _contents(tables, lambda query: connection.execute(text(query)).scalar())
        finally:
            engine.dispose()


def _contents(tables: frozenset[str], read: Callable[[str], object]) -> _Contents:
    """What the tables hold; `read` returns the first value of a query, None where there is none."""
    revision = read(_REVISION) if "alembic_version" in tables else None
    schema = read(_SCHEMA) if f"{PREFIX}meta" in tables else None
    return _Contents(tables, None if revision is None else str(revision), None if schema is None else str(schema))


def _check_ours(tables: Collection[str], name: str) -> None:
    if any(table.startswith(PREFIX) for table in tables):
        return
    kind = "an Optuna database of another program" if _OPTUNA_TABLES.issubset(tables) else "another program's database"
    raise StoreError(
        f"{name} is {kind} (it has the tables {', '.join(sorted(tables)[:5])}), choose a storage of its own"
    )


def _check_version(contents: _Contents, name: str, oldest: int) -> None:
    if f"{PREFIX}meta" in contents.tables:
        _check_schema(contents.schema or "", name, oldest)
    known, head = optuna_revisions()
    if contents.optuna_revision is None or not known or contents.optuna_revision == head:
        return
    if contents.optuna_revision in known:
        raise StoreError(
            f"{name} has the older Optuna schema {contents.optuna_revision!r}, "
            "bring it to this one with `optuna storage upgrade --storage URL`"
        )
    raise StoreError(
        f"{name} has the Optuna schema {contents.optuna_revision!r}, newer than the installed one {head!r}, "
        "update with pip install -U optuna"
    )


def _check_schema(written: str, name: str, oldest: int) -> None:
    if not _is_version(written):
        raise StoreError(
            f"{name} is damaged (the version of its tables is {written[:20]!r}), restore it from an `attnsearch export`"
        )
    schema = int(written)
    if schema > SCHEMA:
        raise StoreError(
            f"{name} was written by a newer attnsearch (tables of version {schema}, this one knows {SCHEMA}), "
            "update with pip install -U attnsearch"
        )
    if schema < oldest:
        raise StoreError(
            f"{name} was written by an earlier attnsearch (tables of version {schema}), start its search again, "
            "which brings them to this version"
        )


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _MAX_DIGITS


@cache
def optuna_revisions() -> tuple[frozenset[str], str]:
    """Schema revisions that the installed Optuna knows, and the one it writes.

    Read from the text of its migration scripts, because importing them imports all of Optuna (more than a second).
    Empty where Optuna keeps them elsewhere; then only Optuna itself checks, when it opens the database.
    """
    spec = importlib.util.find_spec("optuna")
    if spec is None or spec.origin is None:
        return frozenset(), ""
    scripts = Path(spec.origin).parent.glob("storages/_rdb/alembic/versions/*.py")
    text_of = [script.read_text(encoding="utf-8") for script in scripts]
    known = {match for script in text_of for match in re.findall(r'^revision = "(.+)"', script, re.MULTILINE)}
    older = {match for script in text_of for match in re.findall(r'^down_revision = "(.+)"', script, re.MULTILINE)}
    heads = known - older
    return (frozenset(known), heads.pop()) if len(heads) == 1 else (frozenset(), "")


class Content(BaseModel):
    """What a JSON file of the results must hold; other keys stay."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class _Version(Content):
    format: int


@contextlib.contextmanager
def content_errors(path: Path, fix: str, *, what: str = "cannot be read") -> Iterator[None]:
    """Turns whatever the content of a file raises while it is read into a `StoreError` that names file and fix.

    Parsers raise nearly anything on damaged bytes, and all of it means the same here; keep the block to reading.

    Args:
        what: the predicate of the message, before the reason.
    """
    try:
        yield
    except AttnSearchError:
        raise
    except OSError as error:
        raise explain_os_error(error, path) from error
    except Exception as error:
        raise StoreError(f"{path} {what} ({reason_of(error)}), {fix}") from error


@contextlib.contextmanager
def database_content_errors(url: str) -> Iterator[None]:
    """Turns whatever the rows of a database raise while they become objects, in Optuna too, into a `StoreError`."""
    try:
        yield
    except AttnSearchError:
        raise
    except Exception as error:
        raise StoreError(
            f"database {shown(url)} cannot be read ({reason_of(error)}); check its disk or server, "
            "or restore it from an `attnsearch export`"
        ) from error


def reason_of(error: BaseException) -> str:
    """The first line of the innermost cause of an error, with its type unless that is `ValueError`."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    else:
        message = str(error).strip().partition("\n")[0]
        text = message if type(error) is ValueError and message else f"{type(error).__name__}: {message}"
    text = "".join(letter if letter.isprintable() else "?" for letter in redact(text))
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def read_json(path: Path, model: type[Model], *, version: int, fix: str) -> Model:
    """A JSON file that holds its own `format`.

    Raises:
        StoreError: the file is missing or damaged, or of another format.
    """
    with content_errors(path, fix):
        text = path.read_bytes()
        stored = _Version.model_validate_json(text).format
        if stored != version:
            raise StoreError(f"{path} has the format {stored}, this version reads {version}, update attnsearch")
        return model.model_validate_json(text)


def open_array(path: Path, fix: str) -> NDArray[Any]:
    """A `.npy` file mapped read-only; it may not hold Python objects.

    Raises:
        StoreError: the file is missing, cut off or no array.
    """
    import numpy as np

    with content_errors(path, fix, what="is not a whole .npy file"):
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array
