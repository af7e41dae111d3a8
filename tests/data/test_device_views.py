"""Views on the device of a training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from attnsearch.config.data import FolderData
from attnsearch.data.augment import cut
from attnsearch.data.device_views import gather, send_views
from attnsearch.data.transfer import Transfer
from attnsearch.data.views import random_views

CPU = Transfer(torch.device("cpu"))
SIZES = np.random.default_rng(0).integers(10, 40, size=(12, 2))
ROWS = np.array([3, 3, 0, 11, 7, 7, 7, 2])


def config(**changes: object) -> FolderData:
    values = {"root": "x", "image_size_px": (24, 16), "crop_ratio": 0.8, **changes}
    return FolderData(**values)  # type: ignore[arg-type]


def test_views_arrive_as_they_were() -> None:
    cfg = config(pad_px=5, erase=0.7, cell_deletion=0.5)
    views = random_views(SIZES, cfg, seed=1, epoch=2, rows=ROWS)
    shown_hw = SIZES[ROWS]
    sent = send_views(views, ROWS, 2 * ROWS, shown_hw=shown_hw, transfer=CPU)
    expected = {"rows": ROWS, "cache_rows": 2 * ROWS, "shown_hw": shown_hw}
    names = ("x", "y", "is_mirrored", "brightness", "saturation", "erased", "deleted")
    for name, array in {**expected, **{name: getattr(views, name) for name in names}}.items():
        found = getattr(sent, name).numpy()
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    part = sent.take(slice(2, 5))
    assert part.brightness.tolist() == views.brightness[2:5].tolist()
    assert part.x.data_ptr() != sent.x.data_ptr()
    assert part.x.untyped_storage().data_ptr() == sent.x.untyped_storage().data_ptr()  # no copy


def test_what_is_not_drawn_is_not_sent() -> None:
    sent = send_views(random_views(SIZES, config(), seed=1, epoch=2), *2 * [np.arange(12)], shown_hw=None, transfer=CPU)
    assert (sent.shown_hw, sent.erased, sent.deleted) == (None, None, None)
    assert sent.take(slice(3)).erased is None


@pytest.mark.parametrize(
    "changes", [{}, {"pad_px": 9}, {"resize": "pad", "crop_ratio": 1.0}, {"flip": 1.0, "pad_px": 15}]
)
@pytest.mark.parametrize("trailing", [(3,), ()])
def test_gathered_pixels_are_those_that_are_cut(changes: dict[str, object], trailing: tuple[int, ...]) -> None:
    cfg = config(**changes)
    pixels = np.random.default_rng(1).integers(1, 256, size=(12, *cfg.resized_hw, *trailing), dtype=np.uint8)
    views = random_views(SIZES, cfg, seed=3, epoch=1, rows=ROWS)
    if cfg.resize == "pad":
        assert (views.x < 0).any()
    sent = send_views(views, ROWS, ROWS, shown_hw=None, transfer=CPU)
    shown = gather(torch.from_numpy(pixels), sent.cache_rows, sent, cfg)
    assert shown.dtype == torch.uint8
    np.testing.assert_array_equal(shown.numpy(), cut(pixels, ROWS, views, cfg))
    assert len({image.tobytes() for image in shown.numpy()}) > 4
    still = replace(views, is_mirrored=~views.is_mirrored)
    assert not np.array_equal(cut(pixels, ROWS, still, cfg), shown.numpy())
