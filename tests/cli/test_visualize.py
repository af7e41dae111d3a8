"""`attnsearch visualize` on a finished run and on checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.cli.app import main

RUN = "br_npa_low_res"


def drawn(to: Path) -> list[str]:
    return sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())


def visualize(run: Path, to: Path, *words: str) -> int:
    return main(["visualize", RUN, *words, "--results", str(run), "--to", str(to), "--width", "0.6", "--dpi", "60"])


@pytest.mark.parametrize("kind", ["overlay", "contour", "parts"])
def test_one_of_each_class(kind: str, finished_run: Path, tmp_path: Path) -> None:
    assert visualize(finished_run, tmp_path, "--kind", kind, "--per-class", "1") == 0
    assert [name.split("/")[:3] for name in drawn(tmp_path)] == [[f"{RUN}-0", kind, "val"]] * 2


def test_paper_of_a_run_and_its_checkpoint_in_pdf(finished_run: Path, tmp_path: Path) -> None:
    kept = finished_run / "demo" / RUN / "trials/00000/best.safetensors"
    words = (str(kept), "--kind", "paper", "--per-class", "1", "--format", "pdf", "--outlines")
    assert visualize(finished_run, tmp_path, *words) == 0
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")


def test_checkpoint_draws_what_the_archive_holds(finished_run: Path, tmp_path: Path) -> None:
    """The same image from the archive and through the model, to a grey level."""
    kept = finished_run / "demo" / RUN / "trials/00000/best.safetensors"
    assert visualize(finished_run, tmp_path, str(kept), "--per-class", "1") == 0
    archived, run_again = (sorted((tmp_path / name).rglob("*.png")) for name in (f"{RUN}-0", "best"))
    assert len(archived) == len(run_again) == 2
    for one, other in zip(archived, run_again, strict=True):
        first, second = (np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (one, other))
        assert np.abs(first - second).max() <= 2


def test_any_picture_can_be_asked_about(finished_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (50, 30), (200, 80, 10)).save(folder / name)
    assert visualize(finished_run, tmp_path / "to", "--image", str(folder)) == 0
    assert drawn(tmp_path / "to") == [f"{RUN}-0/overlay/{name}.png" for name in ("a.png", "b.png")]


def test_only_the_wanted_pictures_are_opened(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counted(path: Path, **settings: object) -> Image.Image:
        opened.append(path)
        return Image.new("RGB", (48, 48))

    monkeypatch.setattr("attnsearch.figures.explanation.open_upright", counted)
    assert visualize(finished_run, tmp_path, "--per-class", "1") == 0
    assert len(opened) == 2


def test_small_copies_stand_in_for_the_data_set(finished_run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(finished_run, copied)
    (copied / "demo" / RUN / "trials/00000/best.safetensors").unlink()
    gone = "data.n_train_per_class=9"  # another data set, of which no image has these ids
    assert visualize(copied, tmp_path / "to", "--split", "test", "--per-class", "1", gone) == 0
    assert len(drawn(tmp_path / "to")) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "heads"], "--kind heads works with intr and dcal only; this model is br_npa"),
        (["--kind", "overlays"], "did you mean 'overlay'?"),
        (["--image", "nobody.jpg"], "'nobody.jpg' is neither an image of the split nor a file"),
        (["--format", "gif"], "'gif'"),
        (["--colours", "infernal"], "'infernal'"),
        (["--enlarge", "more"], "'more'"),
        (["--most-faithful", "1", "--by", "nothing"], "attnsearch faithfulness|'nothing' was not measured"),
        (["--trial", "7"], "has no trial 7"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    words: list[str], said: str, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert visualize(finished_run, tmp_path, *words) == 2
    shown = capsys.readouterr().err
    assert any(part in shown for part in said.split("|"))
    assert shown.count("\n") == 1
