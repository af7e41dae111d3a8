"""What a trial says of its images, maps and scores; maps of which every cell is known."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from attnsearch.errors import ConfigError, StoreError, UsageError
from attnsearch.results.study import StudyReader
from attnsearch.store.file_records import describe_file
from attnsearch.store.trial_store import opened_trial_store
from attnsearch.store.urls import default_url
from tests.explorer.built import CLASSES, Built, planted_maps, write_trial_scores

IDS = [f"val/{name}/{index}.jpg" for name in ("gull", "tern") for index in range(3)]


def publish_test_maps(built: Built) -> None:
    paths, trial = built.layout.published(3).archive("test"), built.layout.trial(1).archive("val")
    for source, target in zip(
        (*trial.arrays.values(), trial.about, trial.images),
        (*paths.arrays.values(), paths.about, paths.images),
        strict=True,
    ):
        shutil.copy(source, target)
    sets = [{"trial": 1, "epoch": 3, "folder": "."}]
    built.layout.published_json.write_text(json.dumps({"format": 1, "sets": sets, "files": []}), encoding="utf-8")


def test_images_are_a_table_by_image_id(built: Built) -> None:
    images = StudyReader(built.layout).trial(0).images("val")
    assert list(images.index) == IDS
    assert list(images["is_correct"]) == [True, False] * 3
    assert images.loc[IDS[1], "predicted_class"] == CLASSES[1]
    assert (images.attrs["split"], images.attrs["epoch"]) == ("val", 3)


def test_maps_are_mapped_from_disk_as_the_model_made_them(built: Built) -> None:
    trial = StudyReader(built.layout).trial(1)
    planted = planted_maps(6, 1)
    np.testing.assert_array_equal(trial.maps("val"), planted["maps"])
    np.testing.assert_array_equal(trial.saliency("val"), planted["saliency"])
    assert isinstance(trial.maps("val"), np.memmap)


def test_scores_are_a_table_with_their_settings(copied: Built) -> None:
    trial = StudyReader(copied.layout).trial(0)
    with pytest.raises(ConfigError, match="has no scores on val"):
        trial.scores("val")
    write_trial_scores(copied.layout, 0, IDS, {"gini": [0.1, 0.2, float("nan"), 0.4, 0.5, 0.6]})
    scores = trial.scores("val")
    assert scores["gini"].isna().tolist() == [False, False, True, False, False, False]
    assert (scores.attrs["version"], scores.attrs["settings"]) == (1, {"fill": "blur"})


def test_epochs_are_indexed_from_one(built: Built) -> None:
    epochs = StudyReader(built.layout).trial(2).epochs
    assert list(epochs.index) == [1, 2, 3]
    assert epochs["val/accuracy"].tolist() == pytest.approx([0.42, 0.52, 0.62])


def test_published_maps_of_the_test_split_belong_to_their_trial(copied: Built) -> None:
    publish_test_maps(copied)
    study = StudyReader(copied.layout)
    assert list(study.trial(1).archives()) == ["val", "test"]
    assert list(study.trial(0).archives()) == ["val"]


def test_trials_with_the_same_best_epoch_do_not_share_test_metrics(copied: Built) -> None:
    layout, study = copied.layout, StudyReader(copied.layout)
    assert {study.trial(number).row.best_epoch for number in (0, 1)} == {3}
    publish_test_maps(copied)
    layout.published(3).model_csv("test").write_text("accuracy\n0.5\n", encoding="utf-8")
    assert study.trial(1).test_metrics() == {"accuracy": 0.5}
    assert study.trial(0).test_metrics() == {}
    assert "test/accuracy" not in study.trial(0).metrics
    assert study.trials["test/accuracy"].dropna().to_dict() == {1: 0.5}


def test_trials_of_a_front_have_their_own_published_files(copied: Built) -> None:
    layout = copied.layout
    publish_test_maps(copied)
    folder = layout.pareto(0, 3).directory.relative_to(layout.experiment_dir).as_posix()
    sets = [{"trial": 1, "epoch": 3, "folder": "."}, {"trial": 0, "epoch": 3, "folder": folder}]
    layout.published_json.write_text(json.dumps({"format": 1, "sets": sets, "files": []}), encoding="utf-8")
    layout.pareto(0, 3).directory.mkdir(parents=True)
    for target, text in ((layout.published(3), "accuracy\n0.5\n"), (layout.pareto(0, 3), "accuracy\n0.25\n")):
        target.model_csv("test").write_text(text, encoding="utf-8")
    study = StudyReader(layout)
    assert [study.trial(number).test_metrics() for number in (0, 1, 2)] == [{"accuracy": 0.25}, {"accuracy": 0.5}, {}]
    assert list(study.trial(0).archives()) == ["val"]


@pytest.mark.parametrize("text", ["", "[]", '{"sets": 3}', '{"sets": [null, {"trial": 0, "epoch": "../.."}]}'])
def test_broken_manifest_publishes_nothing(copied: Built, text: str) -> None:
    copied.layout.published_json.write_text(text, encoding="utf-8")
    assert list(StudyReader(copied.layout).trial(0).archives()) == ["val"]


def test_what_is_missing_is_named(copied: Built) -> None:
    study = StudyReader(copied.layout)
    with pytest.raises(ConfigError, match="study 'hunt' has no trial 9"):
        study.trial(9).state  # noqa: B018
    for read in (study.trial(9).scores, study.trial(9).images, study.trial(9).maps, study.trial(9).model):
        with pytest.raises(ConfigError, match="study 'hunt' has no trial 9"):
            read()  # type: ignore[operator]
    with pytest.raises(ConfigError, match="no maps of the split 'test'; there are: val"):
        study.trial(0).maps("test")
    with pytest.raises(ConfigError, match="has no best checkpoint"):
        study.trial(0).checkpoint  # noqa: B018
    copied.layout.trial(0).archive("val").maps.unlink()
    with pytest.raises(StoreError, match="retention removed it"):
        study.trial(0).maps("val")
    assert len(study.trial(0).images("val")) == 6


def test_a_checkpoint_is_that_of_the_record(copied: Built) -> None:
    layout, study = copied.layout, StudyReader(copied.layout)
    trial, path = study.trial(0), layout.trial(0).best
    path.write_bytes(b"weights")
    assert trial.checkpoint == path  # without a record, as in results of version 0.1
    with opened_trial_store(default_url(layout), study.rows.uuid, layout) as store:
        store.write_artifacts(0, {"best": describe_file(path, layout.experiment_dir)}, attempt=None)
    assert trial.checkpoint == path
    path.write_bytes(b"others!")
    with pytest.raises(StoreError, match=r"best\.safetensors is not the file .* restore it"):
        trial.model()


def test_a_split_that_does_not_exist_is_named_with_those_that_do(built: Built) -> None:
    trial = StudyReader(built.layout).trial(0)
    for read in (trial.scores, trial.images, trial.maps, trial.saliency):
        with pytest.raises(UsageError, match="a split is one of train, val, test, got 'valid'"):
            read("valid")  # type: ignore[operator]


def test_notebook_shows_a_trial(built: Built) -> None:
    trial = StudyReader(built.layout).best
    assert repr(trial) == "<trial here/hunt:2: complete, val/accuracy=0.6143, val/sparsity=0.2857>"
    assert "train.optimizer.name" in trial._repr_html_()
