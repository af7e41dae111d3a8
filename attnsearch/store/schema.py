"""Our tables beside Optuna's; a study is named by the UUID in its attributes, because Optuna reuses its own ids."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Connection, Double, Integer, MetaData, String, Table
from sqlalchemy.dialects import postgresql, sqlite

PREFIX = "attnsearch_"
SCHEMA = 1
"""Version of these tables; raised by a change that older code must not write to."""

metadata = MetaData()

meta = Table(
    f"{PREFIX}meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", String(200), nullable=False),
)

epochs = Table(
    f"{PREFIX}epochs",
    metadata,
    Column("study", String(36), primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),  # from 1
    Column("split", String(8), primary_key=True),
    Column("metric", String(128), primary_key=True),
    Column("value", Double),  # NULL = undefined (NaN), which SQLite cannot hold
)

scores = Table(
    f"{PREFIX}scores",
    metadata,
    Column("study", String(36), primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("digest", String(64), primary_key=True),  # of checkpoint, images, settings and version
    Column("metric", String(128), primary_key=True),
    Column("value", Double),  # mean over the images where it is defined; NULL = none
    Column("split", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("settings", String(4096), nullable=False),  # JSON
    Column("n_images", Integer, nullable=False),
    Column("n_undefined", Integer, nullable=False),
)

artifacts = Table(
    f"{PREFIX}artifacts",
    metadata,
    Column("study", String(36), primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("kind", String(64), primary_key=True),
    Column("path", String(1024), nullable=False),  # POSIX, relative to the experiment's folder
    Column("shape", String(128), nullable=False),  # "200x3x14x14"; empty for other files than arrays
    Column("dtype", String(32), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
)

leases = Table(
    f"{PREFIX}leases",
    metadata,
    Column("study", String(36), primary_key=True),
    Column("trial", Integer, primary_key=True),
    Column("attempt", Integer, nullable=False),  # 0 = never claimed
    Column("worker", String(200), nullable=False),
    Column("expires_at", Double, nullable=False),  # UTC seconds since 1970
    Column("epoch", Integer, nullable=False),  # last finished one of any attempt
    Column("epoch_at_claim", Integer, nullable=False),
    Column("stalled", Integer, nullable=False),  # attempts in a row that finished no new epoch
    Column("state", String(8), nullable=False),  # held | released | taken
)


def insert_into(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT in the dialect of the connection."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)
