"""A model input that is higher than wide, from the images to the scores of its maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.config.data import FolderData
from attnsearch.config.evaluation import ScoreSettings
from attnsearch.data.loader import BatchLoader, crop_boxes, open_data
from attnsearch.evaluation.evaluation import Evaluation, load_model
from attnsearch.store.archive import read_archive
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.trainer import fit
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD
from tests.tiny import ConfigMaker, RecordingContext, frozen_imports, one_thread, picture_root, tiny_config

__all__ = ["frozen_imports", "one_thread", "picture_root", "tiny_config"]

HEIGHT, WIDTH = 48, 32
ORIENTATION = 0x0112
UPRIGHT_HW = (240, 180)


def write_ramp(path: Path, orientation: int) -> None:
    """An image of `UPRIGHT_HW` whose red is x / width and whose green is y / height, stored turned as EXIF says."""
    height, width = UPRIGHT_HW
    y, x = np.mgrid[:height, :width] + 0.5
    pixels = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 128)], axis=-1).round().astype(np.uint8)
    stored = {1: pixels, 6: np.rot90(pixels, 1), 8: np.rot90(pixels, -1)}[orientation]
    image = Image.fromarray(np.ascontiguousarray(stored))
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("cache_px", [None, (100, 80)])
@pytest.mark.parametrize(("resize", "ratio"), [("squash", 0.8), ("crop", 0.8), ("pad", 1.0)])
@pytest.mark.parametrize("image_hw", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)])
def test_every_pixel_shows_the_place_that_the_crop_box_says(
    tmp_path: Path,
    image_hw: tuple[int, int],
    resize: str,
    ratio: float,
    cache_px: tuple[int, int] | None,
    orientation: int,
) -> None:
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            write_ramp(tmp_path / split / name / "0.png", orientation)
    settings = {"image_size_px": image_hw, "resize": resize, "crop_ratio": ratio, "cache_px": cache_px}
    cfg = FolderData.model_validate({"root": str(tmp_path), **settings})
    source = open_data(cfg)
    (batch,) = BatchLoader(source, "val", batch_size=2, device="cpu").epoch(1)
    assert batch.images.shape == (2, 3, *image_hw)
    seen = batch.images[0].permute(1, 2, 0).numpy() * IMAGENET_STD + IMAGENET_MEAN  # (H, W, 3)
    left, top, right, bottom = crop_boxes(source, "val", cfg)[0]
    y = top + (np.arange(image_hw[0]) + 0.5) / image_hw[0] * (bottom - top)
    x = left + (np.arange(image_hw[1]) + 0.5) / image_hw[1] * (right - left)
    expected = np.stack(np.broadcast_arrays(x / UPRIGHT_HW[1], y[:, None] / UPRIGHT_HW[0]), axis=-1)  # (H, W, 2)
    inside = (expected > 0.04).all(axis=-1) & (expected < 0.96).all(axis=-1)  # the resize mirrors nothing at borders
    assert inside.mean() > 0.4
    np.testing.assert_allclose(seen[inside][:, :2], expected[inside], atol=0.025)


def test_a_rectangular_run_trains_archives_scores_and_explains(tiny_config: ConfigMaker, tmp_path: Path) -> None:
    config = tiny_config(data={"image_size_px": [HEIGHT, WIDTH]}, train={"epochs": 1})
    data = open_data(config.data)
    fit(config, RecordingContext(tmp_path), data=data)
    files = TrialLayout(tmp_path)
    with Evaluation.open(files.best, data) as evaluation:
        metrics = evaluation.run("val", archive=files.archive("val"))
        table = evaluation.score(
            files.archive("val"), files.scores("val"), settings=ScoreSettings(n_images=4, n_steps=3, grid=None)
        )
    archived = read_archive(files.archive("val"))
    assert metrics["val/loss"] == pytest.approx(metrics["val/cross_entropy"], rel=1e-5)
    assert archived.saliency is not None
    assert archived.saliency.shape == (6, 2, 1)  # 32 px a cell, the last one filled up
    assert len(table.image_ids) == 4
    assert np.isfinite(table.terms["relevance_gain.area"]).all()
    image = data.tables.val.paths[0]
    explanation = load_model(files.best, device="cpu").explain(image)
    np.testing.assert_allclose(explanation.saliency, archived.saliency[0], atol=1e-4)
