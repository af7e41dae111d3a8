"""Figures of a finished run and of checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.results.explained import ExplainedModel
from attnsearch.results.visualize import request_figures, visualize_all
from attnsearch.types import Split

RUN = "br_npa_low_res"
LOOK = {"percentile": 95.0, "colours": "inferno", "rule": "cubic", "own_scale": False, "top_q": 5}


def drawn(to: Path) -> list[str]:
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


def visualize(
    run: Path,
    to: Path,
    *sources: str,
    kind: str = "overlay",
    split: Split = "val",
    file_format: str = "png",
    overrides: tuple[str, ...] = (),
    **selection: object,
) -> list[Path]:
    """Draws one image of each class, unless `selection` says which ones."""
    request = request_figures(
        [kind],
        split,
        selection=selection or {"per_class": 1},
        look={**LOOK, "outlined": kind == "paper"},
        style={"dpi": 60, "width_in": 0.6, "file_format": file_format},
        to=to,
    )
    return list(visualize_all([RUN, *sources], None, request, overrides=overrides, root=run))


@pytest.mark.parametrize("kind", ["overlay", "contour", "parts"])
def test_one_of_each_class(kind: str, finished_run: Path, tmp_path: Path) -> None:
    paths = visualize(finished_run, tmp_path, kind=kind)
    assert [path.relative_to(tmp_path).parts[:3] for path in paths] == [(f"{RUN}-0", kind, "val")] * 2
    assert all(path.is_file() for path in paths)


def test_paper_of_a_run_and_its_checkpoint_in_pdf(finished_run: Path, tmp_path: Path) -> None:
    best = finished_run / "demo" / RUN / "trials/00000/best.safetensors"
    visualize(finished_run, tmp_path, str(best), kind="paper", file_format="pdf")
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_checkpoint_draws_what_the_archive_holds(finished_run: Path, tmp_path: Path) -> None:
    """The same image from the archive and through the model, to a grey level."""
    best = finished_run / "demo" / RUN / "trials/00000/best.safetensors"
    visualize(finished_run, tmp_path, str(best))
    archived, run_again = (sorted((tmp_path / name).rglob("*.png")) for name in (f"{RUN}-0", "best"))
    assert len(archived) == len(run_again) == 2
    for one, other in zip(archived, run_again, strict=True):
        first, second = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (one, other))
        assert np.abs(first - second).max() <= 2


def test_any_image_can_be_asked_about(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (50, 30), (200, 80, 10)).save(folder / name)
    visualize(finished_run, tmp_path / "to", images=[str(folder)])
    assert drawn(tmp_path / "to") == [f"{RUN}-0/overlay/{name}.png" for name in ("a_png", "b_png")]


def test_only_the_selected_images_are_opened(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counted(path: Path, **settings: object) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (48, 48))

    monkeypatch.setattr("attnsearch.figures.explanation.open_upright", counted)
    visualize(finished_run, tmp_path)
    assert len(opened) == 2


def test_small_copies_stand_in_for_the_data_set(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "results"
    shutil.copytree(finished_run, copied)
    (copied / "demo" / RUN / "trials/00000/best.safetensors").unlink()
    monkeypatch.setattr(ExplainedModel, "table", None)
    visualize(copied, tmp_path / "to", split="test")
    assert len(drawn(tmp_path / "to")) == 2
