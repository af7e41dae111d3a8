"""The contract of `TrialStore` on SQLite and PostgreSQL, and what is the database's alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from sqlalchemy import Engine

from attnsearch.errors import StoreError
from attnsearch.store.database import Connections, connect_writer
from attnsearch.store.epochs import best_epochs_in
from attnsearch.store.file_records import check_recorded, describe_file
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_store import SqlTrialStore, open_trial_records, opened_trial_store
from attnsearch.testing.store_contract import OpenStore, TrialStoreContract, epoch_record
from tests.store.copies import CopyContract


class TestSqlTrialStore(CopyContract, TrialStoreContract):
    @pytest.fixture
    def open_store(self, engine: Engine, url: str, layout: StudyLayout) -> OpenStore:
        layout.study_dir.mkdir(parents=True, exist_ok=True)
        return lambda study_uuid, **clock: SqlTrialStore(Connections(url, engine), study_uuid, layout, **clock)

    def test_two_threads_write_their_trials(self, store: SqlTrialStore) -> None:
        def write(number: int) -> None:
            for last in range(1, 11):
                store.write_epochs(number, [epoch_record(epoch) for epoch in range(1, last + 1)], attempt=None)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, (1, 2)))
        assert store.read_epochs()["epoch"].tolist() == [*range(1, 11), *range(1, 11)]

    @pytest.mark.parametrize("n_metrics", [3, 40])
    @pytest.mark.parametrize("is_higher", [True, False])
    def test_first_epochs_that_are_best_are_found(self, store: SqlTrialStore, n_metrics: int, is_higher: bool) -> None:
        """As in the table of all epochs, for values of which many are equal or undefined."""
        rng, names = np.random.default_rng(n_metrics), [f"accuracy_{index}" for index in range(n_metrics)]
        for number in range(1, 7):
            cells = rng.choice([*np.arange(5) / 7, np.nan], size=(6, n_metrics)).tolist()
            measured = [dict(zip(names, values, strict=True)) for values in cells]
            records = [replace(epoch_record(at), metrics=values) for at, values in enumerate(measured, 1)]
            store.write_epochs(number, records, attempt=None)
        frame, keys = store.read_epochs(), [f"train/{name}" for name in (names[0], names[-1], names[1])]
        for numbers in ([1, 2, 3, 4, 5, 6], [5, 2], [6]):
            all_of_them = best_epochs_in(frame[frame["trial"].isin(numbers)], keys)
            found = store.read_best_epochs(numbers, keys, is_higher=is_higher)
            assert found.n_trials == all_of_them.n_trials > 0
            firsts = [
                one.values[(one.values.argmax if is_higher else one.values.argmin)(axis=0)].tolist()
                for one in (found, all_of_them)
            ]
            assert firsts[0] == firsts[1]

    def test_reader_sees_what_was_written(self, store: SqlTrialStore, url: str) -> None:
        store.write_epochs(7, [epoch_record(1)], attempt=None)
        assert open_trial_records(url, "study").read_epochs()["trial"].tolist() == [7]


def test_store_is_opened_by_its_url(engine: Engine, url: str, layout: StudyLayout) -> None:
    connect_writer(url, optuna.storages.RDBStorage, patience_s=0.0)[1].close()
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    with opened_trial_store(url, "study", layout) as store:
        store.write_epochs(7, [epoch_record(1)], attempt=None)
    assert open_trial_records(url, "study").read_epochs()["trial"].tolist() == [7]


def test_store_of_an_absent_database_is_not_opened(file_url: str, layout: StudyLayout) -> None:
    with pytest.raises(StoreError, match="does not exist"), opened_trial_store(file_url, "study", layout):
        pass
    assert not layout.database.exists()


@pytest.mark.slow
def test_processes_write_while_a_reader_looks(
    engine: Engine, url: str, layout: StudyLayout, run_processes: Callable[..., list[str]]
) -> None:
    records = open_trial_records(url, "study")
    seen: list[list[int]] = []

    def look() -> None:
        seen.append(records.read_epochs().groupby("trial")["epoch"].max().tolist())

    attempts = run_processes([("write", url, "study", number, 20) for number in range(3)], meanwhile=look)

    assert attempts == ["1", "1", "1"]
    assert all(1 <= epoch <= 20 for epochs in seen for epoch in epochs)
    assert len(records.read_epochs()) == 3 * 20


def test_array_is_described_by_shape_size_and_checksum(layout: StudyLayout) -> None:
    path = layout.trial(7).archive("val").maps
    path.parent.mkdir(parents=True)
    np.save(path, np.zeros((4, 3, 2, 2), dtype=np.float32))
    file = describe_file(path, layout.experiment_dir)

    assert file.path == "br_npa/trials/00007/attMaps_val.npy"
    assert (file.shape, file.dtype, file.bytes) == ((4, 3, 2, 2), "float32", path.stat().st_size)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_file_is_named(layout: StudyLayout) -> None:
    with pytest.raises(StoreError, match=r"best\.safetensors: No such file"):
        describe_file(layout.trial(7).best, layout.experiment_dir)


def test_file_outside_the_experiment_is_refused(layout: StudyLayout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.npy"):
        describe_file(tmp_path / "x.npy", layout.experiment_dir)


def test_file_that_changed_after_it_was_recorded_is_refused(layout: StudyLayout) -> None:
    path = layout.trial(7).best
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    record = describe_file(path, layout.experiment_dir)
    check_recorded(path, record)
    path.write_bytes(b"Weights")
    check_recorded(path, None)
    with pytest.raises(StoreError, match=rf"best\.safetensors is not the file .* {record.sha256[:12]}.*, restore it"):
        check_recorded(path, record)
