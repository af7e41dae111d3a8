"""Each figure type, from maps whose place is known and from small models."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from attnsearch.config.experiment import ClassificationSettings, ExperimentConfig, ReidSettings
from attnsearch.config.model import BackboneSettings
from attnsearch.errors import ConfigError
from attnsearch.evaluation.base import InferenceModel, build_for_inference
from attnsearch.evaluation.explain import explain_images
from attnsearch.figures.explanation import Explanation, ImageToDraw
from attnsearch.figures.kinds import DrawStyle, check_kind, draw, draw_cell, needs_model
from attnsearch.models import build_model
from attnsearch.models.checkpoint import ModelCheckpoint
from attnsearch.tasks.classification import LinearHeads

CLASSES = ("gull", "skua", "tern")
CLASSIFICATION, REID = ClassificationSettings(), ReidSettings()
INTR = {
    "name": "intr",
    **{"backbone": "resnet10t", "weights": "none", "frozen_batch_norm": False, "width": 0.25},
    **{"n_encoder_layers": 1, "n_decoder_layers": 2, "d_model": 16, "n_heads": 2, "feedforward_width": 16},
}
DCAL = {"name": "dcal", "width": 0.34, "depth": 3, "position_grid": 4, "weights": "none"}


def explanation(maps: dict[str, np.ndarray], *, true: str | None = "gull", predicted: str = "gull") -> Explanation:
    probabilities = np.where(np.array(CLASSES) == predicted, 0.9, 0.05).astype(np.float32)
    return Explanation(
        image_id="a.jpg",
        source=Path("a.jpg"),
        true=true,
        class_names=CLASSES,
        predicted=predicted,
        probabilities=probabilities,
        target=predicted,
        size_hw=(20, 40),
        crop_box=np.array([0.0, 0.0, 40.0, 20.0]),
        maps=maps,
        saliency=next(iter(maps.values())),
    )


def hot(row: int, column: int, height: float = 1.0) -> np.ndarray:
    one = np.zeros((2, 4), dtype=np.float32)
    one[row, column] = height
    return one


def image() -> np.ndarray:
    return np.full((40, 80, 3), 100, dtype=np.uint8)  # twice the original


def model_of(settings: dict[str, object]) -> InferenceModel:
    """The same model for the same settings; nothing here changes it."""
    return built(json.dumps(settings))


@cache
def built(settings: str) -> InferenceModel:
    experiment = {
        "name": "tiny",
        "data": {"name": "folder", "root": "nowhere", "image_size_px": 64},
        "model": json.loads(settings),
        "train": {"precision": "fp32"},
        "runtime": {"device": "cpu"},
    }
    config = ExperimentConfig.model_validate_json(json.dumps(experiment))
    torch.manual_seed(0)
    state = build_model(config.model, LinearHeads(len(CLASSES))).state_dict()
    checkpoint = ModelCheckpoint(Path("tiny"), config, CLASSES, 1, 1, "", state)
    return InferenceModel(checkpoint, config, *build_for_inference(checkpoint, config))


@pytest.fixture
def wanted(tmp_path: Path) -> list[ImageToDraw]:
    rng = np.random.default_rng(0)
    found = []
    for name, size in (("a.png", (70, 90, 3)), ("b.png", (90, 60, 3))):
        Image.fromarray(rng.integers(0, 255, size).astype(np.uint8)).save(tmp_path / name)
        found.append(ImageToDraw(name, tmp_path / name, "tern"))
    return found


def test_parts_are_red_green_and_blue_where_they_are_hot() -> None:
    maps = {"one": hot(0, 0), "two": hot(0, 2), "three": hot(1, 3)}
    panel = draw_cell(explanation(maps), image(), DrawStyle(rule="cells"), as_parts=True)
    assert [panel.pixels[y, x].tolist() for y, x in ((10, 10), (10, 50), (30, 70))] == [
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
    ]


def test_a_weak_part_stays_weak_unless_it_asks_for_its_own_scale() -> None:
    maps = {"one": hot(0, 0), "two": hot(0, 2, 0.5)}
    shared, own = (
        draw_cell(explanation(maps), image(), DrawStyle(rule="cells", own_scale=own_scale), as_parts=True).pixels[
            10, 50, 1
        ]
        for own_scale in (False, True)
    )
    assert own == 255
    assert shared == pytest.approx(127 + 100 * 0.35 / 2, abs=2)  # half light, half of the dark image


def test_maps_are_weighted_by_the_norm() -> None:
    weighted = replace(explanation({"one": hot(0, 0)}), norm=np.full((2, 4), 3.0, dtype=np.float32)).weighted()
    assert weighted["one"].max() == 3


def test_contour_lies_on_the_hot_cell() -> None:
    row = draw("contour", explanation({"one": hot(1, 2)}), image(), DrawStyle(percentile=94)).rows[0]
    (line,) = row.panels[1].lines
    x, y = line.mean(axis=0)
    assert x == pytest.approx(50, abs=1)
    assert 20 < y < 40  # the border is repeated below the last row


def test_wrong_prediction_is_marked() -> None:
    note = draw("overlay", explanation({"one": hot(0, 0)}, predicted="tern"), image(), DrawStyle()).rows[0].panels[0]
    assert (note.note, note.is_correct) == ("✗ tern 0.90", False)
    unknown = draw("overlay", explanation({"one": hot(0, 0)}, true=None), image(), DrawStyle()).rows[0].panels[0]
    assert (unknown.note, unknown.is_correct) == ("gull 0.90", None)


@pytest.mark.parametrize(("kind", "n_panels"), [("heads", 4), ("classes", 4), ("layers", 3)])
def test_kinds_of_intr(kind: str, n_panels: int, wanted: list[ImageToDraw]) -> None:
    inference = model_of(INTR)
    maps = inference.model.figure_maps(kind)
    explanations = list(explain_images(inference, wanted, maps=maps, top_q=3))
    assert [one.size_hw for one in explanations] == [(70, 90), (90, 60)]
    for one in explanations:
        grid = draw(kind, one, image(), DrawStyle())
        assert {len(row.panels) for row in grid.rows} == {n_panels}
        assert sum(entry.probability for entry in one.classes) == pytest.approx(1, abs=1e-5)


def test_true_class_is_among_several_likeliest(wanted: list[ImageToDraw]) -> None:
    for true in CLASSES:
        image_of_class = replace(wanted[0], true=true)
        (one,) = explain_images(model_of(INTR), [image_of_class], top_q=1)
        (two,) = explain_images(model_of(INTR), [image_of_class], top_q=2)
        assert [entry.name for entry in one.classes] == [two.classes[0].name]
        assert true in [entry.name for entry in two.classes]


@pytest.mark.parametrize(("kind", "n_panels"), [("branches", 4), ("patches", 3), ("layers", 4), ("heads", 3)])
def test_kinds_of_dcal(kind: str, n_panels: int, wanted: list[ImageToDraw]) -> None:
    inference = model_of(DCAL)
    maps = inference.model.figure_maps(kind)
    for one in explain_images(inference, wanted, maps=maps):
        (row,) = draw(kind, one, image(), DrawStyle()).rows
        assert len(row.panels) == n_panels


def test_kinds_that_a_model_cannot_show_are_refused() -> None:
    with pytest.raises(ConfigError, match="works with b_cnn and br_npa only; this model is dcal"):
        check_kind("parts", model_of(DCAL).config.model, CLASSIFICATION)
    with pytest.raises(ConfigError, match="variant sa_only"):
        check_kind("patches", model_of({**DCAL, "variant": "sa_only"}).config.model, CLASSIFICATION)


def test_a_family_from_outside_declares_its_figure_types() -> None:
    class Spatial(BackboneSettings):
        figure_kinds = ("parts",)
        name: Literal["spatial"] = "spatial"

    check_kind("parts", Spatial(), CLASSIFICATION)
    with pytest.raises(ConfigError, match="--kind branches works with dcal only; this model is spatial"):
        check_kind("branches", Spatial(), CLASSIFICATION)
    assert "figure_kinds" not in Spatial().model_dump()


def test_kinds_of_another_task_are_refused() -> None:
    model = model_of(DCAL).config.model
    for kind in ("ranks", "pair"):
        check_kind(kind, model, REID)
        with pytest.raises(ConfigError, match=f"--kind {kind} works with the task reid only; this run's is classific"):
            check_kind(kind, model, CLASSIFICATION)
    with pytest.raises(ConfigError, match="--kind classes works with the task classification only; this run's is reid"):
        check_kind("classes", model_of(INTR).config.model, REID)
    check_kind("classes", model_of(INTR).config.model, CLASSIFICATION)
    check_kind("overlay", model, REID)


@pytest.mark.parametrize(
    ("predicted", "cosine", "verdict", "is_correct"),
    [
        ("0005", 0.914, "✓ 0005, cosine 0.91", True),
        ("0007", 0.914, "✗ 0007, cosine 0.91", False),
        (None, 0.914, "cosine 0.91", None),
        (None, None, "", None),
    ],
)
def test_in_retrieval_the_verdict_is_the_nearest_identity(
    predicted: str | None, cosine: float | None, verdict: str, is_correct: bool | None
) -> None:
    one = replace(explanation({"one": hot(0, 0)}), class_names=(), true="0005", predicted=predicted, cosine=cosine)
    assert (one.verdict, one.is_correct) == (verdict, is_correct)
    assert np.isnan(one.confidence)


@pytest.mark.parametrize(
    ("kind", "names", "needs"),
    [
        ("heads", ["layer_2/predicted/head_1"], False),
        ("heads", ["rollout", "glca"], True),
        ("layers", ["layer_2/predicted/head_1"], True),
        ("branches", ["rollout", "glca"], False),
        ("patches", ["rollout", "glca"], True),
        ("classes", ["layer_2/predicted/head_1"], True),
        ("parts", ["vector_1"], False),
        ("ranks", ["norm"], False),
        ("pair", ["norm"], True),
    ],
)
def test_the_names_of_archived_maps_tell_what_can_be_drawn_of_them(kind: str, names: list[str], needs: bool) -> None:
    assert needs_model(kind, names) is needs
