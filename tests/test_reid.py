"""Training and evaluation of re-identification from end to end, on a few synthetic individuals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import study_of_one
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import ConfigError, NonFiniteLoss, TrialInterrupted
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.search.space import check_scores
from attnsearch.store.archive import read_archive
from attnsearch.store.epochs import read_csv
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.trainer import fit
from attnsearch.types import HALVES
from tests.tiny import RecordingContext
from tests.training.test_trainer import assert_same, final_state, stop_at, timeless

DATA = {
    **{"name": "individuals", "image_size_px": [64, 32], "n_identities": 8, "n_test_identities": 3, "n_cameras": 2},
    **{"n_per_camera": 3, "n_distractors": 4, "picture_px": 64, "val_share": 0.3, "pad_px": 3, "erase": 0.5},
}
Maker = Callable[..., ExperimentConfig]


@pytest.fixture(scope="module")
def config_of() -> Maker:
    """Makes a config of a tiny model from changes to its blocks."""

    def make(**changes: Any) -> ExperimentConfig:
        settings: dict[str, Any] = {
            "name": "tiny",
            "monitor": "val/mAP",
            "data": DATA,
            "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25, "stride_stage4": 1},
            "task": {"name": "reid", "images_per_identity": 2, "centre_weight": 0.01},
            "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "optimizer": {"name": "adam", "lr": 0.01}},
            "runtime": {"device": "cpu", "n_threads": 1},
        }
        for key, value in changes.items():
            is_changed = isinstance(value, dict) and key != "model"
            settings[key] = {**settings[key], **value} if is_changed else value
        return ExperimentConfig.model_validate_json(json.dumps(settings))

    return make


@pytest.fixture(scope="module")
def individuals(config_of: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataSource]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_data(config_of().data)


@pytest.fixture(scope="module")
def trained(config_of: Maker, individuals: DataSource, tmp_path_factory: pytest.TempPathFactory) -> RecordingContext:
    context = RecordingContext(tmp_path_factory.mktemp("trial"))
    fit(config_of(), context, data=individuals)
    return context


def test_identities_of_validation_are_not_trained_on(individuals: DataSource) -> None:
    train, val = individuals.tables.train, individuals.tables.val
    assert not set(train.class_names) & set(val.class_names)
    assert val.is_query is not None
    assert 0 < val.is_query.sum() < len(val)
    assert train.is_query is None


def test_an_epoch_measures_retrieval_and_its_losses(trained: RecordingContext) -> None:
    train, val = trained.records[:2]
    assert set(train.terms) == {"identity", "triplet", "centre"}
    assert set(val.terms) == {"triplet"}
    assert "identity_accuracy" in train.metrics
    assert set(val.metrics) == {"mAP", "mAP_half_a", "mAP_half_b", "rank1", "rank5", "rank10", "mINP", "sparsity"}
    assert [value for value, _ in trained.reports] == [r.metrics["mAP"] for r in trained.records if r.split == "val"]
    frame = read_csv(TrialLayout(trained.directory).epochs_csv)
    assert {"val_mAP", "val_rank1", "val_rank5", "val_rank10", "val_mINP"} <= set(frame.columns)


@pytest.mark.parametrize("n_checks", [1, 5, 9])
def test_resuming_equals_not_stopping(
    config_of: Maker, individuals: DataSource, trained: RecordingContext, tmp_path: Path, n_checks: int
) -> None:
    context = RecordingContext(tmp_path, on_check=stop_at(n_checks))
    with pytest.raises(TrialInterrupted):
        fit(config_of(), context, data=individuals)
    resumed = RecordingContext(tmp_path, attempt=2)
    fit(config_of(), resumed, data=individuals)
    assert timeless(resumed.records) == timeless(trained.records)
    assert_same(final_state(tmp_path, 2), final_state(trained.directory, 1))


def test_an_evaluation_gives_the_numbers_of_the_best_epoch_again(
    individuals: DataSource, trained: RecordingContext, tmp_path: Path
) -> None:
    layout = TrialLayout(trained.directory)
    with Evaluation.open(layout.best, individuals) as evaluation:
        measured = evaluation.run("val", archive=layout.archive("val"))
        epoch = evaluation.checkpoint.epoch
    (record,) = [r for r in trained.records if (r.split, r.epoch) == ("val", epoch)]
    of_all = {name: value for name, value in record.metrics.items() if not name.endswith(HALVES)}
    assert {name: measured[f"val/{name}"] for name in of_all} == of_all
    archive = read_archive(layout.archive("val"))
    assert archive.retrieval is not None
    retrieval, is_query = archive.retrieval, archive.retrieval.is_query
    assert np.nanmean(retrieval.average_precision) == pytest.approx(record.metrics["mAP"])
    assert retrieval.features.shape == (len(individuals.tables.val), 128)
    np.testing.assert_allclose(np.linalg.norm(retrieval.features, axis=1), 1, atol=1e-5)
    # each query's prediction is the identity of its nearest gallery image, that of a gallery image its own
    nearest = retrieval.ranked_rows[:, 0]
    assert archive.predictions[is_query].tolist() == retrieval.labels[nearest].tolist()
    assert archive.predictions[~is_query].tolist() == retrieval.labels[~is_query].tolist()
    cosines = (retrieval.features[is_query] * retrieval.features[nearest]).sum(axis=1)
    np.testing.assert_allclose(archive.confidences[is_query], cosines, atol=1e-6)
    assert np.isnan(archive.confidences[~is_query]).all()
    assert (archive.predictions[is_query] == archive.labels[is_query]).mean() == pytest.approx(record.metrics["rank1"])


def test_a_retrieval_read_again_is_the_one_that_was_written(individuals: DataSource, trained: RecordingContext) -> None:
    layout = TrialLayout(trained.directory)
    with Evaluation.open(layout.best, individuals) as evaluation:
        evaluation.run("test", archive=layout.archive("test"))
    retrieval, test = read_archive(layout.archive("test")).retrieval, individuals.tables.test
    assert retrieval is not None
    assert test is not None
    assert retrieval.image_ids == test.image_ids
    assert retrieval.identities == test.class_names
    assert "0000" in retrieval.identities
    assert retrieval.labels.tolist() == test.labels.tolist()
    assert retrieval.cameras is not None
    assert test.cameras is not None
    assert retrieval.cameras.tolist() == test.cameras.tolist()
    assert (retrieval.match_rule, retrieval.camera_names) == ("camera", test.camera_names)


@pytest.mark.parametrize(
    "model",
    [
        {"name": "br_npa", "n_vectors": 2},
        {"name": "b_cnn", "n_parts": 2},
        {"name": "plain", "backbone": "resnet10t", "last_stride": 1},
        {"name": "loupe", "backbone": "resnet10t", "last_stride": 1},
        *(
            {"name": "dcal", "backbone": "deit_tiny_patch16_224", "depth": 2, "stem": "conv", "variant": variant}
            for variant in ("full", "sa_glca", "sa_pwca", "sa_only")
        ),
    ],
    ids=lambda model: "-".join(str(model[key]) for key in ("name", "variant") if key in model),
)
def test_every_family_trains(config_of: Maker, individuals: DataSource, tmp_path: Path, model: dict[str, Any]) -> None:
    width = 0.34 if model["name"] == "dcal" else 0.25
    config = config_of(model={"backbone": "resnet10t", "width": width, **model}, train={"epochs": 1})
    context = RecordingContext(tmp_path)
    fit(config, context, data=individuals)
    val = context.records[1].metrics
    assert 0 < val["mAP"] <= 1
    assert all(np.isfinite(list(record.terms.values())).all() for record in context.records)
    if model.get("variant") == "full":
        assert {"triplet", "triplet_glca", "triplet_pwca"} <= set(context.records[0].terms)
        features = Evaluation.open(TrialLayout(tmp_path).best, individuals)
        assert features.task.embed(features.output(next(features.batches("val")))).shape[1] == 2 * 64


def test_the_neck_does_not_see_pairs_of_images(config_of: Maker, individuals: DataSource, tmp_path: Path) -> None:
    model = {"name": "dcal", "depth": 2, "stem": "conv", "width": 0.34, "variant": "sa_pwca"}
    fit(config_of(model=model), RecordingContext(tmp_path), data=individuals)
    state = final_state(tmp_path, 1)
    n_updates = state["n_updates"]
    assert int(state["model"]["head.neck.num_batches_tracked"]) == n_updates


@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_an_update_that_breaks_the_model_is_found_in_validation(
    config_of: Maker, individuals: DataSource, tmp_path: Path, rate: float
) -> None:
    """The one batch of the epoch has a finite loss, so that the validation after it is the first to see the weights."""
    train = {"batch_size": 36, "optimizer": {"name": "sgd", "lr": rate}}
    config = config_of(task={"images_per_identity": 6, "centre_weight": 0}, train=train)
    with pytest.raises(NonFiniteLoss, match=r"lower train\.optimizer\.lr"):
        fit(config, RecordingContext(tmp_path), data=individuals)


def test_a_validation_without_triplets_has_no_loss(
    config_of: Maker, individuals: DataSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnsearch.tasks.retrieval.has_triplet", lambda identities: False)
    context = RecordingContext(tmp_path)
    result = fit(config_of(train={"epochs": 1}), context, data=individuals)
    assert math.isnan(result.metrics["val/loss"])
    assert result.metrics["val/mAP"] > 0
    frame = read_csv(TrialLayout(tmp_path).epochs_csv)
    assert frame["val_loss"].isna().all()
    assert frame["val_loss_triplet"].isna().all()


@pytest.mark.parametrize("monitor", ["val/mAP_open", "val/rank1_group", "val/rank10_open"])
def test_a_monitor_of_another_rule_is_refused_before_training(
    config_of: Maker, individuals: DataSource, monitor: str
) -> None:
    study = study_of_one(config_of(monitor=monitor))
    right = f"so {monitor.rpartition('_')[0]} is measured; write that under monitor and objectives$"
    with pytest.raises(ConfigError, match=rf"^{monitor}: images of .* are matched by camera, {right}"):
        check_scores(study, individuals.tables)


@pytest.mark.parametrize(
    ("monitor", "rule"), [("val/rank10", "open"), ("val/rank10_group", "open"), ("val/mAP", "group")]
)
def test_a_monitor_of_cameras_is_refused_where_there_are_none(
    config_of: Maker, individuals: DataSource, monitor: str, rule: Literal["group", "open"]
) -> None:
    table = individuals.tables.val
    tables = replace(individuals.tables, val=replace(table, match_rule=rule, groups=table.cameras, cameras=None))
    right = f"so {monitor.removesuffix('_group')}_{rule} is measured; .*, or give each image a camera: in its name, in"
    with pytest.raises(ConfigError, match=f"^{monitor}: images of .* are matched by .*, {right}"):
        check_scores(study_of_one(config_of(monitor=monitor)), tables)
    assert check_scores(study_of_one(config_of(monitor=f"val/mINP_{rule}")), tables) == []


def test_groups_give_metrics_of_their_own(config_of: Maker, individuals: DataSource, tmp_path: Path) -> None:
    tables = individuals.tables
    grouped = {
        split: replace(table, match_rule="group", groups=table.cameras, cameras=None)
        for split, table in (("train", tables.train), ("val", tables.val))
    }
    data = replace(individuals, tables=replace(tables, **grouped))
    context = RecordingContext(tmp_path)
    fit(config_of(monitor="val/mAP_group"), context, data=data)
    assert "mAP_group" in context.records[1].metrics
    assert "mAP" not in context.records[1].metrics


def test_halved_parts_stay_whole_identities(config_of: Maker) -> None:
    config = config_of(train={"batch_size": 8, "accumulation": 2})
    assert not config.can_train_in(4)
