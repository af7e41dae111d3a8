from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.store.epochs import (
    named_values,
    read_csv,
    read_split_scores,
    write_csv,
    write_metrics_row,
)
from attnsearch.testing.store_contract import epoch_record

STUDY = "0b8a1f5e-8c5d-4a40-9a59-0d2f3c0d7e11"

RunProcesses = Callable[..., list[str]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-308, 0.1])
def test_every_float_survives_the_csv(tmp_path: Path, value: float) -> None:
    write_csv(tmp_path / "epochs.csv", [epoch_record(1, loss=0.5), epoch_record(1, "val", sparsity=value)])

    assert read_csv(tmp_path / "epochs.csv")["val_sparsity"].tolist() == pytest.approx(
        [value], abs=0, rel=0, nan_ok=True
    )


def test_metric_that_bears_a_reserved_name_or_a_split_is_refused() -> None:
    with pytest.raises(ValueError, match="named loss, seconds"):
        named_values(replace(epoch_record(1), metrics={"seconds": 1.0, "loss": 2.0}))
    with pytest.raises(ValueError, match="got 'val/accuracy'"):
        named_values(replace(epoch_record(1), metrics={"val/accuracy": 1.0}))


def test_csv_is_one_row_per_epoch_and_reads_with_no_options(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    write_csv(
        path,
        [
            epoch_record(2),
            epoch_record(1, "val", sparsity=0.125),
            epoch_record(1),
            epoch_record(2, "val", accuracy=math.nan),
        ],
    )

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


def test_csv_of_whole_numbers_comes_back_as_floats(tmp_path: Path) -> None:
    write_csv(tmp_path / "epochs.csv", [epoch_record(1, loss=1.0)])
    frame = read_csv(tmp_path / "epochs.csv")

    assert frame["epoch"].dtype == "int64"
    assert frame["train_loss"].dtype == "float64"


def test_lost_lease_keeps_the_csv_of_the_new_owner(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLost("attempt 1")

    path = tmp_path / "epochs.csv"
    write_csv(path, [epoch_record(1, loss=0.4)])
    with pytest.raises(LeaseLost):
        write_csv(path, [epoch_record(1, loss=0.9)], check=lost)
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
