from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.layout import StudyLayout
from attnsearch.store.retention import large_files, remove

SMALL = ("config.yaml", "epochs.csv", "log.txt", "images_val.csv", "archive_val.json")
LARGE = ("attMaps_val.npy", "best.safetensors", "norm_val.npy", "resume.1.pt", "resume.2.pt", "saliency_val.npy")


@pytest.fixture
def study(layout: StudyLayout) -> StudyLayout:
    """Four trials with every kind of file."""
    for number in range(4):
        folder = layout.trial(number).directory
        folder.mkdir(parents=True)
        for name in (*SMALL, *LARGE):
            (folder / name).write_bytes(b"x" * len(name))
    return layout


def names(study: StudyLayout, number: int) -> list[str]:
    return sorted(path.name for path in study.trial(number).directory.iterdir())


def test_large_files_are_listed_by_number_and_name_and_not_touched(study: StudyLayout) -> None:
    plan = large_files((3, 0), study)

    assert [(file.number, file.path.name) for file in plan] == [(number, name) for number in (0, 3) for name in LARGE]
    assert all(file.bytes == len(file.path.name) for file in plan)
    assert names(study, 0) == sorted((*SMALL, *LARGE))


def test_removal_leaves_every_trial_its_records(study: StudyLayout) -> None:
    plan = large_files((3, 0), study)
    freed = remove(plan)

    assert freed == 2 * sum(map(len, LARGE))
    assert names(study, 0) == names(study, 3) == sorted(SMALL)
    assert names(study, 1) == names(study, 2) == sorted((*SMALL, *LARGE))


def test_features_and_ranks_are_large_files_under_any_name(study: StudyLayout) -> None:
    exported = ("features_test_duke.npy", "features_val.npy", "ranks_val_cosine_flip.npy")
    for name in (*exported, "rankings_test_duke.csv"):
        (study.trial(0).directory / name).write_bytes(b"x")
    plan = large_files([0], study)
    assert [file.path.name for file in plan] == sorted((*LARGE, *exported))
    remove(plan)
    assert names(study, 0) == sorted((*SMALL, "rankings_test_duke.csv"))


def test_removing_twice_frees_nothing_more(study: StudyLayout) -> None:
    plan = large_files(range(4), study)
    remove(plan)

    assert remove(plan) == 0
    assert large_files(range(4), study) == []


def test_trial_without_a_folder_has_nothing_to_remove(layout: StudyLayout) -> None:
    assert large_files([9], layout) == []


def test_file_that_cannot_be_removed_is_named(study: StudyLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    plan = large_files([0], study)
    monkeypatch.setattr(Path, "unlink", refuse)

    with pytest.raises(StoreError, match=r"00000/attMaps_val\.npy: Permission denied"):
        remove(plan)
