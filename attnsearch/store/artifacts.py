"""The list of files that belong to a trial, with sizes and checksums; paths are relative to the experiment."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Engine, select

from attnsearch.files import disk_errors
from attnsearch.store import schema
from attnsearch.store.damage import database_content_errors, open_array, url_of
from attnsearch.store.database import transaction
from attnsearch.store.leases import require_lease
from attnsearch.store.servers import repeated


@dataclass(frozen=True)
class FileRecord:
    """One file: `path` is POSIX and relative to the experiment's folder; `shape` and `dtype` are of a `.npy` only."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    bytes: int


def describe_file(path: Path, experiment_dir: Path) -> FileRecord:
    """Reads the file once and describes it.

    Raises:
        StoreError: it cannot be read.
        ValueError: it lies outside the experiment's folder.
    """
    relative = path.relative_to(experiment_dir).as_posix()
    with disk_errors(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        n_bytes = file.tell()
    shape, dtype = _array_header(path) if path.suffix == ".npy" else ((), "")
    return FileRecord(relative, shape, dtype, digest, n_bytes)


def _array_header(path: Path) -> tuple[tuple[int, ...], str]:
    array = open_array(path, "evaluate the trial again")
    return array.shape, str(array.dtype)


@repeated
def write_artifacts(
    engine: Engine, study_uuid: str, number: int, *, attempt: int | None, files: Mapping[str, FileRecord]
) -> None:
    """Lists files of a trial by kind, such as "maps" or "kept"; a kind listed before is replaced.

    Args:
        attempt: checked against the lease in the same transaction; None for a plain run.
    Raises:
        LeaseLost: another attempt owns the trial; nothing was written.
        StoreError: the database refuses.
    """
    if not files:
        return
    key = {"study": study_uuid, "trial": number}
    rows = [{**key, "kind": kind, **asdict(file), "shape": _shape_text(file.shape)} for kind, file in files.items()]
    with transaction(engine) as connection:
        if attempt is not None:
            require_lease(connection, study_uuid, number, attempt)
        insert = schema.insert_into(connection, schema.artifacts)
        changed = {name: insert.excluded[name] for name in ("path", "shape", "dtype", "sha256", "bytes")}
        upsert = insert.on_conflict_do_update(index_elements=list(schema.artifacts.primary_key.columns), set_=changed)
        connection.execute(upsert, rows)


@repeated
def read_artifacts(
    engine: Engine, study_uuid: str, numbers: Collection[int] | None = None
) -> dict[int, dict[str, FileRecord]]:
    """Trial number -> kind -> file; `numbers` None = all trials.

    Raises:
        StoreError: the database refuses.
    """
    table = schema.artifacts
    query = select(table).where(table.c.study == study_uuid).order_by(table.c.trial, table.c.kind)
    if numbers is not None:
        query = query.where(table.c.trial.in_(list(numbers)))
    found: dict[int, dict[str, FileRecord]] = {}
    with database_content_errors(url_of(engine)), transaction(engine) as connection:
        for row in connection.execute(query):
            file = FileRecord(row.path, _shape(row.shape), row.dtype, row.sha256, row.bytes)
            found.setdefault(row.trial, {})[row.kind] = file
    return found


def _shape_text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split("x")) if text else ()
