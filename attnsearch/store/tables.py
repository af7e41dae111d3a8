"""Our tables beside Optuna's, and the views that keep their documented columns.

A study is named by the UUID in its attributes, because Optuna reuses its ids. Epochs and scores are nearly all that a
database holds: there, studies and metrics are small numbers, and a row has the values of many metrics of one epoch.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    column,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite

PREFIX = "attnsearch_"
SCHEMA = 2
"""Version of these tables; raised by a change that older code must not write to."""
BLOCK = 16
"""Metrics whose values share a row of `values_table`: metric `id` has column `id % BLOCK` of block `id // BLOCK`."""
VALUES = tuple(f"value_{index}" for index in range(BLOCK))

metadata = MetaData()


def _table(name: str, *columns: Any) -> Table:
    """A table whose rows lie in its primary key on SQLite, which stores each key twice otherwise."""
    return Table(PREFIX + name, metadata, *columns, sqlite_with_rowid=False)


def _of_trial(study: Column[Any]) -> tuple[Column[Any], Column[Any]]:
    """The first columns of a table about the trials of studies."""
    return study, Column("trial", Integer, primary_key=True, autoincrement=False)


meta_table = Table(
    f"{PREFIX}meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", String(200), nullable=False),
)

studies_table = Table(
    f"{PREFIX}studies",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uuid", String(36), nullable=False, unique=True),
)

metrics_table = Table(
    f"{PREFIX}metrics",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("split", String(8), nullable=False),
    Column("name", String(128), nullable=False),
    UniqueConstraint("split", "name"),
)

values_table = _table(
    "epoch_values",
    *_of_trial(Column("study", Integer, primary_key=True, autoincrement=False)),
    Column("epoch", Integer, primary_key=True),  # from 1
    Column("block", Integer, primary_key=True),
    *(Column(name, Double) for name in VALUES),  # NULL = not measured, or undefined
)

scorings_table = Table(
    f"{PREFIX}scorings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("study", Integer, nullable=False),
    Column("trial", Integer, nullable=False),
    Column("digest", String(64), nullable=False),  # of checkpoint, images, settings and version
    Column("split", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("settings", String(4096), nullable=False),  # JSON
    UniqueConstraint("study", "trial", "digest"),
)

score_values_table = _table(
    "score_values",
    Column("scoring", Integer, primary_key=True, autoincrement=False),
    Column("metric", Integer, primary_key=True, autoincrement=False),
    Column("value", Double),  # mean over the images where it is defined; NULL = none
    Column("standard_error", Double),  # of that mean; NULL = of fewer than two images
    Column("n_images", Integer, nullable=False),
    Column("n_undefined", Integer, nullable=False),
)

artifacts_table = _table(
    "artifacts",
    *_of_trial(Column("study", String(36), primary_key=True)),  # UUID
    Column("kind", String(64), primary_key=True),
    Column("path", String(1024), nullable=False),  # POSIX, relative to the experiment's folder
    Column("shape", String(128), nullable=False),  # "200x3x14x14"; empty for other files than arrays
    Column("dtype", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

leases_table = _table(
    "leases",
    *_of_trial(Column("study", String(36), primary_key=True)),  # UUID
    Column("attempt", Integer, nullable=False),  # 0 = never claimed
    Column("worker", String(200), nullable=False),
    Column("expires_at", Double, nullable=False),  # UTC seconds since 1970
    Column("epoch", Integer, nullable=False),  # last finished one of any attempt
    Column("epoch_at_claim", Integer, nullable=False),
    Column("stalled", Integer, nullable=False),  # attempts in a row that finished no new epoch
    Column("state", String(8), nullable=False),  # held | released | taken
)

evaluations_table = _table(
    "test_evaluations",
    Column("study", String(36), primary_key=True),  # UUID
    Column("n", Integer, primary_key=True, autoincrement=False),  # from 1
    Column("time", String(20), nullable=False),  # ISO 8601, UTC
    Column("trial", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("split", String(8), nullable=False),
    Column("worker", String(200), nullable=False),
)

_COLUMN = " ".join(f"WHEN {index} THEN v.{name}" for index, name in enumerate(VALUES))
VIEWS = {
    f"{PREFIX}epochs": f"""
        SELECT * FROM (
            SELECT s.uuid AS study, v.trial, v.epoch, m.split, m.name AS metric,
                CASE m.id % {BLOCK} {_COLUMN} END AS value
            FROM {values_table.name} v
            JOIN {studies_table.name} s ON s.id = v.study
            JOIN {metrics_table.name} m ON m.id / {BLOCK} = v.block
        ) AS measured WHERE value IS NOT NULL
    """,
    f"{PREFIX}scores": f"""
        SELECT s.uuid AS study, g.trial, g.digest, m.name AS metric, v.value, v.standard_error, g.split, g.version,
            g.settings, v.n_images, v.n_undefined
        FROM {scorings_table.name} g
        JOIN {studies_table.name} s ON s.id = g.study
        JOIN {score_values_table.name} v ON v.scoring = g.id
        JOIN {metrics_table.name} m ON m.id = v.metric
    """,
}
"""Name -> SELECT. Tables of version 1 had these names, and these columns but for `standard_error`."""
scores_view = table(
    f"{PREFIX}scores",
    *map(column, ("study", "trial", "digest", "metric", "value", "standard_error", "split", "version", "settings")),
    *map(column, ("n_images", "n_undefined")),
)

of_version_1 = MetaData()


def _old_table(name: str, *columns: Column[Any]) -> Table:
    study, trial = Column("study", String(36), primary_key=True), Column("trial", Integer, primary_key=True)
    return Table(PREFIX + name, of_version_1, study, trial, *columns)


old_epochs_table = _old_table(
    "epochs",
    Column("epoch", Integer, primary_key=True),
    Column("split", String(8), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("value", Double),
)

old_scores_table = _old_table(
    "scores",
    Column("digest", String(64), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("value", Double),
    Column("split", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("settings", String(4096), nullable=False),
    Column("n_images", Integer, nullable=False),
    Column("n_undefined", Integer, nullable=False),
)


def create_missing(connection: Connection) -> None:
    """Creates the tables and views that are not there, and notes their version."""
    metadata.create_all(connection)
    views = inspect(connection).get_view_names()
    for name, query in VIEWS.items():
        if name not in views:
            connection.execute(text(f"CREATE VIEW {name} AS {query}"))
    row = insert_into(connection, meta_table).values(key="schema", value=str(SCHEMA))
    connection.execute(row.on_conflict_do_nothing())


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT in the dialect of the connection."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def upsert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """Replaces rows of the same key: PostgreSQL lets two processes delete before both insert."""
    insert = insert_into(connection, table)
    changed = {column.name: insert.excluded[column.name] for column in table.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=changed)


def schema_of(connection: Connection) -> int:
    """The version of the tables."""
    return int(connection.execute(select(meta_table.c.value).where(meta_table.c.key == "schema")).scalar_one())
