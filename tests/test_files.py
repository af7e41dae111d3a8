from __future__ import annotations

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch import files
from attnsearch.errors import LeaseLost, StoreError
from attnsearch.files import (
    FileCache,
    atomic_path,
    atomic_write,
    atomic_write_array,
    explain_os_error,
    free_bytes,
    is_temporary,
    locked,
    make_folder,
    remove_stale_temporaries,
    require_free_bytes,
    settled_stamp,
    stamp_of,
    temporary_path,
)
from attnsearch.processes import ProcessName


def raising(code: int) -> Callable[..., Any]:
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def lost() -> None:
    raise LeaseLost("attempt 1")


def test_text_is_written_as_utf8_with_plain_line_ends(tmp_path: Path) -> None:
    atomic_write(tmp_path / "new" / "a.txt", "é\n")

    assert (tmp_path / "new" / "a.txt").read_bytes() == b"\xc3\xa9\n"


def test_array_round_trips_without_pickle(tmp_path: Path) -> None:
    array = np.array([[0.1, np.nan], [np.inf, -3]], dtype=np.float32)
    atomic_write_array(tmp_path / "a.npy", array)

    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), array)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        atomic_write_array(tmp_path / "b.npy", np.array([{}]))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_full_disk_keeps_the_old_file_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "old")
    monkeypatch.setattr(os, broken, raising(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"a\.txt: No space left on device; \d+ MiB are free.*prune-files"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_while_writing_leaves_no_temporary(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_lost_lease_is_noticed_before_the_rename(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic_write(path, "of attempt 2")

    with pytest.raises(LeaseLost):
        atomic_write(path, "of attempt 1", check=lost)
    assert path.read_text() == "of attempt 2"
    assert list(tmp_path.iterdir()) == [path]


def test_library_that_hides_a_full_disk_is_seen_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _path: 4096)

    with (
        pytest.raises(StoreError, match=r"best\.safetensors: No space left"),
        atomic_path(tmp_path / "best.safetensors"),
    ):
        raise RuntimeError("PytorchStreamWriter failed writing file")


def test_other_errors_of_the_writer_pass_through(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), atomic_path(tmp_path / "a"):
        raise RuntimeError("wrong shape")


@pytest.mark.parametrize(
    ("code", "mend"),
    [(errno.EACCES, "right to use it"), (errno.EROFS, "mounted read-only"), (errno.EIO, "check the disk")],
)
def test_os_error_becomes_one_line_with_path_and_mend(code: int, mend: str) -> None:
    error = explain_os_error(OSError(code, os.strerror(code)), Path("/results/x.csv"))

    assert str(error).startswith(f"/results/x.csv: {os.strerror(code)}; ")
    assert mend in str(error)
    assert "\n" not in str(error)


def test_os_error_names_the_file_that_it_knows_better(tmp_path: Path) -> None:
    missing = tmp_path / "missing.csv"

    with pytest.raises(StoreError, match=r"missing\.csv: No such file"), files.disk_errors(tmp_path / "other"):
        missing.read_bytes()


def test_file_in_the_way_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").touch()

    with pytest.raises(StoreError, match="results"):
        make_folder(tmp_path / "results" / "CUB")


def test_too_little_space_is_refused_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)

    require_free_bytes(tmp_path / "a", 3 * 2**20)
    with pytest.raises(StoreError, match="needs 5 MiB but 3 MiB are free"):
        require_free_bytes(tmp_path / "a", 5 * 2**20)


def test_free_bytes_takes_paths_that_do_not_exist_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "new" / "deep" / "a.npy") > 0


def test_only_old_temporaries_are_removed(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    old, young = temporary_path(tmp_path / "deep" / "a.npy"), temporary_path(tmp_path / "b.npy")
    foreign = tmp_path / ".notes.tmp"
    for path in (old, young, foreign):
        path.touch()
    for path in (old, foreign):
        os.utime(path, (1_000, 1_000))

    assert remove_stale_temporaries(tmp_path) == [old]
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([young, foreign])
    assert remove_stale_temporaries(tmp_path, older_than_s=-60) == [young]


def test_temporaries_of_dead_processes_go_at_once(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    own = ProcessName.of_this_process()
    gone = replace(own, pid=ended.pid)
    of_others = [
        temporary_path(tmp_path / "b.csv"),
        tmp_path / f".of_another_machine.{replace(gone, boot='00000000')}-0123abcd.tmp",
        tmp_path / f".of_another_container.{replace(gone, namespace=1)}-0123abcd.tmp",
        tmp_path / f".of_version_0.1.{ended.pid}-0123abcd.tmp",
    ]
    dead = [tmp_path / f".a.csv.{gone}-0123abcd.tmp", tmp_path / f".c.csv.{replace(own, start=1)}-0123abcd.tmp-wal"]
    for path in (*dead, *of_others):
        path.write_text("half")
    assert all(map(is_temporary, of_others))

    assert remove_stale_temporaries(tmp_path) == dead
    assert all(path.exists() for path in of_others)


def test_age_of_a_temporary_is_judged_by_the_clock_of_its_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten minutes beyond an hour by the clock of this machine, which is wrong."""
    young = tmp_path / ".a.csv.00000000-1-1-1-0123abcd.tmp"
    young.write_text("half")
    monkeypatch.setattr(time, "time", lambda: young.stat().st_mtime + 4200)
    assert remove_stale_temporaries(tmp_path) == []


def test_lock_that_another_holds_is_named_with_the_mend(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ask.lock"
    with (
        locked(path, timeout_s=0),
        pytest.raises(StoreError, match=r"ask\.lock: another process has held this lock for 0 s; end"),
        locked(path, timeout_s=0),
    ):
        pass
    with locked(path, timeout_s=0):
        assert path.exists()


def test_lock_that_the_disk_refuses_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "ask.lock").mkdir()
    with pytest.raises(StoreError, match=r"ask\.lock: .*; check the disk"), locked(tmp_path / "ask.lock", timeout_s=0):
        pass


def test_a_value_is_made_again_when_its_stamp_changes_or_others_came_after_it() -> None:
    cache, made = FileCache[int](2), list[str]()

    def get(key: str, stamp: int) -> int:
        return cache.get(key, stamp, lambda: made.append(key) or len(made))

    assert [get("a", 1), get("a", 1), get("a", 2)] == [1, 1, 2]
    assert [get("b", 1), get("c", 1), get("b", 1), get("a", 2)] == [3, 4, 3, 5]


def test_a_file_that_was_just_written_has_another_stamp_each_time(tmp_path: Path) -> None:
    path = tmp_path / "epochs.csv"
    assert settled_stamp(path) == settled_stamp(path) == stamp_of(path) == ((0, 0, 0),)
    path.write_text("epoch\n")
    assert settled_stamp(path) != settled_stamp(path)
    os.utime(path, (1, 1))
    assert settled_stamp(path) == stamp_of(path)


def test_bytes_of_a_folder_are_those_of_all_files_below(tmp_path: Path) -> None:
    assert files.bytes_below(tmp_path / "missing") == 0
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "b").write_bytes(b"12345")
    (tmp_path / "a").write_bytes(b"12")
    assert files.bytes_below(tmp_path) == 7
