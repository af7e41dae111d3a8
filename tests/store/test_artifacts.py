from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from attnsearch.errors import LeaseLost, StoreError
from attnsearch.store.artifacts import FileRecord, describe_file, read_artifacts, write_artifacts
from attnsearch.store.layout import StudyLayout

STUDY = "0b8a1f5e-8c5d-4a40-9a59-0d2f3c0d7e11"

KEPT = FileRecord("br_npa/trials/00007/kept.safetensors", (), "", "00", 3)


def test_array_is_described_by_shape_size_and_checksum(layout: StudyLayout) -> None:
    path = layout.trial(7).archive("val").maps
    path.parent.mkdir(parents=True)
    np.save(path, np.zeros((4, 3, 2, 2), dtype=np.float32))
    file = describe_file(path, layout.experiment_dir)

    assert file.path == "br_npa/trials/00007/attMaps_val.npy"
    assert (file.shape, file.dtype, file.bytes) == ((4, 3, 2, 2), "float32", path.stat().st_size)
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_file_is_named(layout: StudyLayout) -> None:
    with pytest.raises(StoreError, match=r"kept\.safetensors: No such file"):
        describe_file(layout.trial(7).kept, layout.experiment_dir)


def test_file_outside_the_experiment_is_refused(layout: StudyLayout, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"x\.npy"):
        describe_file(tmp_path / "x.npy", layout.experiment_dir)


def test_files_come_back_by_trial_and_kind(engine: Engine) -> None:
    maps = FileRecord("br_npa/trials/00007/attMaps_val.npy", (4, 3, 2, 2), "float32", "11", 2**33)
    write_artifacts(engine, STUDY, 7, attempt=None, files={"maps": maps, "kept": KEPT})
    write_artifacts(engine, STUDY, 8, attempt=None, files={"kept": KEPT})

    assert read_artifacts(engine, STUDY) == {7: {"kept": KEPT, "maps": maps}, 8: {"kept": KEPT}}
    assert read_artifacts(engine, STUDY, [8]) == {8: {"kept": KEPT}}
    assert read_artifacts(engine, "another study") == {}


def test_later_file_of_a_kind_replaces_the_earlier(engine: Engine) -> None:
    later = FileRecord(KEPT.path, (), "", "22", 4)
    write_artifacts(engine, STUDY, 7, attempt=None, files={"kept": KEPT})
    write_artifacts(engine, STUDY, 7, attempt=None, files={"kept": later})

    assert read_artifacts(engine, STUDY) == {7: {"kept": later}}


def test_attempt_without_lease_cannot_list_files(engine: Engine) -> None:
    with pytest.raises(LeaseLost, match="attempt 3 at trial 7"):
        write_artifacts(engine, STUDY, 7, attempt=3, files={"kept": KEPT})
    assert read_artifacts(engine, STUDY) == {}
