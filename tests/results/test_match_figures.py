"""Figures of a finished run of re-identification, and of its checkpoint."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import ReidFolderData
from attnsearch.errors import ConfigError, DataError
from attnsearch.figures.grid import Style
from attnsearch.figures.rankings import Rankings
from attnsearch.figures.ranks import rank_list
from attnsearch.results import explained, match_figures
from attnsearch.results.explained import ExplainedModel
from attnsearch.results.reader import load_results
from attnsearch.results.visualize import request_figures, visualize_all
from attnsearch.types import Retrieval, Split

RUN = "cnn_people"
BEST = f"people/{RUN}/trials/00000/best.safetensors"


@pytest.fixture(scope="module")
def run(people_runs: Path) -> Path:
    return people_runs


@pytest.fixture(scope="module")
def retrieval(run: Path) -> Retrieval:
    found = load_results(run).study(f"people/{RUN}").trial(0).archive("val").retrieval
    assert found is not None
    return found


def visualize(
    run: Path,
    to: Path,
    *sources: str,
    kind: str = "ranks",
    file_format: str = "png",
    split: Split = "val",
    overrides: tuple[str, ...] = (),
    with_removed: bool = False,
    method: str = "occlusion",
    **selection: Any,
) -> list[Path]:
    request = request_figures(
        [kind],
        split,
        selection=selection,
        look={"rule": "cubic", "colours": "inferno", "with_removed": with_removed, "method": method},
        style={"dpi": 60, "width_in": None, "file_format": file_format},
        to=to,
    )
    return list(visualize_all(sources or [f"{RUN}:0"], None, request, overrides=overrides, root=run))


def pixels_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def queries_in(path: Path) -> list[str]:
    """The queries of an SVG, in their order."""
    return re.findall(r">([^<>]+): AP [0-9.]+, first match at rank \d+<", path.read_text())


def by_precision(retrieval: Retrieval) -> list[str]:
    rows = np.flatnonzero(retrieval.is_query)
    return [retrieval.image_ids[row] for row in rows[np.argsort(retrieval.average_precision, kind="stable")]]


def test_the_worst_queries_come_first(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    (path,) = visualize(run, tmp_path, file_format="svg")
    assert path == tmp_path / f"{RUN}-0/ranks/val_sheet_1.svg"
    assert queries_in(path) == by_precision(retrieval)[:4]
    assert "queries with the lowest average precision, the worst first" in path.read_text()


def test_chance_is_told_by_its_seed(run: Path, tmp_path: Path) -> None:
    texts = [
        visualize(run, tmp_path / name, file_format="svg", random=2, seed=seed)[0].read_text()
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    ]
    assert "queries by chance, seed 3" in texts[0]
    assert texts[0] == texts[1] != texts[2]


def test_a_named_query_says_all_ranks(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    query = by_precision(retrieval)[0]
    (path,) = visualize(run, tmp_path, file_format="svg", images=[query], with_removed=True)
    text = path.read_text()
    shown = rank_list(Rankings(retrieval), retrieval.image_ids.index(query), with_removed=True)
    assert queries_in(path) == [query]
    signs = {f"{'✓' if one.is_match else '✗'} rank {one.rank}" for one in shown.images if one.rank}
    assert signs == set(re.findall(r">([✓✗] rank \d+)<", text))
    assert text.count(">– same camera<") == sum(one.rank is None for one in shown.images) > 0


def test_many_queries_fill_several_sheets(
    run: Path, tmp_path: Path, retrieval: Retrieval, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(match_figures, "PER_SHEET", 3)
    paths = visualize(run, tmp_path, file_format="svg", worst=99)
    assert [path.name for path in paths] == ["val_sheet_1.svg", "val_sheet_2.svg"]
    assert len(queries_in(paths[0])) == 3
    assert [query for path in paths for query in queries_in(path)] == by_precision(retrieval)


def test_a_checkpoint_ranks_as_its_archive(run: Path, tmp_path: Path) -> None:
    best = run / BEST
    (archived,), (ranked,) = (visualize(run, tmp_path, *source, worst=1) for source in ((), (str(best),)))
    assert np.abs(pixels_of(archived) - pixels_of(ranked)).max() <= 2


def test_without_its_features_a_trial_is_ranked_again(run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "results"))
    for name in ("features_val.npy", "saliency_val.npy"):
        (copied / BEST).with_name(name).unlink()
    (before,), (after,) = (visualize(root, tmp_path / root.name, worst=1) for root in (run, copied))
    assert np.abs(pixels_of(before) - pixels_of(after)).max() <= 2
    (copied / BEST).unlink()
    with pytest.raises(ConfigError, match=r"cnn_people:0 has no checkpoint any more"):
        visualize(copied, tmp_path / "c")


def test_small_copies_stand_in_for_the_data_set(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = visualize(run, tmp_path / "a", worst=1)
    monkeypatch.setattr(ExplainedModel, "table", None)
    (after,) = visualize(run, tmp_path / "b", worst=1)
    assert pixels_of(before).shape == pixels_of(after).shape


def test_other_data_have_their_own_galleries(run: Path, tmp_path: Path) -> None:
    """The archive is of the data of the training, which overrides may leave."""
    (before,) = visualize(run, tmp_path / "a", worst=1)
    (after,) = visualize(run, tmp_path / "b", worst=1, overrides=("data.data_seed=77",))
    assert not np.array_equal(pixels_of(before), pixels_of(after))
    with pytest.raises(DataError, match="nowhere does not exist"):
        visualize(run, tmp_path / "c", worst=1, overrides=("data.name=duke", f"data.root={tmp_path / 'nowhere'}"))


def test_another_folder_with_the_same_images_keeps_the_archive(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = load_results(run).study(f"people/{RUN}").trial(0)
    archive = reader.archive("val")
    here, there = (
        reader.config.model_copy(update={"data": ReidFolderData(name="reid_folder", root=str(tmp_path / name))})
        for name in ("here", "there")
    )
    for ids, is_other in ((archive.image_ids, False), (archive.image_ids[1:], True)):
        table = SimpleNamespace(image_ids=ids)
        monkeypatch.setattr(explained, "build_tables", lambda cfg, table=table: SimpleNamespace(of=lambda split: table))
        assert explained._shows_other_images(archive, here, there) is is_other
    assert not explained._shows_other_images(archive, here, here)


def test_figures_of_splits_and_methods_have_names_of_their_own(run: Path, tmp_path: Path) -> None:
    paths = [
        path
        for split in ("val", "test")
        for kind, method in (("ranks", "occlusion"), ("pair", "occlusion"), ("pair", "own"))
        for path in visualize(run, tmp_path, kind=kind, worst=1, split=split, method=method)
    ]
    assert len(set(paths)) == len(paths) >= 6
    with pytest.raises(ConfigError, match="--method is for --kind pair, and ranks is asked for"):
        visualize(run, tmp_path, worst=1, method="own")


def test_pairs_are_of_the_nearest_image_and_the_nearest_match(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    query = by_precision(retrieval)[0]
    images = rank_list(Rankings(retrieval), retrieval.image_ids.index(query), n_shown=50).images
    nearest, match = images[0], next(one for one in images if one.is_match)
    assert nearest is not match
    paths = visualize(run, tmp_path, kind="pair", images=[query], file_format="svg")
    others = [retrieval.image_ids[one.row] for one in (nearest, match)]
    folder = tmp_path / f"{RUN}-0/pair"
    assert paths == [
        folder / f"{query.removesuffix('.jpg')}_and_{without_jpg(other)}_by_occlusion.svg" for other in others
    ]
    for path, one, verdict in zip(paths, (nearest, match), ("✗ other identity", "✓ same identity"), strict=True):
        assert f">cosine {one.cosine:.3f}, {verdict}<" in path.read_text()
        assert "what the cosine loses without each cell" in path.read_text()


def without_jpg(image_id: str) -> str:
    return image_id.replace("/", "__").removesuffix(".jpg")


def test_saved_figures_have_one_ending() -> None:
    style = Style(format="png")
    names = [str(match_figures.file_name(name, style)) for name in ("hat/0.jpg", "hat/0.png", "hat/0.JPEG", "a.b.jpg")]
    assert names == ["hat/0.png", "hat/0_png.png", "hat/0_jpeg.png", "a.b.png"]


def test_any_two_images_are_compared(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    Image.new("RGB", (30, 70), (200, 80, 10)).save(tmp_path / "mine.png")
    best = run / BEST
    mine = str(tmp_path / "mine.png")
    paths = visualize(run, tmp_path / "to", str(best), kind="pair", images=[mine], other=retrieval.image_ids[0])
    assert [path.name for path in paths] == [f"mine_png_and_{without_jpg(retrieval.image_ids[0])}_by_occlusion.png"]
    (of_query,) = visualize(run, tmp_path / "to", kind="pair", worst=1, other=mine)
    assert of_query.name.endswith("_and_mine_png_by_occlusion.png")
    shutil.copy(mine, tmp_path / "two.png")
    with pytest.raises(ConfigError, match="must be one image, got a folder of"):
        visualize(run, tmp_path / "to", kind="pair", other=str(tmp_path))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"images": ["nothing.jpg"]}, "--image 'nothing.jpg' is no query of val"),
        ({"classes": ["gull"]}, "--class 'gull' is not in this split"),
        ({"kind": "pair", "other": "nothing.jpg"}, "--with 'nothing.jpg' is neither an image of the split nor a file"),
        ({"kind": "classes"}, "--kind classes works with the task classification only; this run's is reid"),
    ],
)
def test_what_cannot_be_shown_is_refused(run: Path, tmp_path: Path, wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        visualize(run, tmp_path, **wanted)
    assert not list(tmp_path.iterdir())


def test_gallery_images_have_no_list(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    name = retrieval.image_ids[int(np.flatnonzero(~retrieval.is_query)[0])]
    with pytest.raises(ConfigError, match=r"is no query of val.*queries alone have a ranked gallery"):
        visualize(run, tmp_path, images=[name])


@pytest.mark.parametrize("kind", ["ranks", "pair"])
def test_classes_have_no_ranked_gallery(finished_run: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"--kind {kind} works with the task reid only"):
        visualize(finished_run, tmp_path, "br_npa_low_res", kind=kind)


def test_overlays_of_queries_say_whom_they_were_taken_for(run: Path, tmp_path: Path, retrieval: Retrieval) -> None:
    query = by_precision(retrieval)[0]
    nearest = rank_list(Rankings(retrieval), retrieval.image_ids.index(query)).images[0]
    assert not nearest.is_match
    (path,) = visualize(run, tmp_path, kind="overlay", worst=1, file_format="svg")
    assert path.name == f"{Path(query).stem}.svg"
    identity = retrieval.identities[retrieval.labels[nearest.row]]
    assert f"✗ {identity}, cosine {nearest.cosine:.2f}" in path.read_text()
