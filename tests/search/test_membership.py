"""Which processes may take part in a study: folder, versions, data, and SQLite on one machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnsearch.data import DataTables
from attnsearch.data.tables import ImageTable, tables_digest
from attnsearch.errors import ConfigError, StoreError
from attnsearch.processes import ProcessName
from attnsearch.search import membership as module
from attnsearch.search.handle import StudyHandle
from attnsearch.search.membership import await_checkpoint, begin, require_member, require_one_machine, seconds_left
from tests.search.studies import ON_EACH_DATABASE

Open = Callable[..., StudyHandle]


def tables_of(*image_ids: str, labels: tuple[int, ...] | None = None) -> DataTables:
    numbers = np.array(labels or [0] * len(image_ids), dtype=np.int64)
    paths = tuple(Path(name) for name in image_ids)
    table = ImageTable("train", ("a", "b"), image_ids, paths, numbers)
    return DataTables(Path(), ("a", "b"), table, replace(table, split="val"), None, "hash")


TABLES = tables_of("a/1.png", "b/2.png", labels=(0, 1))


@ON_EACH_DATABASE
def test_a_study_that_was_begun_can_be_joined_from_its_folder(open_tiny: Open) -> None:
    handle = open_tiny()
    begin(handle, TABLES)
    token = handle.layout.token.read_text()
    begin(handle, TABLES)  # again, as each search does
    assert handle.layout.token.read_text() == token
    require_member(handle, TABLES)


def test_another_results_folder_is_refused(open_tiny: Open, tmp_path: Path) -> None:
    handle = open_tiny()
    begin(handle, TABLES)
    other = replace(handle, layout=replace(handle.layout, root=tmp_path / "elsewhere"))
    for join in (require_member, begin):
        with pytest.raises(
            StoreError, match=r"elsewhere.* is not the folder of study 'hunt'.*one shared results folder"
        ):
            join(other, TABLES)
    assert not other.layout.token.exists()


def test_a_folder_that_a_network_file_system_shows_late_is_waited_for(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = open_tiny()
    begin(handle, TABLES)
    hidden = handle.layout.token.rename(handle.layout.token.with_name("hidden"))
    monkeypatch.setattr(time, "sleep", lambda _seconds: hidden.rename(handle.layout.token))
    module.require_folder(handle, wait_s=60)
    assert handle.layout.token.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"__version__": "9.9"}, r"attnsearch: there '0.*', here '9\.9'"),
        ({"VERSION": 99}, "version of the scores: there .*, here 99"),
    ],
)
def test_another_version_is_refused(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], words: str
) -> None:
    handle = open_tiny()
    begin(handle, TABLES)
    for name, value in change.items():
        monkeypatch.setattr(module.attnsearch if name == "__version__" else module, name, value)
    with pytest.raises(ConfigError, match=words):
        require_member(handle, TABLES)
    begin(handle, TABLES)  # a person who starts the study again decides for all
    require_member(handle, TABLES)


@pytest.mark.parametrize("tables", [tables_of("a/1.png"), tables_of("a/1.png", "b/2.png", labels=(0, 0))])
def test_other_images_or_labels_are_refused(open_tiny: Open, tables: DataTables) -> None:
    handle = open_tiny()
    begin(handle, TABLES)
    with pytest.raises(ConfigError, match="images: there"):
        require_member(handle, tables)


def test_images_have_the_same_digest_wherever_they_lie() -> None:
    moved = replace(TABLES.train, paths=tuple(Path("/else") / path for path in TABLES.train.paths))
    assert tables_digest(replace(TABLES, train=moved)) == tables_digest(TABLES)


@ON_EACH_DATABASE
def test_each_start_counts_failures_anew(open_tiny: Open) -> None:
    handle = open_tiny(time_limit_s=100.0)
    assert handle.started_at == 0.0
    begin(handle, TABLES)
    first = handle.started_at
    assert abs(first - handle.store.now()) < 60
    left = seconds_left(handle)
    assert left is not None
    assert 40 < left <= 100
    begin(handle, TABLES)
    assert handle.started_at > first


def test_no_time_is_left_to_count_without_a_limit(open_tiny: Open) -> None:
    assert seconds_left(open_tiny()) is None


OTHER_MACHINE = f"other:{replace(ProcessName.of_this_process(), boot='00000000')}:01ab"


@pytest.mark.parametrize(("worker", "kind", "is_refused"), [
    (OTHER_MACHINE, "nfs4", True),
    (OTHER_MACHINE, None, False),
    (f"other:{ProcessName.of_this_process()}:01ab", "nfs4", False),
    ("other:17:01ab", "nfs4", False),
], ids=["network", "local", "same machine", "version 0.1"])  # fmt: skip
def test_sqlite_on_a_network_file_system_is_for_one_machine(
    open_tiny: Open, monkeypatch: pytest.MonkeyPatch, worker: str, kind: str | None, is_refused: bool
) -> None:
    handle = open_tiny()
    handle.store.leases.claim(0, worker, duration_s=60)
    monkeypatch.setattr(module, "network_file_system", lambda _path: kind)
    if not is_refused:
        require_one_machine(handle)
        return
    with pytest.raises(StoreError, match="other runs trials of this study, and SQLite cannot coordinate"):
        require_one_machine(handle)
    handle.store.leases.renew(0, 1, duration_s=-1)
    require_one_machine(handle)


@pytest.fixture
def on_server(open_tiny: Open, monkeypatch: pytest.MonkeyPatch) -> StudyHandle:
    """A study as if it were on a server, with a trial that has finished five epochs."""
    handle = open_tiny()
    attempt = handle.store.leases.claim(0, "other:1:a", duration_s=60)
    handle.store.leases.renew(0, attempt, duration_s=60, epoch=5)
    monkeypatch.setattr(module, "sqlite_path", lambda _url: None)
    return handle


def save_resume(handle: StudyHandle, epoch: int) -> None:
    path = handle.layout.trial(0).resume(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"format": 2, "records": [{"epoch": number} for number in range(1, epoch + 1)]}, path)


def test_a_checkpoint_that_a_network_file_system_shows_late_is_waited_for(
    on_server: StudyHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = iter([2, 4, 5])  # the database may know one epoch more than the disk
    monkeypatch.setattr(time, "sleep", lambda _seconds: save_resume(on_server, next(shown)))
    await_checkpoint(on_server, 0, lambda: False)
    assert list(shown) == [5]


def test_a_lost_checkpoint_is_an_error_and_no_new_beginning(
    on_server: StudyHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_WAIT_S", 0.0)
    save_resume(on_server, 3)
    with pytest.raises(StoreError, match="no checkpoint of trial 0 from epoch 4 on"):
        await_checkpoint(on_server, 0, lambda: False)
    await_checkpoint(on_server, 0, lambda: True)  # asked to stop, it looks no more
    await_checkpoint(on_server, 1, lambda: False)  # nobody has begun this one
