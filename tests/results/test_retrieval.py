"""Which files a ranking of galleries writes, and what their names tell."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.results.reader import load_study
from attnsearch.results.retrieval import RankingChoice, how_to_rank_again, write_retrieval_report
from attnsearch.results.trial import TrialReader
from attnsearch.store.archive import read_rankings
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.types import Split

TABLES = ("rankings", "ranked_queries", "identities", "cameras", "camera_matrix")


@pytest.fixture
def trial(people: Path) -> TrialReader:
    return load_study(people / "people" / "cnn_people").trial(0)


def test_what_the_run_has_archived_stays(trial: TrialReader) -> None:
    archived = trial.archives()["val"]
    before = archived.features.stat().st_mtime_ns
    saved = write_retrieval_report(trial, "val", RankingChoice(), ())
    assert [path.name for path in saved.files] == [
        *(f"{table}_val.csv" for table in TABLES),
        *("retrieval_val.csv", "features_val.npy", "ranks_val.npy"),
    ]
    assert all(path.parent == trial.files.directory and path.is_file() for path in saved.files)
    assert archived.features.stat().st_mtime_ns == before


@pytest.mark.parametrize(("split", "removed"), [("val", "features"), ("val", "ranks"), ("test", "features")])
def test_what_was_removed_of_an_archive_is_written_there_again(people: Path, split: Split, removed: str) -> None:
    trial = load_study(people / "people" / "cnn_people").best
    archived = trial.archives()[split]
    before = read_rankings(archived)
    assert before is not None
    getattr(archived, removed).unlink()
    write_retrieval_report(trial, split, RankingChoice(), ())
    after = read_rankings(archived)
    assert after is not None
    assert after.has_ranks
    np.testing.assert_array_equal(after.ranked_rows[:, 0], before.ranked_rows[:, 0])


def test_galleries_are_ranked_again_with_the_checkpoint_and_trained_again_without(trial: TrialReader) -> None:
    command = "`attnsearch retrieval people/cnn_people --trial 0 --split val`"
    assert how_to_rank_again(trial, "val") == f"{command} writes them again with the best checkpoint"
    trial.files.best.unlink()
    command = "`attnsearch train results/people/cnn_people/trials/00000/config.yaml name=cnn_people_again`"
    assert how_to_rank_again(trial, "val").startswith(f"{command} trains the trial again")


def test_other_settings_have_files_of_their_own(trial: TrialReader) -> None:
    choice = RankingChoice("cosine", flip=True, reranking={"k1": 5, "k2": 2, "lambda_value": 0.3})
    saved = write_retrieval_report(trial, "val", choice, ())
    assert saved.ending == "val_cosine_flip"
    assert trial.files.table_csv("reranked", "val_cosine_flip") in saved.files
    files = ArchivePaths.of(trial.files.directory, "_val_cosine_flip")
    features = np.load(files.features)
    assert features.shape == trial.retrieval("val").features.shape
    assert not np.array_equal(features, trial.retrieval("val").features)
    assert len(np.load(files.ranks)) == len(trial.retrieval("val").queries)
    other = write_retrieval_report(trial, "val", RankingChoice(), ["task.embedding=after_neck"])
    assert other.ending.startswith("val_")
    assert len(other.ending) == len("val_") + 8


def test_other_data_are_named(trial: TrialReader, tmp_path: Path) -> None:
    image = trial.original(trial.retrieval("val").images.index[0])
    assert image is not None
    folder = Path(shutil.copytree(image.parents[1], tmp_path / "moved"))
    other = ["data.name=reid_folder", f"data.root={folder}"]
    moved, own = (write_retrieval_report(trial, "test", RankingChoice(), overrides) for overrides in (other, []))
    assert (moved.ending, own.ending) == ("test_reid_folder_moved", "test")
    # the same images, of the size that the model was trained with, have the same scores
    assert moved.report.rankings[0].scores["mAP"].mean == pytest.approx(own.report.rankings[0].scores["mAP"].mean)
    assert moved.report.floors == own.report.floors


def test_other_settings_of_other_data_have_files_of_their_own(trial: TrialReader, tmp_path: Path) -> None:
    image = trial.original(trial.retrieval("val").images.index[0])
    assert image is not None
    folder = Path(shutil.copytree(image.parents[1], tmp_path / "my animals"))
    other = ["data.name=reid_folder", f"data.root={folder}"]
    endings = [
        write_retrieval_report(trial, "test", RankingChoice(), [*other, *changed]).ending
        for changed in ([], ["data.crop_ratio=0.9"], ["data.crop_ratio=0.8"])
    ]
    assert endings[0] == "test_reid_folder_reid_folder"  # no file can be named after the folder
    assert all(ending.startswith(f"{endings[0]}_") for ending in endings[1:])
    assert len(set(endings)) == 3


def test_a_file_has_a_folder_of_its_name(trial: TrialReader, tmp_path: Path) -> None:
    path = Path(shutil.copy(trial.files.best, tmp_path / "mine.safetensors"))
    saved = write_retrieval_report(path, "val", RankingChoice(), ())
    assert saved.name == str(path)
    assert {file.parent for file in saved.files} == {tmp_path / "mine"}


def test_a_test_evaluation_is_logged(trial: TrialReader) -> None:
    path = trial.study.layout.test_evaluations
    n_lines = len(path.read_text().splitlines())
    write_retrieval_report(trial, "test", RankingChoice(), ())
    assert path.read_text().splitlines()[n_lines].split(",")[1:4] == ["0", str(trial.row.best_epoch), "test"]


def test_a_classifier_is_refused(finished_run: Path) -> None:
    trial = load_study(finished_run / "demo" / "br_npa_low_res").trial(0)
    with pytest.raises(ConfigError, match="is trained for classification; use `attnsearch confusion`"):
        write_retrieval_report(trial, "val", RankingChoice(), ())
