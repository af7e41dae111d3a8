"""A trained model on images of one's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.loader import DataSource
from attnsearch.errors import MISUSED, AttnSearchError, DataError, UsageError
from attnsearch.evaluation.evaluation import Evaluation, TrainedModel, load_model
from attnsearch.store.archive import read_archive
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.trainer import fit
from attnsearch.types import AttentionArchive
from tests.tiny import ConfigMaker, RecordingContext

MODEL = {"name": "br_npa", "stride_stage3": 1, "stride_stage4": 1}


@pytest.fixture(scope="module")
def checkpoint(tiny_config: ConfigMaker, data: DataSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    context = RecordingContext(tmp_path_factory.mktemp("trial"))
    fit(tiny_config(model=MODEL, train={"epochs": 1}), context, data=data)
    return TrialLayout(context.directory).best


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> TrainedModel:
    return load_model(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def archive(checkpoint: Path, data: DataSource, tmp_path_factory: pytest.TempPathFactory) -> AttentionArchive:
    paths = TrialLayout(tmp_path_factory.mktemp("maps")).archive("val")
    with Evaluation.open(checkpoint, data) as evaluation:
        evaluation.run("val", archive=paths)
    return read_archive(paths)


@pytest.fixture(scope="module")
def path(data: DataSource) -> Path:
    return data.tables.val.paths[0]


def test_an_image_gets_the_numbers_of_its_archive(
    model: TrainedModel, archive: AttentionArchive, data: DataSource
) -> None:
    assert archive.maps is not None
    assert archive.norms is not None
    assert archive.saliency is not None
    explained = model.explain(list(data.tables.val.paths))
    for row, explanation in enumerate(explained):
        assert explanation.predicted == archive.class_names[archive.predictions[row]]
        assert explanation.confidence == pytest.approx(float(archive.confidences[row]), abs=1e-6)
        np.testing.assert_allclose(explanation.saliency, archive.saliency[row], atol=1e-6)
        np.testing.assert_allclose(list(explanation.maps.values()), archive.maps[row], atol=1e-6)
        np.testing.assert_allclose(explanation.norm, archive.norms[row, 0], atol=1e-6)
        np.testing.assert_array_equal(explanation.crop_box, archive.crop_boxes[row])
        assert explanation.size_hw == tuple(archive.sizes_hw[row])


def test_path_image_and_array_are_the_same_image(model: TrainedModel, path: Path) -> None:
    with Image.open(path) as image:
        image.load()
        pixels = np.asarray(image.convert("RGB"))
        explained = [model.explain(str(path)), *model.explain([path, image, pixels])]
    first = explained[0].saliency
    for explanation in explained[1:]:
        np.testing.assert_allclose(explanation.saliency, first, atol=1e-6)
        np.testing.assert_array_equal(explanation.image, pixels)
    assert [explanation.image_id for explanation in explained] == [str(path), str(path), "image_2", "image_3"]


@pytest.mark.parametrize(
    ("array", "shown"),
    [
        (np.zeros((8, 8, 3), np.float32), r"\(8, 8, 3\) float32; floats may be in"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\) uint8"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\) uint8"),
    ],
)
def test_arrays_of_other_kinds_are_refused(model: TrainedModel, array: np.ndarray, shown: str) -> None:
    with pytest.raises(UsageError, match=shown):
        model.explain(array)


def test_tensors_are_refused_with_a_reason(model: TrainedModel) -> None:
    for images in (torch.zeros(3, 8, 8), torch.zeros(2, 3, 8, 8), [torch.zeros(3, 8, 8)]):
        with pytest.raises(UsageError, match=r"got a tensor .* torch.float32: its channels"):
            model.explain(images)  # type: ignore[call-overload]


def test_one_name_in_place_of_a_list_of_metrics_is_refused(model: TrainedModel, path: Path) -> None:
    with pytest.raises(UsageError, match=r"metrics must be a list of names, got 'gini'; write \['gini'\]"):
        model.score(path, "gini")


def test_no_image_and_a_missing_image_are_refused(model: TrainedModel) -> None:
    with pytest.raises(UsageError, match="at least one"):
        model.explain([])
    for nothing in (None, [None], 7):
        with pytest.raises(
            UsageError, match=r"an image must be a path, a PIL image or an \(H, W, 3\) uint8 RGB array, got"
        ):
            model.explain(nothing)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        model.explain("nowhere.jpg")


def test_a_target_is_a_class_name_or_an_index(model: TrainedModel, path: Path) -> None:
    assert model.explain(path, target="red").target == model.explain(path, target=1).target == "red"
    with pytest.raises(UsageError, match=r"no class 'rad' \(did you mean 'red'\?\)"):
        model.explain(path, target="rad")
    with pytest.raises(UsageError, match="0 to 1, got 2"):
        model.explain(path, target=2)


def test_probabilities_are_of_all_classes(model: TrainedModel, path: Path) -> None:
    top = model.explain(path).top(5)
    assert sorted(top["class"]) == ["blue", "red"]
    assert top["probability"].sum() == pytest.approx(1, abs=1e-6)
    assert top["probability"].is_monotonic_decreasing


def test_validation_is_repeated_and_a_test_evaluation_is_logged(checkpoint: Path, data: DataSource) -> None:
    logged: list[int] = []
    model = load_model(checkpoint, device="cpu", on_test=logged.append)
    with Evaluation.open(checkpoint, data) as evaluation:
        assert model.evaluate("val", data=data) == evaluation.run("val")
    assert not logged
    assert "test/accuracy" in model.evaluate("test", data=data)
    assert logged == [1]


def test_a_model_says_what_it_is(model: TrainedModel) -> None:
    assert model.class_names == ("blue", "red")
    assert model.device == torch.device("cpu")
    assert "br_npa" in repr(model)
    assert "2 classes, 32 x 32 px, on cpu" in repr(model)


def test_own_images_are_scored_a_row_each(
    model: TrainedModel, data: DataSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 1e-9)  # this model has seen one epoch
    paths = list(data.tables.val.paths[:2])
    frame = model.score(paths, ["relevance_gain", "deletion_gain", "gini"])
    assert frame.index.tolist() == [str(path) for path in paths]
    assert frame.columns.tolist() == ["relevance_gain", "deletion_gain", "gini"]
    assert frame.notna().all(axis=None)
    assert frame.attrs["version"] == 3


def test_a_score_of_own_images_is_that_of_the_archive(
    model: TrainedModel, checkpoint: Path, data: DataSource, tmp_path: Path
) -> None:
    files = TrialLayout(tmp_path)
    with Evaluation.open(checkpoint, data) as evaluation:
        evaluation.run("val", archive=files.archive("val"))
        table = evaluation.score(files.archive("val"), files.scores("val"))
    frame = model.score(list(data.tables.val.paths), ["gini", "relevance_gain"])
    np.testing.assert_allclose(frame["gini"], table.values["gini"], atol=1e-5)
    np.testing.assert_allclose(frame["relevance_gain"], table.values["relevance_gain"], atol=1e-4)


def test_own_images_have_no_label_so_that_the_predicted_class_is_followed(
    model: TrainedModel, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 1e-9)
    frame = model.score([path], ["relevance_gain"], settings=ScoreSettings(target="label"))
    assert frame["relevance_gain"].tolist() == model.score([path], ["relevance_gain"])["relevance_gain"].tolist()
    assert frame.attrs["settings"]["target"] == "predicted"


def test_masks_are_taken_for_localisation_and_asked_for_without(model: TrainedModel, path: Path) -> None:
    everywhere = np.full((36, 36, 3), 255, dtype=np.uint8)
    assert model.score([path], ["pointing_hit"], masks=[everywhere])["pointing_hit"].tolist() == [1.0]
    with pytest.raises(UsageError, match="pointing_hit needs masks of the parts"):
        model.score([path], ["pointing_hit"])
    with pytest.raises(UsageError, match="0 masks of 1 images"):
        model.score([path], ["pointing_hit"], masks=[])


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("accuracy", "measured after each epoch"),
        ("part_consistency", "of all images of a data set together"),
        ("pointing_in_box", "needs boxes"),
    ],
)
def test_metrics_that_images_do_not_have_are_refused(metric: str, shown: str, model: TrainedModel, path: Path) -> None:
    with pytest.raises(UsageError, match=shown):
        model.score(path, [metric])


def test_every_misuse_is_an_error_of_the_package_and_of_python(model: TrainedModel, path: Path) -> None:
    with pytest.raises(UsageError, match="a split is one of train, val, test, got 'nosplit'") as caught:
        model.evaluate("nosplit")  # type: ignore[arg-type]
    assert isinstance(caught.value, AttnSearchError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.exit_code == MISUSED


def test_an_embedding_per_image(model: TrainedModel, data: DataSource) -> None:
    embedding = model.embed(list(data.tables.val.paths[:3]))
    assert embedding.dtype == np.float32
    assert embedding.shape[0] == 3
    assert np.isfinite(embedding).all()
