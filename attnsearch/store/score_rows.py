"""Means of the scores of a trial in the database, each with the version and the settings that it was measured with."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from attnsearch.metrics.registry import score_metrics
from attnsearch.store import schema
from attnsearch.store.damage import database_content_errors, url_of
from attnsearch.store.database import transaction
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.leases import require_lease
from attnsearch.store.servers import repeated

if TYPE_CHECKING:
    import pandas as pd


@repeated
def write_score_rows(engine: Engine, study_uuid: str, number: int, *, attempt: int | None, table: ScoreTable) -> None:
    """Puts the means of one scoring beside those of others; the same scoring replaces itself.

    Those of a running trial also become metrics of its kept epoch, as the accuracy is; there an undefined score counts,
    see `ScoreTable.trial_means`.

    Args:
        attempt: of the running trial, checked against the lease in the same transaction; None for a trial that has
            ended, whose epochs stay as they are.
    Raises:
        LeaseLost: another attempt owns the trial; nothing was written.
        StoreError: the database refuses, or was made before there were scores.
    """
    rows = _rows(study_uuid, number, table)
    scores = schema.scores
    same = (scores.c.study == study_uuid, scores.c.trial == number, scores.c.digest == table.digest)
    with transaction(engine) as connection:
        if attempt is not None:
            require_lease(connection, study_uuid, number, attempt)
            _write_to_epoch(connection, study_uuid, number, table)
        connection.execute(delete(scores).where(*same))
        connection.execute(_upsert(connection), rows)


def _upsert(connection: Connection) -> sqlite.Insert | postgresql.Insert:
    """Another process may have written the same scoring since the deletion: PostgreSQL lets both delete first."""
    insert = schema.insert_into(connection, schema.scores)
    keys = list(schema.scores.primary_key.columns)
    changed = {column.name: insert.excluded[column.name] for column in schema.scores.columns if not column.primary_key}
    return insert.on_conflict_do_update(index_elements=keys, set_=changed)


def _rows(study_uuid: str, number: int, table: ScoreTable) -> list[dict[str, Any]]:
    shared = {
        "study": study_uuid,
        "trial": number,
        "digest": table.digest,
        "split": str(table.about["split"]),
        "version": int(table.about["version"]),
        "settings": json.dumps(table.about["settings"], sort_keys=True),
        "n_images": len(table.image_ids),
    }
    undefined = table.n_undefined()
    rows = [
        {**shared, "metric": name, "value": _finite_or_null(mean), "n_undefined": undefined.get(name, 0)}
        for name, mean in table.means().items()
    ]
    return [{**row, "n_images": table.about["n_archived"]} if row["metric"] in table.whole else row for row in rows]


def _write_to_epoch(connection: Connection, study_uuid: str, number: int, table: ScoreTable) -> None:
    """The scores that no epoch measures, as rows of the kept epoch; those of an earlier kept epoch go."""
    epochs = schema.epochs
    key = {"study": study_uuid, "trial": number, "split": str(table.about["split"])}
    kept = int(table.about["checkpoint"]["epoch"])
    of_trial = (epochs.c.study == study_uuid, epochs.c.trial == number)
    scores = [metric.name for metric in score_metrics()]
    connection.execute(delete(epochs).where(*of_trial, epochs.c.metric.in_(scores)))
    rows = [{**key, "epoch": kept, "metric": name, "value": mean} for name, mean in table.trial_means().items()]
    if rows:
        connection.execute(schema.insert_into(connection, epochs), rows)


def _finite_or_null(value: float) -> float | None:
    return None if math.isnan(value) else value


@repeated
def read_score_rows(engine: Engine, study_uuid: str) -> pd.DataFrame:
    """All scorings of a study: a row per trial, scoring and metric.

    Returns:
        Columns `trial`, `split`, `metric`, `value` (NaN = undefined), `n_images`, `n_undefined`, `version`, `settings`
        (JSON) and `digest`, sorted by the first three. Rows of different versions or settings must not be compared.
    Raises:
        StoreError: the database refuses, or was made before there were scores.
    """
    import pandas as pd

    table = schema.scores
    columns = ("trial", "split", "metric", "value", "n_images", "n_undefined", "version", "settings", "digest")
    query = select(*(table.c[name] for name in columns)).where(table.c.study == study_uuid)
    query = query.order_by(table.c.trial, table.c.split, table.c.metric, table.c.digest)
    with database_content_errors(url_of(engine)):
        with transaction(engine) as connection:
            rows = connection.execute(query).all()
        frame = pd.DataFrame([tuple(row) for row in rows], columns=list(columns))
        return frame.astype({"value": "float64"})
