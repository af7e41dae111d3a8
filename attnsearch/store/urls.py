"""Database URLs: what they may be, which file they mean, and how they are shown."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from attnsearch.config.base import expand, is_variable, variable_values
from attnsearch.errors import ConfigError
from attnsearch.files import existing_ancestor
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.types import URL_VARIABLE

if TYPE_CHECKING:
    from sqlalchemy import URL

BACKENDS = ("sqlite", "postgresql")
REMOVED = "***"
# The password may itself hold '@', ':' or '/', so it reaches to the last '@' of the word.
_CREDENTIALS = re.compile(r"(?<=://)(?P<user>[^:/@\s]*)(?::(?P<password>\S*))?@")
_SECRET_PARAMETER = re.compile(r"(?P<before>[?&\s](?:(?:ssl)?password|user)=)(?P<secret>[^&\s]+)", re.IGNORECASE)
_CREDENTIAL_PARTS = ("username", "password")
_WHOLE_WORD_BELOW = 12  # characters; `postgres` is a common value, and part of every URL
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "9p", "afs")


def default_url(layout: StudyLayout | ExperimentLayout) -> str:
    """The URL of the experiment's SQLite file, absolute so that it means the same in every process."""
    return sqlite_url(layout.database)


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, absolute."""
    from sqlalchemy import URL

    return URL.create("sqlite", database=os.fspath(path.expanduser().absolute())).render_as_string()


def connection_url(written: str) -> str:
    """The URL that a user wrote, its $VARIABLES expanded; `hide` then replaces their values and its credentials.

    Raises:
        ConfigError: not a usable URL, or one from a `study.yaml` of the results, which holds no credentials.
    """
    _hide(written, expand(written))
    if f"{REMOVED}@" in written:
        raise ConfigError(
            f"storage {redact(written)!r} has lost its user name and password; write storage=URL, or set {URL_VARIABLE}"
        )
    parse_url(expand(written))
    return expand(written)


_hidden: dict[str, str] = {}
"""Text that must not be shown -> what stands in its place."""


def _hide(written: str, expanded: str) -> None:
    """Remembers the values of variables, the parts of the URL that they fill, and credentials as drivers quote them."""
    before = _parts(written)
    for key, value in _parts(expanded).items():
        as_written = before.get(key, REMOVED)
        if value != as_written:
            _hidden[value] = _mask(as_written) if key in _CREDENTIAL_PARTS else as_written
        elif key in _CREDENTIAL_PARTS:
            _hidden.update({f"{quote}{value}{quote}": f"{quote}{REMOVED}{quote}" for quote in "\"'"})
    _hidden.update({value: f"${name}" for name, value in variable_values(written).items() if value})


def _parts(url: str) -> dict[str, str]:
    """The parts of a URL that have a value; none where it cannot be taken apart."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return {}
    parts = {key: str(getattr(parsed, key) or "") for key in (*_CREDENTIAL_PARTS, "host", "port", "database")}
    queries = {f"?{key}": ",".join([value] if isinstance(value, str) else value) for key, value in parsed.query.items()}
    return {key: value for key, value in {**parts, **queries}.items() if value}


def hide(text: str) -> str:
    """`text` with each value that came out of a variable of a storage replaced by the name of the variable."""
    if not _hidden:
        return text
    words = sorted(_hidden, key=len, reverse=True)
    return re.sub("|".join(map(_pattern, words)), lambda found: _hidden[found[0]], text)


def _pattern(value: str) -> str:
    """Short values, which may be part of a common word, are found as whole words only."""
    pattern = re.escape(value)
    return rf"(?<!\w){pattern}(?!\w)" if len(value) < _WHOLE_WORD_BELOW else pattern


def url_named(written: str | None, layout: StudyLayout | ExperimentLayout) -> str:
    """The database that a user named, or the experiment's own file.

    Raises:
        ConfigError: as `connection_url`.
    """
    return connection_url(written) if written else default_url(layout)


def redact(text: str) -> str:
    """As `hide`, and with user name and password of every database URL replaced by `***`; names of variables stay."""

    def masked(found: re.Match[str]) -> str:
        password = "" if found["password"] is None else f":{_mask(found['password'])}"
        return f"{_mask(found['user'])}{password}@"

    text = _CREDENTIALS.sub(masked, hide(text))
    return _SECRET_PARAMETER.sub(lambda found: found["before"] + _mask(found["secret"]), text)


def _mask(secret: str) -> str:
    return secret if not secret or is_variable(secret) else REMOVED


def parse_url(url: str) -> URL:
    """The URL of a kind of database that the package can use.

    Raises:
        ConfigError: not a URL, or another kind of database.
    """
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"storage must be a URL such as sqlite:///results/CUB/hypSearch.db, got {redact(url)!r}"
        ) from error
    if parsed.get_backend_name() not in BACKENDS:
        raise ConfigError(f"storage must start with sqlite:// or postgresql://, got {redact(url)!r}")
    return parsed


def driver_url(url: str) -> str:
    """The URL that engines are made from: `postgresql://` alone means psycopg 3, a driver that it names stays.

    Raises:
        ConfigError: as `parse_url`.
    """
    parsed = parse_url(url)
    if parsed.drivername != "postgresql":
        return url
    return parsed.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def sqlite_path(url: str) -> Path | None:
    """The absolute file behind an SQLite URL; None for a database on a server.

    Raises:
        ConfigError: not a usable URL, or an SQLite database in memory, which other processes cannot see.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite":
        return None
    database = parsed.database or ""
    if database.startswith("file:"):
        database = unquote(database.removeprefix("file:").split("?")[0])
        database = re.sub(r"^//[^/]*(?=/)", "", database)
    if not database or ":memory:" in database or parsed.query.get("mode") == "memory":
        raise ConfigError(f"storage must be a file, workers cannot share a database in memory, got {redact(url)!r}")
    return Path(database).expanduser().absolute()


def shown(url: str) -> str:
    """How messages call the database: its file, or its URL without user name and password."""
    path = sqlite_path(url)
    return redact(url) if path is None else hide(str(path))


def read_only_uri(path: Path) -> str:
    """The SQLite URI that opens `path` for reading only.

    A reader of a WAL database needs its `-shm` file. Where the folder is read-only and no writer has left one, nobody
    can be writing, and `immutable` lets SQLite read without it.
    """
    idle = not _side_file(path, "-wal").exists() and not _side_file(path, "-shm").exists()
    locked_folder = not os.access(path.parent, os.W_OK)
    return f"file:{quote(os.fspath(path))}?mode=ro{'&immutable=1' if idle and locked_folder else ''}"


def untouched_uri(path: Path) -> str:
    """As `read_only_uri`, but creates no side file in a writable folder either: for one short read."""
    idle = not _side_file(path, "-wal").exists()
    return f"file:{quote(os.fspath(path))}?mode=ro{'&immutable=1' if idle else ''}"


def near_names(path: Path) -> list[str]:
    """Paths that exist and differ from the missing `path` by a small misspelling of one name."""
    ancestor = existing_ancestor(path)
    missing = path.absolute().relative_to(ancestor).parts
    if not missing or not ancestor.is_dir():
        return []
    names = [entry.name for entry in ancestor.iterdir() if not entry.name.startswith(".")]
    near = difflib.get_close_matches(missing[0], names, n=3)
    return [str(ancestor.joinpath(name, *missing[1:])) for name in near]


def network_file_system(path: Path, *, mounts: Path = Path("/proc/self/mounts")) -> str | None:
    """Kind of the network file system that holds `path`; None on a local disk or where the system does not tell.

    Args:
        mounts: the kernel's table of mounts: device, mount point, kind, …
    """
    if not mounts.exists():
        return None
    where = existing_ancestor(path).resolve()
    rows = [line.split()[1:3] for line in mounts.read_text(errors="replace").splitlines()]
    above = [(mount, kind) for mount, kind in rows if where.is_relative_to(mount.replace("\\040", " "))]
    _, kind = max(above, key=lambda row: len(row[0]), default=("", ""))
    return kind if kind.startswith(_NETWORK_FILE_SYSTEMS) else None


def _side_file(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
