"""Brings the tables of an earlier version to this one, in one transaction: a process that is killed changes nothing."""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection, NullPool, create_engine, func, inspect, select, text
from sqlalchemy.exc import OperationalError

from attnsearch.errors import StoreError
from attnsearch.files import atomic_path
from attnsearch.store.database import database_errors, open_writer, transaction
from attnsearch.store.layout import copy_of_version
from attnsearch.store.tables import (
    BLOCK,
    PREFIX,
    SCHEMA,
    VALUES,
    artifacts_table,
    create_missing,
    leases_table,
    meta_table,
    metadata,
    metrics_table,
    of_version_1,
    old_epochs_table,
    old_scores_table,
    schema_of,
    score_values_table,
    scorings_table,
    studies_table,
    values_table,
)
from attnsearch.store.urls import shown, sqlite_path

logger = logging.getLogger(__name__)

WAIT_S = 10.0
"""How long a migration waits for others to close the database."""
_BEFORE = f"{PREFIX}before_"
_EPOCHS, _SCORES = (f"{_BEFORE}{name}" for name in ("epochs", "scores"))
_PIVOT = ", ".join(f"max(CASE WHEN m.id % {BLOCK} = {index} THEN e.value END)" for index in range(BLOCK))
_COPIES = (
    f"INSERT INTO {studies_table.name} (uuid) SELECT study FROM {_EPOCHS} UNION SELECT study FROM {_SCORES} ORDER BY 1",
    # metrics that most epochs have come first, so that their values fill few rows
    f"""
    INSERT INTO {metrics_table.name} (split, name)
    SELECT split, metric FROM (
        SELECT split, metric, 1 AS n FROM {_EPOCHS} UNION ALL SELECT split, metric, 0 FROM {_SCORES}
    ) AS named GROUP BY split, metric ORDER BY sum(n) DESC, split, metric
    """,
    f"""
    INSERT INTO {values_table.name} (study, trial, epoch, block, {", ".join(VALUES)})
    SELECT s.id, e.trial, e.epoch, m.id / {BLOCK}, {_PIVOT}
    FROM {_EPOCHS} e
    JOIN {studies_table.name} s ON s.uuid = e.study
    JOIN {metrics_table.name} m ON m.split = e.split AND m.name = e.metric
    GROUP BY s.id, e.trial, e.epoch, m.id / {BLOCK} ORDER BY 1, 2, 3, 4
    """,
    f"""
    INSERT INTO {scorings_table.name} (study, trial, digest, split, version, settings)
    SELECT s.id, g.trial, g.digest, max(g.split), max(g.version), max(g.settings)
    FROM {_SCORES} g JOIN {studies_table.name} s ON s.uuid = g.study
    GROUP BY s.id, g.trial, g.digest ORDER BY 1, 2, 3
    """,
    f"""
    INSERT INTO {score_values_table.name} (scoring, metric, value, n_images, n_undefined)
    SELECT n.id, m.id, g.value, g.n_images, g.n_undefined
    FROM {_SCORES} g
    JOIN {studies_table.name} s ON s.uuid = g.study
    JOIN {scorings_table.name} n ON n.study = s.id AND n.trial = g.trial AND n.digest = g.digest
    JOIN {metrics_table.name} m ON m.split = g.split AND m.name = g.metric
    ORDER BY 1, 2
    """,
)


def migrate_database(url: str) -> None:
    """Brings tables of version 1 to this one; does nothing where there are none. Needs `creation_lock`.

    An SQLite file is copied first; the copy stays beside it.

    Raises:
        StoreError: another process uses the database, the copy finds no room, or the disk or the server refuses.
    """
    path = sqlite_path(url)
    if path is not None and not (path.exists() and path.stat().st_size):
        return
    engine = open_writer(url)  # one that may roll back what a process was killed in
    try:
        with transaction(engine) as connection:
            if not inspect(connection).has_table(meta_table.name) or schema_of(connection) >= SCHEMA:
                return
    finally:
        engine.dispose()
    if path is None:
        _migrate_server(url)
    else:
        _migrate_file(url, path)


def _migrate_server(url: str) -> None:
    engine = open_writer(url)
    try:
        with transaction(engine) as connection:
            limits = {"lock_timeout": f"{round(1000 * WAIT_S)}", "statement_timeout": "0"}
            connection.execute(select(*(func.set_config(name, value, True) for name, value in limits.items())))
            of_version_1.create_all(connection)
            connection.execute(
                text(f"LOCK TABLE {old_epochs_table.name}, {leases_table.name} IN ACCESS EXCLUSIVE MODE")
            )
            _refuse_workers(connection, url)
            if schema_of(connection) < SCHEMA:
                _convert(connection, (old_epochs_table.name, old_scores_table.name))
    finally:
        engine.dispose()
    logger.warning("%s: its tables were brought to version %d; older versions cannot use it", shown(url), SCHEMA)


def _refuse_workers(connection: Connection, url: str) -> None:
    """A server does not tell which version a connection is of; a worker that runs a trial holds a lease."""
    table, now = leases_table.c, time.time()
    query = select(table.worker, table.expires_at).where(table.state == "held", table.expires_at > now)
    held = connection.execute(query.order_by(table.expires_at.desc())).first()
    if held is not None:
        raise StoreError(
            f"{shown(url)} has tables of an earlier version, and worker {held.worker!r} still uses them: end its "
            f"search and start again, or wait {held.expires_at - now:.0f} s for its lease if it is gone already"
        )


def _migrate_file(url: str, path: Path) -> None:
    """SQLite leaves the write-ahead log only while no other connection is open, and stays locked from there on.

    The tables change in a new log, which readers pass over where a process was killed; a file that is half-written
    under a rollback journal, none of them could use.
    """
    engine = create_engine(url, connect_args={"timeout": WAIT_S, "isolation_level": None}, poolclass=NullPool)
    copy = copy_of_version(path, SCHEMA - 1)
    with database_errors(engine), engine.connect() as connection:
        try:
            connection.exec_driver_sql("PRAGMA locking_mode = EXCLUSIVE")
            connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
            connection.exec_driver_sql("BEGIN EXCLUSIVE")
        except OperationalError as error:
            raise _in_use(path, error) from error
        connection.exec_driver_sql("ROLLBACK")
        with atomic_path(copy) as temporary:
            connection.exec_driver_sql("VACUUM INTO ?", (str(temporary),))
        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        connection.exec_driver_sql("BEGIN EXCLUSIVE")
        of_version_1.create_all(connection)
        before = (old_epochs_table.name, old_scores_table.name, artifacts_table.name, leases_table.name)
        _convert(connection, before)
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("VACUUM")
    logger.warning(
        "%s: its tables were brought to version %d; the file as it was is kept in %s, delete it when you no longer "
        "need an older version",
        path,
        SCHEMA,
        copy.name,
    )


def _in_use(path: Path, error: OperationalError) -> StoreError | OperationalError:
    if not isinstance(error.orig, sqlite3.OperationalError) or "locked" not in str(error.orig):
        return error
    return StoreError(
        f"database {path} has tables of an earlier version, and another process has it open: end its searches, workers "
        "and dashboards, then start again"
    )


def _convert(connection: Connection, before: tuple[str, ...]) -> None:
    """Makes the tables of this version from those of the last one, which are renamed first and removed in the end."""
    for name in before:
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {_BEFORE}{name.removeprefix(PREFIX)}"))
    metadata.create_all(connection)
    for statement in _COPIES:
        connection.execute(text(statement))
    for table in (artifacts_table, leases_table):
        if table.name in before:
            names = ", ".join(column.name for column in table.columns)
            copied = f"SELECT {names} FROM {_BEFORE}{table.name.removeprefix(PREFIX)} ORDER BY 1, 2"
            connection.execute(text(f"INSERT INTO {table.name} ({names}) {copied}"))
    for name in before:
        connection.execute(text(f"DROP TABLE {_BEFORE}{name.removeprefix(PREFIX)}"))
    create_missing(connection)
    connection.execute(meta_table.update().where(meta_table.c.key == "schema").values(value=str(SCHEMA)))
