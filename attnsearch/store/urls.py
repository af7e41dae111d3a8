"""Database URLs: what they may be, which file they mean, and how they are shown."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from urllib.parse import quote, unquote

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from attnsearch.errors import ConfigError
from attnsearch.store.files import existing_ancestor
from attnsearch.store.layout import ExperimentLayout, StudyLayout

BACKENDS = ("sqlite", "postgresql")
# The password may itself hold '@', ':' or '/', so it reaches to the last '@' of the word.
_PASSWORD = re.compile(r"(?P<before>://[^:/@\s]*:)(?P<secret>\S*)(?P<after>@)")
_SECRET_PARAMETER = re.compile(r"(?P<before>[?&\s](?:ssl)?password=)(?P<secret>[^&\s]+)(?P<after>)", re.IGNORECASE)
_VARIABLE = re.compile(r"\$(\w+|\{\w+\})")
_NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "lustre", "beegfs", "gpfs", "ceph", "9p", "afs")


def default_url(layout: StudyLayout | ExperimentLayout) -> str:
    """The URL of the experiment's SQLite file, absolute so that it means the same in every process."""
    return sqlite_url(layout.database)


def sqlite_url(path: Path) -> str:
    return URL.create("sqlite", database=os.fspath(path.expanduser().absolute())).render_as_string()


def redact(text: str) -> str:
    """`text` with the password of every database URL in it replaced by `***`."""
    return _replace_secrets(text, keep_variables=False)


def redact_literals(text: str) -> str:
    """As `redact`, but a password that is the name of a `$VARIABLE` and nothing else stays."""
    return _replace_secrets(text, keep_variables=True)


def _replace_secrets(text: str, *, keep_variables: bool) -> str:
    def shown(found: re.Match[str]) -> str:
        is_name = keep_variables and _VARIABLE.fullmatch(found["secret"]) is not None
        return found[0] if is_name else f"{found['before']}***{found['after']}"

    return _SECRET_PARAMETER.sub(shown, _PASSWORD.sub(shown, text))


def parse_url(url: str) -> URL:
    """The URL of a kind of database that the package can use.

    Raises:
        ConfigError: not a URL, or another kind of database.
    """
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
        raise ConfigError(f"storage must be a file, workers cannot share a database in memory, got {url!r}")
    return Path(database).expanduser().absolute()


def shown(url: str) -> str:
    """How messages call the database: its file, or its URL without password."""
    path = sqlite_path(url)
    return redact(url) if path is None else str(path)


def read_only_uri(path: Path) -> str:
    """The SQLite URI that opens `path` for looking only.

    A reader of a WAL database needs its `-shm` file. Where the folder is read-only and no writer has left one, nobody
    can be writing, and `immutable` lets SQLite read without it.
    """
    idle = not _side_file(path, "-wal").exists() and not _side_file(path, "-shm").exists()
    locked_folder = not os.access(path.parent, os.W_OK)
    return f"file:{quote(os.fspath(path))}?mode=ro{'&immutable=1' if idle and locked_folder else ''}"


def untouched_uri(path: Path) -> str:
    """As `read_only_uri`, but creates no side file in a writable folder either: for one short look."""
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
