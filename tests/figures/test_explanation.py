"""An explained image, as tables and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from attnsearch.errors import ConfigError, UsageError
from attnsearch.figures.explanation import NO_CLASSES, Explanation, ImageToDraw, from_archive
from attnsearch.figures.kinds import ClassMap
from attnsearch.figures.pairs import Match
from attnsearch.types import AttentionArchive
from tests.matches import GALLERY, N_QUERIES, ranked_split

CLASSES = ("gull", "skua", "tern")


def hot(row: int, column: int) -> np.ndarray:
    one = np.zeros((4, 4), dtype=np.float32)
    one[row, column] = 1
    return one


@pytest.fixture
def explanation() -> Explanation:
    return Explanation(
        image_id="a.jpg",
        source=Image.new("RGB", (80, 60), (90, 120, 150)),
        class_names=CLASSES,
        predicted="skua",
        probabilities=np.array([0.2, 0.7, 0.1], dtype=np.float32),
        target="skua",
        size_hw=(60, 80),
        crop_box=np.array([10.0, 0.0, 70.0, 60.0]),
        maps={"vector_1": hot(0, 0), "vector_2": hot(3, 3)},
        saliency=hot(1, 2),
        classes=(ClassMap("skua", 0.7, hot(1, 2)), ClassMap("gull", 0.2, hot(2, 1))),
    )


def test_most_probable_classes_come_first(explanation: Explanation) -> None:
    top = explanation.top(2)
    assert top["class"].tolist() == ["skua", "gull"]
    assert top["probability"].tolist() == pytest.approx([0.7, 0.2])


def test_unknown_probabilities_are_left_out(explanation: Explanation) -> None:
    archived = replace(explanation, probabilities=np.array([np.nan, 0.7, np.nan], dtype=np.float32))
    pd.testing.assert_frame_equal(archived.top(5), explanation.top(1))


def test_another_target_has_its_own_saliency(explanation: Explanation) -> None:
    other = explanation.with_target("gull")
    assert (other.target, other.predicted) == ("gull", "skua")
    np.testing.assert_array_equal(other.saliency, hot(2, 1))
    with pytest.raises(UsageError, match="no map of 'tern'; explained are skua, gull"):
        explanation.with_target("tern")


def test_a_plot_leaves_pyplot_alone(explanation: Explanation) -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    figure = explanation.plot("overlay")
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == before
    with pytest.raises(ConfigError, match="no figure type 'overlays'"):
        explanation.plot("overlays")


def test_a_panel_is_drawn_on_axes_of_the_caller(explanation: Explanation) -> None:
    axes = Figure().subplots()
    assert explanation.plot("overlay", ax=axes) is axes
    pixels = np.asarray(axes.images[0].get_array())
    brightest = np.unravel_index(np.abs(pixels.astype(int) - pixels[-1, -1]).sum(axis=2).argmax(), pixels.shape[:2])
    y, x = np.array(brightest) / pixels.shape[:2]
    assert 0.25 < y < 0.5  # the second row of cells
    assert 0.5 < x < 0.7  # the third column of a view that spans an eighth to seven eighths
    with pytest.raises(UsageError, match="'heads' has several panels"):
        explanation.plot("heads", ax=axes)


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")])
def test_the_suffix_is_the_format(name: str, start: bytes, explanation: Explanation, tmp_path: Path) -> None:
    assert explanation.save(tmp_path / name).read_bytes().startswith(start)


def test_other_formats_are_refused(explanation: Explanation, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got 'a\.gif'"):
        explanation.save(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_a_notebook_shows_the_overlay_and_the_classes(explanation: Explanation) -> None:
    png = explanation._repr_png_()
    assert png is not None
    assert png.startswith(b"\x89PNG")
    shown = explanation._repr_html_()
    assert "<img src=" in shown
    assert "skua" in shown
    assert repr(explanation) == "<Explanation of a.jpg: skua 0.70, target 'skua', 2 maps>"


def test_without_saliency_there_is_a_table_alone(explanation: Explanation) -> None:
    without = replace(explanation, saliency=None, maps={}, classes=())
    assert without._repr_png_() is None
    assert "<img" not in without._repr_html_()
    with pytest.raises(ConfigError, match=r"no saliency of a\.jpg"):
        without.plot()


def similar(explanation: Explanation) -> Explanation:
    """The similarity to another image, of a model that predicts no classes."""
    match = Match(
        image_id="folder/b.jpg",
        source=Image.new("RGB", (40, 80), (200, 20, 20)),
        true=None,
        size_hw=(80, 40),
        crop_box=np.array([0.0, 0.0, 40.0, 80.0]),
        map=hot(0, 0),
        own_map=hot(1, 2),
        pairs=np.multiply.outer(hot(1, 2), hot(0, 0)).astype(np.float32),
        method="pair",
    )
    answer = {**NO_CLASSES, "predicted": None, "classes": (), "target": "similarity to b.jpg", "cosine": 0.75}
    return replace(explanation, match=match, **answer)


def test_a_similarity_is_shown_as_both_images(explanation: Explanation, tmp_path: Path) -> None:
    one = similar(explanation)
    assert repr(one) == "<Explanation of a.jpg: cosine 0.75, target 'similarity to b.jpg', 2 maps>"
    assert one.top().empty
    shown = one._repr_html_()
    assert "<img src=" in shown
    assert "<table" not in shown
    text = one.save(tmp_path / "a.svg", kind="pair").read_text()
    for words in ("cosine 0.750", "a.jpg", "b.jpg", "pair 1 adds 1"):
        assert words in text
    assert "similarity to b.jpg" in one.save(tmp_path / "b.svg").read_text()


def test_without_another_image_there_is_no_pair(explanation: Explanation) -> None:
    with pytest.raises(ConfigError, match=r"explain a\.jpg with target=model\.similarity_to"):
        explanation.plot("pair")
    with pytest.raises(ConfigError, match="no figure type 'ranks' of one image"):
        explanation.plot("ranks")


def test_archived_queries_have_an_answer_and_gallery_images_none() -> None:
    retrieval = ranked_split()
    n_images = N_QUERIES + len(GALLERY)
    archive = AttentionArchive(
        image_ids=retrieval.image_ids,
        labels=retrieval.labels,
        predictions=np.where(retrieval.is_query, [0, 3, *[0] * len(GALLERY)], retrieval.labels),
        confidences=np.where(retrieval.is_query, 0.5, np.nan).astype(np.float32),
        sizes_hw=np.tile([128, 64], (n_images, 1)),
        crop_boxes=np.tile([0.0, 0.0, 64.0, 128.0], (n_images, 1)),
        class_names=retrieval.identities,
        map_names=(),
        maps=None,
        norms=None,
        saliency=np.ones((n_images, 8, 4), dtype=np.float32),
        config_digest="",
        epoch=1,
        split="val",
        retrieval=retrieval,
    )
    names = ("0.jpg", "1.jpg", "2.jpg")
    found = list(from_archive(archive, [ImageToDraw(name, Path(name), "0007") for name in names]))
    assert [one.verdict for one in found] == ["✗ 0000, cosine 0.50", "✓ 0007, cosine 0.50", ""]
    assert [one.target for one in found] == ["", "", ""]
