"""A best checkpoint over a split."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.fixed_rows import fixed_halves, fixed_subset
from attnsearch.data.loader import DataSource, crop_boxes
from attnsearch.data.tables import ImageTable
from attnsearch.errors import ConfigError, DataError, TrialInterrupted
from attnsearch.evaluation import base
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.models import build_model, checkpoint
from attnsearch.models.checkpoint import ModelCheckpoint, write_model_checkpoint
from attnsearch.store.archive import read_archive
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.tasks.classification import LinearHeads
from attnsearch.training.trainer import fit
from tests.tiny import ConfigMaker, RecordingContext


@pytest.fixture(scope="module")
def config(tiny_config: ConfigMaker) -> ExperimentConfig:
    return tiny_config(model={"name": "br_npa", "stride_stage3": 1, "stride_stage4": 1}, train={"epochs": 1})


@pytest.fixture(scope="module")
def trial(
    config: ExperimentConfig, data: DataSource, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrialLayout, dict[str, float]]:
    """A trained trial and the metrics of its best epoch."""
    context = RecordingContext(tmp_path_factory.mktemp("trial"))
    return TrialLayout(context.directory), dict(fit(config, context, data=data).metrics)


def test_validation_repeats_the_record_of_the_best_epoch(
    trial: tuple[TrialLayout, dict[str, float]], config: ExperimentConfig, data: DataSource
) -> None:
    layout, recorded = trial
    measured = Evaluation.open(layout.best, data, config=config).run("val")
    assert set(measured) == {
        f"val/{name}" for name in ("loss", "accuracy", "mean_class_accuracy", "cross_entropy", "sparsity")
    }
    assert measured == {name: recorded[name] for name in measured}  # the same arithmetic: not one bit differs


def test_the_archive_holds_what_the_model_makes(
    trial: tuple[TrialLayout, dict[str, float]], config: ExperimentConfig, data: DataSource, tmp_path: Path
) -> None:
    paths = TrialLayout(tmp_path).archive("test")
    measured = Evaluation.open(trial[0].best, data, config=config).run("test", archive=paths)
    archive, table = read_archive(paths), data.tables.of("test")
    assert archive.image_ids == table.image_ids  # file order
    np.testing.assert_array_equal(archive.labels, table.labels)
    np.testing.assert_array_equal(archive.crop_boxes, crop_boxes(data, "test", config.data))
    np.testing.assert_array_equal(archive.sizes_hw, np.full((6, 2), 36))
    assert archive.maps is not None
    assert archive.norms is not None
    assert archive.saliency is not None
    assert archive.maps.shape == (6, 3, 4, 4)  # 32 px over a stride of 8, three vectors
    assert archive.map_names == ("vector_1", "vector_2", "vector_3")
    np.testing.assert_allclose(archive.maps.sum(axis=(2, 3)), 1.0, rtol=1e-5)  # each map is a distribution
    np.testing.assert_array_equal(archive.saliency, archive.maps[:, 0] * archive.norms[:, 0])
    assert (archive.epoch, archive.split, archive.class_names) == (1, "test", ("blue", "red"))
    assert archive.config_digest == config.digest()
    assert (archive.confidences >= 0.5).all()  # of two classes
    assert measured["test/accuracy"] == (archive.predictions == archive.labels).mean()


def test_few_images_are_archived_and_all_are_scored(
    trial: tuple[TrialLayout, dict[str, float]], tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    model = {"name": "br_npa", "stride_stage3": 1, "stride_stage4": 1}
    few = tiny_config(model=model, train={"epochs": 1}, evaluation={"n_images": 4})
    paths = TrialLayout(tmp_path).archive("val")
    measured = Evaluation.open(trial[0].best, data, config=few).run("val", archive=paths)
    archive = read_archive(paths)
    assert measured["val/accuracy"] == trial[1]["val/accuracy"]
    assert len(archive.image_ids) == 4
    assert sorted(archive.labels) == [0, 0, 1, 1]
    rows = fixed_subset(data.tables.val, 4)
    assert archive.image_ids == tuple(data.tables.val.image_ids[row] for row in rows)
    whole = TrialLayout(tmp_path / "all").archive("val")
    Evaluation.open(trial[0].best, data, config=few).run("test", archive=whole)
    assert len(read_archive(whole).image_ids) == 6  # the limit is for validation


def table(*sizes: int) -> ImageTable:
    """A split with classes of these sizes."""
    labels = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64)
    ids = tuple(f"val/{label}/{row}.jpg" for row, label in enumerate(labels))
    names = tuple(map(str, range(len(sizes))))
    return ImageTable(split="val", class_names=names, image_ids=ids, paths=tuple(map(Path, ids)), labels=labels)


@pytest.mark.parametrize(("n_images", "per_class"), [(3, [1, 2]), (6, [2, 4]), (9, [3, 6])])
def test_each_class_gives_its_share(n_images: int, per_class: list[int]) -> None:
    split = table(10, 20)
    rows = fixed_subset(split, n_images)
    assert np.bincount(split.labels[rows]).tolist() == per_class
    assert (np.diff(rows) > 0).all()


def test_more_images_include_the_fewer() -> None:
    chosen = [set(fixed_subset(table(7, 5, 3), n_images)) for n_images in range(1, 16)]
    assert all(few < more for few, more in pairwise(chosen))


def test_the_choice_follows_ids_and_not_places() -> None:
    split = table(8, 8)
    order = np.random.default_rng(0).permutation(16)
    shuffled = replace(split, image_ids=tuple(split.image_ids[row] for row in order), labels=split.labels[order])
    chosen, again = fixed_subset(split, 6), fixed_subset(shuffled, 6)
    assert {split.image_ids[row] for row in chosen} == {shuffled.image_ids[row] for row in again}


def test_halves_are_stratified_and_do_not_depend_on_the_order() -> None:
    split = table(40, 40, 21)
    halves = fixed_halves(split)
    assert np.bincount(halves).tolist() == [51, 50]
    of_class = [float(halves[split.labels == label].mean()) for label in range(3)]
    assert of_class == pytest.approx([0.5] * 3, abs=0.2)
    order = np.random.default_rng(1).permutation(len(split))
    assert np.array_equal(fixed_halves(split.take(order)), halves[order])


@pytest.mark.parametrize("n_images", [None, 5, 50])
def test_asking_for_all_gives_all(n_images: int | None) -> None:
    assert fixed_subset(table(2, 3), n_images).tolist() == [0, 1, 2, 3, 4]


def save(path: Path, config: ExperimentConfig, class_names: tuple[str, ...]) -> Path:
    model = build_model(config.model, LinearHeads(len(class_names)))
    write_model_checkpoint(
        ModelCheckpoint(
            path, config=config, class_names=class_names, epoch=1, accumulation=1, val_hash="", state=model.state_dict()
        )
    )
    return path


def test_other_classes_are_refused_by_name(config: ExperimentConfig, data: DataSource, tmp_path: Path) -> None:
    path = save(tmp_path / "k.safetensors", config, ("red", "blue"))  # as many, in another order
    with pytest.raises(DataError, match=r"0: 'blue' \| 'red'"):
        Evaluation.open(path, data, config=config).run("val")


def test_another_architecture_is_refused(
    config: ExperimentConfig, tiny_config: ConfigMaker, data: DataSource, tmp_path: Path
) -> None:
    path = save(tmp_path / "k.safetensors", tiny_config(model={"name": "b_cnn"}), ("blue", "red"))
    with pytest.raises(ConfigError, match=r"unexpected: attention\."):
        Evaluation.open(path, data, config=config).run("val")


def test_a_missing_split_is_refused(
    trial: tuple[TrialLayout, dict[str, float]], config: ExperimentConfig, data: DataSource
) -> None:
    without = replace(data, tables=replace(data.tables, test=None))
    with pytest.raises(DataError, match="no test split"):
        Evaluation.open(trial[0].best, without, config=config).run("test")


def test_a_stop_leaves_no_archive(
    trial: tuple[TrialLayout, dict[str, float]], config: ExperimentConfig, data: DataSource, tmp_path: Path
) -> None:
    calls = iter(range(10))

    def check() -> None:
        if next(calls) == 1:  # before the first file gets its name
            raise TrialInterrupted

    with pytest.raises(TrialInterrupted):
        Evaluation.open(trial[0].best, data, config=config).run(
            "val", archive=TrialLayout(tmp_path).archive("val"), check=check
        )
    assert list(tmp_path.iterdir()) == []


def test_evaluation_keeps_no_graph(
    trial: tuple[TrialLayout, dict[str, float]],
    config: ExperimentConfig,
    data: DataSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    forward = torch.nn.Linear.forward

    def spy(self: torch.nn.Linear, values: torch.Tensor) -> torch.Tensor:
        seen.append(forward(self, values))
        return seen[-1]  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.nn.Linear, "forward", spy)
    Evaluation.open(trial[0].best, data, config=config).run("val")
    assert seen
    assert not any(logits.requires_grad for logits in seen)


def test_one_model_and_one_loader_serve_a_run_its_scores_and_its_baselines(
    trial: tuple[TrialLayout, dict[str, float]],
    data: DataSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for place, name in ((checkpoint, "build_model"), (base, "BatchLoader"), (base, "read_model_checkpoint")):
        monkeypatch.setattr(place, name, _counted(name, getattr(place, name), calls))
    files = TrialLayout(tmp_path)
    with Evaluation.open(trial[0].best, data) as evaluation:
        evaluation.run("val", archive=files.archive("val"))
        evaluation.score(files.archive("val"), files.scores("val"))
        evaluation.baselines(files.archive("val"), ["centre"])
        evaluation.predict("val")
        evaluation.sanity("val", data.tables.val.image_ids[:2])
    assert sorted(calls) == ["BatchLoader", "build_model", "read_model_checkpoint"]


def _counted(name: str, call: Any, calls: list[str]) -> Any:
    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        return call(*arguments, **named)

    return counted
