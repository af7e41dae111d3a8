"""The views of an epoch on the device of a training, sent there in one copy."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.config.images import DataSettings
from attnsearch.data.transfer import Transfer
from attnsearch.data.views import Views


@dataclass(frozen=True, eq=False)
class DeviceViews:
    """How each image of an epoch or of a batch is shown, (B, ...) on the device; see `Views`.

    Attributes:
        rows: (B,) int64 positions in the split.
        cache_rows: (B,) int64 positions in the cached pixels.
        x, y: (B,) int64.
        is_mirrored: (B,) bool.
        brightness, saturation: (B,) float32.
        shown_hw: (B, 2) int64 height and width beyond which an image is padding, or None where there is none.
        erased, deleted: (B, 4) int64, or None.
    """

    rows: Tensor
    cache_rows: Tensor
    x: Tensor
    y: Tensor
    is_mirrored: Tensor
    brightness: Tensor
    saturation: Tensor
    shown_hw: Tensor | None
    erased: Tensor | None
    deleted: Tensor | None

    def take(self, places: slice) -> DeviceViews:
        """Those of some images, which share the memory."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: None if value is None else value[places] for name, value in values.items()}
        return DeviceViews(**taken)


def send_views(
    views: Views,
    rows: NDArray[np.int64],
    cache_rows: NDArray[np.int64],
    *,
    shown_hw: NDArray[np.int64] | None,
    transfer: Transfer,
) -> DeviceViews:
    """The views of images (B) on the device, all in one copy.

    Args:
        rows, cache_rows, shown_hw: see `DeviceViews`.
    """
    columns = {
        **{"rows": rows, "cache_rows": cache_rows, "x": views.x, "y": views.y, "is_mirrored": views.is_mirrored},
        **{"brightness": views.brightness, "saturation": views.saturation},
        **{"shown_hw": shown_hw, "erased": views.erased, "deleted": views.deleted},
    }
    given: dict[str, NDArray[Any]] = {name: column for name, column in columns.items() if column is not None}
    tables = [_as_int64(column) for column in given.values()]
    packed = transfer.send(np.concatenate(tables, axis=1)).receive()  # (B, ·)
    parts = torch.split(packed, [table.shape[1] for table in tables], dim=1)
    sent = {name: _as_before(part, given[name]) for name, part in zip(given, parts, strict=True)}
    tensors: dict[str, Any] = {name: sent.get(name) for name in columns}
    return DeviceViews(**tensors)


def _as_int64(column: NDArray[Any]) -> NDArray[np.int64]:
    """(B, ·) int64 that hold integers or truth values as they are, and floats by the bits of their float64."""
    table = column.reshape(len(column), -1)
    return table.astype(np.float64).view(np.int64) if table.dtype.kind == "f" else table.astype(np.int64)


def _as_before(part: Tensor, column: NDArray[Any]) -> Tensor:
    """The inverse of `_as_int64`, in the shape and the type of the column."""
    values = part.contiguous()
    if column.dtype.kind == "f":
        values = values.view(torch.float64).to(torch.float32)
    elif column.dtype.kind == "b":
        values = values.bool()
    return values.view(column.shape)


def gather(pixels: Tensor, rows: Tensor, views: DeviceViews, cfg: DataSettings) -> Tensor:
    """`augment.cut` on the device: crops and flips of resident pixels, (B, H, W, ...) uint8.

    Args:
        pixels: (M, resized height, resized width, ...).
        rows: (B,) int64, of `pixels`.
    """
    height, width = cfg.image_hw
    lines, columns = (torch.arange(side, device=pixels.device) for side in (height, width))
    columns = torch.where(views.is_mirrored[:, None], width - 1 - columns, columns)  # (B, W)
    y, x = views.y[:, None] + lines, views.x[:, None] + columns  # (B, H), (B, W)
    last_y, last_x = pixels.shape[1] - 1, pixels.shape[2] - 1
    if cfg.resize == "pad":
        x = torch.where(x < 0, x + last_x + 1, x)
    shown = pixels[rows[:, None, None], y.clamp(0, last_y)[:, :, None], x.clamp(0, last_x)[:, None, :]]
    is_inside = ((y >= 0) & (y <= last_y))[:, :, None] & ((x >= 0) & (x <= last_x))[:, None, :]  # (B, H, W)
    return shown * is_inside.view(*is_inside.shape, *(1 for _ in pixels.shape[3:]))
