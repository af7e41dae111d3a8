from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Engine, insert

from attnsearch.errors import ConfigError, StoreError
from attnsearch.files import atomic_write, temporary_path
from attnsearch.store.database import open_reader, reader_arguments, transaction
from attnsearch.store.export import export_experiment
from attnsearch.store.layout import ExperimentLayout, StudyLayout
from attnsearch.store.tables import meta_table
from attnsearch.store.trial_store import open_trial_records
from attnsearch.store.urls import default_url

ROOT = Path(__file__).resolve().parents[2]
STUDY = "0b8a1f5e-8c5d-4a40-9a59-0d2f3c0d7e11"


@pytest.fixture
def url(file_url: str) -> str:
    """Only a file is exported."""
    return file_url


@pytest.fixture
def running(engine: Engine, layout: StudyLayout) -> StudyLayout:
    """An experiment whose database is open, with one finished trial and the traces of a running one."""
    atomic_write(layout.study_yaml, "name: br_npa\n")
    atomic_write(layout.published_json, "{}")
    done, at_work = layout.trial(0), layout.trial(1)
    for path in (done.config, done.best, at_work.log, at_work.resume(1), layout.ask_lock):
        atomic_write(path, path.name)
    temporary_path(at_work.best).write_bytes(b"half")
    with transaction(engine) as connection:
        connection.execute(insert(meta_table), {"key": "k", "value": "v"})
    return layout


def unpack(target: Path, folder: Path) -> list[str]:
    """Unpacks an archive; returns its names, sorted."""
    if target.suffix == ".zip":
        with zipfile.ZipFile(target) as archive:
            archive.extractall(folder)
    else:
        with tarfile.open(target) as archive:
            archive.extractall(folder, filter="data")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".zip"])
def test_copy_holds_the_complete_files_and_the_database(running: StudyLayout, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"copy{suffix}"
    summary = export_experiment(running.experiment_dir, target)

    assert unpack(target, tmp_path / "there") == [
        "CUB/br_npa/published.json",
        "CUB/br_npa/study.yaml",
        "CUB/br_npa/trials/00000/best.safetensors",
        "CUB/br_npa/trials/00000/config.yaml",
        "CUB/br_npa/trials/00001/log.txt",
        "CUB/hypSearch.db",
    ]
    assert (summary.target, summary.n_files, summary.n_vanished) == (target, 5, 0)
    copied = StudyLayout(tmp_path / "there", "CUB", "br_npa")
    assert copied.trial(0).best.read_text() == "best.safetensors"
    with transaction(open_reader(default_url(copied))) as connection:
        assert connection.execute(meta_table.select().where(meta_table.c.key == "k")).one().value == "v"


def test_resume_checkpoints_travel_on_request(running: StudyLayout, tmp_path: Path) -> None:
    export_experiment(running.experiment_dir, tmp_path / "copy.zip", with_resume=True)

    assert "CUB/br_npa/trials/00001/resume.1.pt" in unpack(tmp_path / "copy.zip", tmp_path / "there")


def test_copy_is_made_while_a_writer_holds_the_lock(engine: Engine, running: StudyLayout, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(insert(meta_table), {"key": "uncommitted", "value": "v"})
        export_experiment(running.experiment_dir, tmp_path / "copy.zip")
    unpack(tmp_path / "copy.zip", tmp_path / "there")

    with transaction(open_reader(default_url(ExperimentLayout(tmp_path / "there", "CUB")))) as copied:
        assert [row.key for row in copied.execute(meta_table.select().order_by("key"))] == ["k", "schema"]


def test_archive_names_no_user(running: StudyLayout, tmp_path: Path) -> None:
    export_experiment(running.experiment_dir, tmp_path / "copy.tar.gz")
    with tarfile.open(tmp_path / "copy.tar.gz") as archive:
        owners = {(info.uid, info.gid, info.uname, info.gname) for info in archive}

    assert owners == {(0, 0, "", "")}


def test_target_inside_the_experiment_does_not_hold_itself(running: StudyLayout, tmp_path: Path) -> None:
    target = running.experiment_dir / "copy.zip"
    export_experiment(running.experiment_dir, target)

    assert not any(name.endswith((".tmp", "copy.zip")) for name in unpack(target, tmp_path / "there"))
    assert not any(path.name.startswith(".") for path in running.experiment_dir.iterdir())


def test_relative_paths_are_taken(running: StudyLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export_experiment(Path("results/CUB"), Path("copy.zip"))

    assert "CUB/hypSearch.db" in unpack(tmp_path / "copy.zip", tmp_path / "there")


def test_folder_without_database_is_copied_as_it_is(layout: StudyLayout, tmp_path: Path) -> None:
    atomic_write(layout.trial(0).config, "x")
    export_experiment(layout.experiment_dir, tmp_path / "copy.zip")

    assert unpack(tmp_path / "copy.zip", tmp_path / "there") == ["CUB/br_npa/trials/00000/config.yaml"]


def test_linked_folders_are_followed_once(running: StudyLayout, tmp_path: Path) -> None:
    elsewhere = tmp_path / "big_disk"
    atomic_write(elsewhere / "a.png", "x")
    running.artifacts.symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    export_experiment(running.experiment_dir, tmp_path / "copy.zip")

    assert [name for name in unpack(tmp_path / "copy.zip", tmp_path / "there") if "artifacts" in name] == [
        "CUB/artifacts/a.png"
    ]


def test_file_that_vanishes_meanwhile_is_counted(
    running: StudyLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = zipfile.ZipFile.write

    def remove_first(self: zipfile.ZipFile, path: Path, name: str) -> None:
        if path == running.trial(0).best:
            path.unlink()
        add(self, path, name)

    monkeypatch.setattr(zipfile.ZipFile, "write", remove_first)
    summary = export_experiment(running.experiment_dir, tmp_path / "copy.zip")

    assert (summary.n_files, summary.n_vanished) == (4, 1)


def test_publication_meanwhile_starts_the_copy_again(
    running: StudyLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = zipfile.ZipFile.write
    publications = iter(["first", "second"])

    def publish(self: zipfile.ZipFile, path: Path, name: str) -> None:
        add(self, path, name)
        if path == running.published_json and (manifest := next(publications, None)):
            atomic_write(path, manifest)

    monkeypatch.setattr(zipfile.ZipFile, "write", publish)
    export_experiment(running.experiment_dir, tmp_path / "copy.zip")
    unpack(tmp_path / "copy.zip", tmp_path / "there")

    assert StudyLayout(tmp_path / "there", "CUB", "br_npa").published_json.read_text() == "second"


def test_existing_target_is_left_alone(running: StudyLayout, tmp_path: Path) -> None:
    target = tmp_path / "copy.zip"
    target.write_text("mine")

    with pytest.raises(ConfigError, match=r"copy\.zip exists"):
        export_experiment(running.experiment_dir, target)
    assert target.read_text() == "mine"


def test_unknown_suffix_and_missing_experiment_are_refused(running: StudyLayout, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"end in \.tar\.gz or \.tgz or \.zip, got '.*copy\.rar'"):
        export_experiment(running.experiment_dir, tmp_path / "copy.rar")
    with pytest.raises(ConfigError, match="CUBB is not a folder"):
        export_experiment(running.root / "CUBB", tmp_path / "copy.zip")


def test_database_on_a_server_is_left_to_its_own_tools(running: StudyLayout, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"postgresql://\*\*\*:\*\*\*@host/db lies on a server, copy it with pg_dump"):
        export_experiment(running.experiment_dir, tmp_path / "copy.zip", url="postgresql://ann:pw@host/db")


def test_full_disk_leaves_no_archive(running: StudyLayout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "write", fail)
    (tmp_path / "out").mkdir()

    with pytest.raises(StoreError, match=r"copy\.zip: No space left on device"):
        export_experiment(running.experiment_dir, tmp_path / "out" / "copy.zip")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_publication_in_the_making_stays_out(running: StudyLayout, tmp_path: Path) -> None:
    atomic_write(running.staged_json, "{}")
    export_experiment(running.experiment_dir, tmp_path / "copy.zip")
    assert not [name for name in unpack(tmp_path / "copy.zip", tmp_path / "there") if "publishing" in name]


@pytest.mark.parametrize("step", ["_back_up", "_add_files"])
def test_the_next_export_removes_what_a_killed_one_left(running: StudyLayout, tmp_path: Path, step: str) -> None:
    """Killed while the database is copied or while files are added; nothing else in the folder is touched."""
    folder = tmp_path / "out"
    folder.mkdir()
    others = [folder / ".notes.tmp", temporary_path(folder / "mine.zip"), folder / ".kept.pt.1073741824-00000000.tmp"]
    for path in others:
        path.touch()
    target = folder / "copy.zip"
    code = (
        "import os, signal, sys; from pathlib import Path; from attnsearch.store import export\n"
        f"do = export.{step}\n"
        "def kill(*arguments): do(*arguments); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"export.{step} = kill\n"
        "export.export_experiment(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    killed = subprocess.run([sys.executable, "-c", code, running.experiment_dir, target], check=False, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(folder.iterdir())) > len(others)
    export_experiment(running.experiment_dir, target)
    assert sorted(folder.iterdir()) == sorted([*others, target])


@pytest.mark.slow
def test_every_finished_trial_in_a_copy_of_a_running_search_is_whole(
    engine: Engine, url: str, layout: StudyLayout, tmp_path: Path
) -> None:
    optuna.create_study(storage=url, study_name="gull")
    script = str(Path(__file__).with_name("processes.py"))
    command = [sys.executable, script, "search", url, str(layout.root), STUDY, "8"]
    copies = []
    with ExitStack() as stack:
        workers = [stack.enter_context(subprocess.Popen(command)) for _ in range(2)]
        while any(worker.poll() is None for worker in workers):
            copies.append(tmp_path / f"copy{len(copies)}.zip")
            export_experiment(layout.experiment_dir, copies[-1])
    assert [worker.returncode for worker in workers] == [0, 0]

    for copy in copies[:: len(copies) // 8 + 1]:
        unpack(copy, tmp_path / copy.stem)
        there = StudyLayout(tmp_path / copy.stem, "CUB", "br_npa")
        reader_url, options = reader_arguments(default_url(there))
        storage = optuna.storages.RDBStorage(reader_url, engine_kwargs=options, skip_table_creation=True)
        epochs = open_trial_records(default_url(there), STUDY).read_epochs()
        for trial in optuna.load_study(study_name="gull", storage=storage).trials:
            if trial.state.is_finished():
                assert there.trial(trial.number).best.read_bytes() == b"w" * 10_000
                assert epochs[epochs["trial"] == trial.number]["epoch"].tolist() == [1, 2]
