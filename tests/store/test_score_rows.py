"""Means of scores in the database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine

from attnsearch.errors import LeaseLost
from attnsearch.store.epochs import read_epochs, write_epochs
from attnsearch.store.image_scores import ImageScore, ScoreTable, make_table
from attnsearch.store.leases import Leases
from attnsearch.store.score_rows import read_score_rows, write_score_rows
from attnsearch.types import EpochRecord


def table(digest: str = "d1", deletions: tuple[float, ...] = (0.25, 0.75), **about: Any) -> ScoreTable:
    rows = [ImageScore(str(index), {"deletion": value, "sparsity": 0.5}, {}) for index, value in enumerate(deletions)]
    described = {"version": 1, "split": "val", "settings": {"n_steps": 2}, "checkpoint": {"epoch": 2}}
    return make_table(rows, (), {**described, "digest": digest, **about})


def test_each_number_carries_its_version_and_settings(engine: Engine) -> None:
    write_score_rows(engine, "uuid", 3, attempt=None, table=table(deletions=(0.25, math.nan)))
    found = read_score_rows(engine, "uuid").set_index("metric").loc["deletion"]
    assert (found["trial"], found["split"], found["value"], found["version"]) == (3, "val", 0.25, 1)
    assert (found["n_images"], found["n_undefined"], json.loads(found["settings"])) == (2, 1, {"n_steps": 2})


def test_undefined_mean_is_nan(engine: Engine) -> None:
    write_score_rows(engine, "uuid", 0, attempt=None, table=table(deletions=(math.nan,)))
    found = read_score_rows(engine, "uuid").set_index("metric")["value"]
    assert math.isnan(found["deletion"])
    assert found["sparsity"] == 0.5


def test_same_scoring_replaces_itself_and_another_one_stands_beside_it(engine: Engine) -> None:
    for one in (table("d1"), table("d2", version=2), table("d1", deletions=(1.0, 1.0))):
        write_score_rows(engine, "uuid", 0, attempt=None, table=one)
    rows = read_score_rows(engine, "uuid")
    deletion = rows[rows["metric"] == "deletion"]
    assert dict(zip(deletion["digest"], deletion["value"], strict=True)) == {"d1": 1.0, "d2": 0.5}


def test_one_scoring_written_by_two_at_once_stands_there_once(engine: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: write_score_rows(engine, "uuid", 0, attempt=None, table=table()), range(16)))
    assert read_score_rows(engine, "uuid")["metric"].tolist() == ["deletion", "sparsity"]


def test_scores_of_a_running_trial_join_the_metrics_of_its_kept_epoch(
    engine: Engine, record: Callable[..., EpochRecord]
) -> None:
    attempt = Leases(engine, "uuid").claim(0, "here:1:a", duration_s=100.0)
    write_epochs(engine, "uuid", 0, attempt, [record(epoch, "val", sparsity=0.125) for epoch in (1, 2, 3)])
    for epoch in (1, 2):  # the second time, another epoch is kept
        write_score_rows(engine, "uuid", 0, attempt=attempt, table=table(checkpoint={"epoch": epoch}))
    epochs = read_epochs(engine, "uuid").set_index("epoch")
    assert epochs["val/deletion"].dropna().to_dict() == {2: 0.5}
    assert (epochs["val/sparsity"] == 0.125).all()  # what the epoch measured itself stays


def test_lost_attempt_writes_no_scores(engine: Engine) -> None:
    leases = Leases(engine, "uuid")
    attempt = leases.claim(0, "here:1:a", duration_s=100.0)
    leases.take_back(0)
    with pytest.raises(LeaseLost):
        write_score_rows(engine, "uuid", 0, attempt=attempt, table=table())
    assert read_score_rows(engine, "uuid").empty
