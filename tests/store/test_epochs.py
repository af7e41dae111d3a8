from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine, select

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.store import schema
from attnsearch.store.database import open_reader, transaction
from attnsearch.store.epochs import (
    named_values,
    read_csv,
    read_epochs,
    read_split_scores,
    write_csv,
    write_epochs,
    write_metrics_row,
)
from attnsearch.store.leases import Leases
from attnsearch.types import EpochRecord

STUDY = "0b8a1f5e-8c5d-4a40-9a59-0d2f3c0d7e11"

MakeRecord = Callable[..., EpochRecord]
RunProcesses = Callable[..., list[str]]


def stored(engine: Engine) -> list[tuple[object, ...]]:
    with transaction(engine) as connection:
        return sorted(tuple(row) for row in connection.execute(select(schema.epochs)))


def test_records_come_back_as_one_row_per_epoch(engine: Engine, record: MakeRecord) -> None:
    records = [record(1, loss=0.1 + 0.2, accuracy=0.25), record(1, "val", loss=1 / 3, accuracy=0.5), record(2)]
    write_epochs(engine, STUDY, 7, None, records)
    frame = read_epochs(engine, STUDY)

    assert frame[["trial", "epoch"]].values.tolist() == [[7, 1], [7, 2]]
    first = frame.iloc[0]
    assert (first["train/loss"], first["val/loss"]) == (0.1 + 0.2, 1 / 3)
    assert (first["train/accuracy"], first["val/accuracy"]) == (0.25, 0.5)
    assert (first["train/loss_cross_entropy"], first["train/lr"], first["val/n_images"]) == (0.1 + 0.2, 0.1, 10)
    assert math.isnan(frame.loc[1, "val/accuracy"])


def test_reading_is_limited_to_the_trials_asked_for(engine: Engine, record: MakeRecord) -> None:
    for number in (1, 2, 3):
        write_epochs(engine, STUDY, number, None, [record(1)])
    write_epochs(engine, "another study", 1, None, [record(1)])

    assert read_epochs(engine, STUDY, [3, 1])["trial"].tolist() == [1, 3]
    assert read_epochs(engine, STUDY, [9]).columns.tolist() == ["trial", "epoch"]
    assert len(read_epochs(engine, STUDY)) == 3


def test_nothing_is_written_without_records(engine: Engine) -> None:
    write_epochs(engine, STUDY, 7, 1, [])

    assert stored(engine) == []


def test_writing_again_changes_nothing(engine: Engine, record: MakeRecord) -> None:
    records = [record(1), record(2, accuracy=0.5)]
    write_epochs(engine, STUDY, 7, None, records)
    once = stored(engine)
    write_epochs(engine, STUDY, 7, None, records)

    assert stored(engine) == once
    assert len(once) == 2 * 7 + 1  # loss, its term, n_images and four costs per record, and one metric


def test_resumed_attempt_overwrites_and_forgets_later_epochs(engine: Engine, record: MakeRecord) -> None:
    write_epochs(engine, STUDY, 7, None, [record(epoch, loss=0.9) for epoch in (1, 2, 3)])
    write_epochs(engine, STUDY, 8, None, [record(3)])
    write_epochs(engine, STUDY, 7, None, [record(1, loss=0.9), record(2, loss=0.4)])

    assert read_epochs(engine, STUDY, [7])["train/loss"].tolist() == [0.9, 0.4]
    assert read_epochs(engine, STUDY, [8])["epoch"].tolist() == [3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-308, 0.1])
def test_every_float_survives_database_and_csv(
    engine: Engine, tmp_path: Path, record: MakeRecord, value: float
) -> None:
    records = [record(1, loss=0.5), record(1, "val", sparsity=value)]
    write_epochs(engine, STUDY, 7, None, records)
    write_csv(tmp_path / "epochs.csv", records)

    assert read_epochs(engine, STUDY)["val/sparsity"].tolist() == pytest.approx([value], abs=0, rel=0, nan_ok=True)
    assert read_csv(tmp_path / "epochs.csv")["val_sparsity"].tolist() == pytest.approx(
        [value], abs=0, rel=0, nan_ok=True
    )


def test_stale_attempt_cannot_write(engine: Engine, record: MakeRecord) -> None:
    leases = Leases(engine, STUDY)
    stale = leases.claim(7, "paused", duration_s=300)
    leases.take_back(7)
    attempt = leases.claim(7, "fresh", duration_s=300)
    write_epochs(engine, STUDY, 7, attempt, [record(1, loss=0.4)])

    with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* belongs to attempt 2 \(held, worker 'fresh'\)"):
        write_epochs(engine, STUDY, 7, stale, [record(1, loss=0.9)])
    assert read_epochs(engine, STUDY)["train/loss"].tolist() == [0.4]


def test_attempt_without_any_lease_cannot_write(engine: Engine, record: MakeRecord) -> None:
    with pytest.raises(LeaseLost, match=r"attempt 1 at trial 7 .* belongs to nobody"):
        write_epochs(engine, STUDY, 7, 1, [record(1)])


def test_metric_that_bears_a_reserved_name_or_a_split_is_refused(record: MakeRecord) -> None:
    with pytest.raises(ValueError, match="named loss, seconds"):
        named_values(replace(record(1), metrics={"seconds": 1.0, "loss": 2.0}))
    with pytest.raises(ValueError, match="got 'val/accuracy'"):
        named_values(replace(record(1), metrics={"val/accuracy": 1.0}))


def test_csv_is_one_row_per_epoch_and_reads_with_no_options(tmp_path: Path, record: MakeRecord) -> None:
    path = tmp_path / "epochs.csv"
    write_csv(path, [record(2), record(1, "val", sparsity=0.125), record(1), record(2, "val", accuracy=math.nan)])

    assert path.read_text() == (
        "epoch,train_loss,train_loss_cross_entropy,val_loss,val_loss_cross_entropy,val_sparsity,val_accuracy,"
        "lr,seconds,images_per_s,peak_memory_mb\n"
        "1,0.5,0.5,0.5,0.5,0.125,,0.1,4.0,5.0,64.0\n"
        "2,0.5,0.5,0.5,0.5,,,0.1,4.0,5.0,64.0\n"
    )
    assert pd.read_csv(path)["val_sparsity"].iloc[0] == 0.125


def test_scores_are_one_row(tmp_path: Path) -> None:
    path = tmp_path / "modelx_epoch3_test.csv"
    write_metrics_row(path, {"accuracy": 0.1 + 0.2, "sparsity": math.nan, "loss": 1.0})

    assert path.read_text() == "accuracy,sparsity,loss\n0.30000000000000004,,1.0\n"


def test_csv_of_whole_numbers_comes_back_as_floats(tmp_path: Path, record: MakeRecord) -> None:
    write_csv(tmp_path / "epochs.csv", [record(1, loss=1.0)])
    frame = read_csv(tmp_path / "epochs.csv")

    assert frame["epoch"].dtype == "int64"
    assert frame["train_loss"].dtype == "float64"


def test_lost_lease_keeps_the_csv_of_the_new_owner(tmp_path: Path, record: MakeRecord) -> None:
    def lost() -> None:
        raise LeaseLost("attempt 1")

    path = tmp_path / "epochs.csv"
    write_csv(path, [record(1, loss=0.4)])
    with pytest.raises(LeaseLost):
        write_csv(path, [record(1, loss=0.9)], check=lost)
    assert read_csv(path)["train_loss"].tolist() == [0.4]


@pytest.mark.parametrize("content", ["", "number,loss\n1,2\n", "epoch,train_loss\n1,low\n", "epoch,a\n1,2,3,4\n2\n"])
def test_file_that_is_no_csv_of_epochs_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "epochs.csv"
    path.write_text(content)

    with pytest.raises(StoreError, match=r"epochs\.csv"):
        read_csv(path)


def test_missing_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"epochs\.csv: No such file"):
        read_csv(tmp_path / "epochs.csv")


def test_two_threads_write_their_trials(engine: Engine, record: MakeRecord) -> None:
    def write(number: int) -> None:
        for last in range(1, 11):
            write_epochs(engine, STUDY, number, None, [record(epoch) for epoch in range(1, last + 1)])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, (1, 2)))

    assert read_epochs(engine, STUDY)["epoch"].tolist() == [*range(1, 11), *range(1, 11)]


@pytest.mark.slow
def test_processes_write_while_a_reader_looks(engine: Engine, url: str, run_processes: RunProcesses) -> None:
    reader = open_reader(url)
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(read_epochs(reader, STUDY).groupby("trial")["epoch"].max().tolist())

    attempts = run_processes([("write", url, STUDY, number, 20) for number in range(3)], meanwhile=look)

    assert attempts == ["1", "1", "1"]
    assert all(1 <= epoch <= 20 for epochs in seen for epoch in epochs)
    assert len(read_epochs(reader, STUDY)) == 3 * 20


def test_scores_of_a_split_come_back(tmp_path: Path) -> None:
    write_metrics_row(tmp_path / "a.csv", {"accuracy": 0.1 + 0.2, "road": math.nan})
    found = read_split_scores(tmp_path / "a.csv")
    assert found["accuracy"] == 0.1 + 0.2
    assert math.isnan(found["road"])


@pytest.mark.parametrize("content", [b"", b"accuracy\n", b"accuracy\nx\n", b"accuracy,loss\n0.5\n", b"\xff\n1\n"])
def test_damaged_scores_of_a_split_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.csv cannot be read .*publish the study again"):
        read_split_scores(tmp_path / "a.csv")
