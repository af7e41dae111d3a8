"""Learning curves, the contact sheet and the figure of pairwise tests."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from PIL import Image

from attnsearch.data.tables import ImageTable
from attnsearch.figures import plots
from attnsearch.figures.plots import ModelTests, contact_sheet, draw_curves, draw_tests, write_contact_sheet
from attnsearch.types import AttentionArchive, Direction
from tests.matches import ranked_split

NAMES = ("a", "b", "c")
MEANS = (0.2, 0.5, 0.3)
P_VALUES = np.array([[1.0, 0.01, 0.2], [0.01, 1.0, math.nan], [0.2, math.nan, 1.0]])


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *arguments, **named: figures.append(self))
    return figures


@pytest.mark.parametrize(("direction", "order"), [("maximize", ["a", "c", "b"]), ("minimize", ["b", "c", "a"])])
def test_worst_model_comes_first(drawn: list[Figure], direction: Direction, order: list[str], tmp_path: Path) -> None:
    draw_tests(NAMES, [ModelTests("deletion", direction, MEANS, P_VALUES)], tmp_path / "x.png")
    labels = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    assert labels == order


def test_circles_are_large_where_models_differ_and_coloured_by_how_much(drawn: list[Figure], tmp_path: Path) -> None:
    draw_tests(NAMES, [ModelTests("deletion", "maximize", MEANS, P_VALUES)], tmp_path / "x.png")
    circles = {tuple(map(int, patch.center)): patch for patch in drawn[0].axes[0].patches if isinstance(patch, Circle)}
    assert {place: circle.radius for place, circle in circles.items()} == {
        (0, 0): 0.1, (0, 1): 0.1, (0, 2): 0.3, (1, 1): 0.1, (1, 2): 0.1, (2, 2): 0.1,
    }  # fmt: skip
    plasma = matplotlib.colormaps["plasma"]
    assert circles[0, 2].get_facecolor() == pytest.approx(plasma(1.0))  # the largest difference, 0.3
    assert circles[0, 0].get_facecolor() == pytest.approx(plasma(0.0))
    assert circles[0, 1].get_facecolor() == pytest.approx(plasma(1 / 3), abs=0.02)


def test_equal_models_can_be_drawn(tmp_path: Path) -> None:
    draw_tests(("a", "b"), [ModelTests("gini", "maximize", (0.5, 0.5), np.ones((2, 2)))], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_one_model_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got 1"):
        draw_tests(("a",), [ModelTests("gini", "maximize", (0.5,), np.ones((1, 1)))], tmp_path / "x.png")


@pytest.mark.parametrize("n_metrics", [1, 2, 7])
def test_nothing_is_cut_off_at_the_edges(tmp_path: Path, n_metrics: int) -> None:
    """Names of 40 letters leave white edges, and none of their ink is lost: every figure shows as much per name."""
    names = tuple(letter * 40 for letter in "WMQ")
    metrics = ("relevance_gain", "gini", "deletion", "insertion", "energy_in_mask", "pointing_hit", "sparsity")
    tests = [ModelTests(metric, "maximize", MEANS, P_VALUES) for metric in metrics[:n_metrics]]
    draw_tests(names, tests, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        ink = np.asarray(image.convert("L"))
    edges = (ink[:3], ink[-3:], ink[:, :3], ink[:, -3:])
    assert [int(edge.min()) for edge in edges] == [255] * 4
    assert ink.min() < 64


def test_all_metrics_of_a_comparison_are_panels_of_one_figure(drawn: list[Figure], tmp_path: Path) -> None:
    tests = [ModelTests(metric, "maximize", MEANS, P_VALUES) for metric in ("gini", "relevance_gain")]
    draw_tests(NAMES, tests, tmp_path / "x.png")
    assert [axes.get_title() for axes in drawn[0].axes[:2]] == ["Gini coefficient", "relevance gain (LeRF - MoRF)"]


def test_level_is_that_of_the_figure() -> None:
    assert plots.ALPHA == 0.05


def archive(n_images: int, *, saliency: bool = True) -> AttentionArchive:
    return AttentionArchive(
        image_ids=tuple(f"{row}.png" for row in range(n_images)),
        labels=np.zeros(n_images, np.int64),
        predictions=np.arange(n_images, dtype=np.int64) % 2,
        confidences=np.full(n_images, 0.9, np.float32),
        sizes_hw=np.tile(np.array([40, 60]), (n_images, 1)),
        crop_boxes=np.tile(np.array([10.0, 0.0, 50.0, 40.0]), (n_images, 1)),
        class_names=("Least Auklet", "a very long class name that certainly does not fit under any tile of the sheet"),
        map_names=(),
        maps=None,
        norms=None,
        saliency=np.tile(np.eye(4, dtype=np.float32), (n_images, 1, 1)) if saliency else None,
        config_digest="",
        epoch=1,
        split="val",
    )


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    ids = tuple(f"{row}.png" for row in range(20))
    for name in ids:
        Image.new("RGB", (60, 40), (200, 200, 200)).save(tmp_path / name)
    paths = tuple(tmp_path / name for name in ids)
    return ImageTable("val", ("a", "b"), ids, paths, np.zeros(20, np.int64))


@pytest.mark.parametrize(("n_images", "lines"), [(1, [1]), (5, [4, 1]), (12, [4, 4, 4]), (20, [4, 4, 4])])
def test_a_sheet_has_up_to_three_lines_of_four(n_images: int, lines: list[int], table: ImageTable) -> None:
    assert [len(row.panels) for row in contact_sheet(archive(n_images), table).rows] == lines


def test_a_tile_stands_between_its_class_and_its_prediction(table: ImageTable) -> None:
    (row,) = contact_sheet(archive(2), table).rows
    assert [panel.title for panel in row.panels] == ["Least Auklet", "Least Auklet"]
    assert [panel.is_correct for panel in row.panels] == [True, False]
    assert row.panels[0].note == "✓ Least Auklet 0.90"


def test_a_sheet_is_a_png(table: ImageTable, tmp_path: Path) -> None:
    write_contact_sheet(archive(5), table, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 4 * 220


def test_a_sheet_without_saliency_is_refused(table: ImageTable) -> None:
    with pytest.raises(ValueError, match="the archive has none"):
        contact_sheet(archive(2, saliency=False), table)


def test_a_sheet_of_retrieval_shows_queries_and_their_nearest_identity(table: ImageTable) -> None:
    whole = archive(6)
    is_query = np.arange(6) < 2
    retrieval = replace(ranked_split(), image_ids=whole.image_ids)
    queries = replace(whole, retrieval=retrieval, confidences=np.where(is_query, 0.9, np.nan).astype(np.float32))
    (row,) = contact_sheet(queries, table).rows
    assert row.panels[0].note == "✓ Least Auklet, cosine 0.90"
    assert [panel.is_correct for panel in row.panels] == [True, False]


def test_tiles_keep_the_formats_of_their_images(table: ImageTable) -> None:
    Image.new("RGB", (60, 60), (200, 200, 200)).save(table.paths[1])
    (row,) = contact_sheet(archive(2), table).rows
    low, high = (panel.pixels for panel in row.panels)
    assert low.shape == high.shape
    assert low[0, 0].tolist() == [255, 255, 255]
    assert high[0, 0].tolist() != [255, 255, 255]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (("train_loss", "val_loss", "train_accuracy", "val_accuracy"), ["loss", "accuracy"]),
        (("train_loss", "val_loss", "val_mAP", "val_rank1", "val_mINP"), ["loss", "mAP", "rank1"]),
        (("val_loss", "val_mAP_group", "val_rank1_group"), ["loss", "mAP group", "rank1 group"]),
    ],
)
def test_curves_are_of_the_loss_and_of_what_is_monitored(
    columns: tuple[str, ...], names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _path, **_: drawn.append(figure))
    frame = pd.DataFrame({"epoch": [1, 2], **{column: [0.1, 0.2] for column in columns}})
    draw_curves(frame, tmp_path / "a.png")
    assert [axes.get_ylabel() for axes in drawn[0].axes] == names
    assert sum(len(axes.lines) for axes in drawn[0].axes) == len([c for c in columns if "mINP" not in c])
