"""An explained image: probabilities, maps, and figures of them; imported without torch."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from attnsearch.data.images import open_upright
from attnsearch.errors import ConfigError, UsageError, suggest
from attnsearch.figures.grid import FORMATS, Grid, Panel, PanelRow, Style
from attnsearch.figures.kinds import (
    PAIR,
    PER_IMAGE,
    DrawStyle,
    ImageMaps,
    caption_of,
    draw,
    draw_cell,
    legend_of_parts,
    scale_of,
)
from attnsearch.figures.pairs import Match, draw_pair
from attnsearch.figures.panels import Sheets, fill_axes
from attnsearch.figures.raster import Pixels
from attnsearch.types import AttentionArchive

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ON_AXES = ("overlay", "contour", "parts")
"""Types of figures of which one panel says all."""
NO_CLASSES: Mapping[str, Any] = {"class_names": (), "probabilities": np.zeros(0, dtype=np.float32), "target": ""}
"""What a model that predicts no classes makes of an image, as fields of `ImageMaps`."""
_TOP = 5


@dataclass(frozen=True)
class ImageToDraw:
    """An image that shall be drawn.

    Attributes:
        source: its file, or a small copy of it, or the decoded image.
        true: its class or identity, if it is known.
        camera: its number, for models that tell cameras apart.
    """

    image_id: str
    source: Path | Image.Image
    true: str | None = None
    camera: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Explanation(ImageMaps):
    """What a model made of one image, with the image; see `ImageMaps` for the other attributes.

    A notebook shows it as an overlay beside the most probable classes, or as both images of a match.

    Attributes:
        source: the image, or its file.
        match: the image that the saliency tells the similarity to, where there is one.
    """

    source: Path | Image.Image
    match: Match | None = None

    def __repr__(self) -> str:
        maps = f"{len(self.maps)} maps" if self.maps else "no maps"
        target = f"target {self.target!r}" if self.target else "no target"
        return f"<Explanation of {self.image_id}: {', '.join(filter(None, (self.verdict, target, maps)))}>"

    @cached_property
    def image(self) -> Pixels:
        """(H, W, 3) uint8 RGB, the upright original.

        Raises:
            DataError: the file cannot be read.
        """
        return np.asarray(open_upright(self.source, longest_px=max(self.size_hw)), dtype=np.uint8)

    def top(self, k: int = _TOP) -> pd.DataFrame:
        """The k most probable classes, a row each: `class`, `probability`; only those that are known."""
        import pandas as pd

        known = np.flatnonzero(np.isfinite(self.probabilities))
        order = known[np.argsort(-self.probabilities[known], kind="stable")][:k]
        return pd.DataFrame({"class": [self.class_names[i] for i in order], "probability": self.probabilities[order]})

    def with_target(self, name: str) -> Self:
        """The same image with the saliency of another class, one of `classes`.

        Raises:
            UsageError: that class was not explained; `TrainedModel.explain(image, target=…)` explains any.
        """
        maps = {entry.name: entry.map for entry in self.classes}
        if name not in maps:
            shown = ", ".join(maps) or "none"
            raise UsageError(
                f"there is no map of {name!r}; explained are {shown}: explain the image with target={name!r}"
            )
        return replace(self, target=name, saliency=maps[name])

    def plot(self, kind: str = "overlay", ax: Axes | None = None, *, style: DrawStyle | None = None) -> Figure | Axes:
        """A figure of one type, without a change of pyplot's state.

        Args:
            kind: one of `kinds.PER_IMAGE`, or `pair` where the target is a similarity.
            ax: draws the panel of an overlay, contour or parts on these axes.
        Returns:
            A matplotlib figure, or `ax`.
        Raises:
            ConfigError: no such type, or the maps that it shows are missing.
            UsageError: a type with several panels on one `ax`.
        """
        if ax is not None and kind not in ON_AXES:
            raise UsageError(f"{kind!r} has several panels; leave ax out, or draw one of {', '.join(ON_AXES)}")
        grid = self.grid(kind, Style(), style)
        if ax is None:
            return Sheets().draw(grid)
        fill_axes(ax, grid.rows[0].panels[1])
        return ax

    def save(self, path: str | Path, kind: str = "overlay", *, style: DrawStyle | None = None, dpi: int = 150) -> Path:
        """Writes a figure; the suffix of `path` is its format.

        Returns:
            The path.
        Raises:
            ConfigError: as `plot`, or a format that is not written.
            StoreError: the disk refuses.
        """
        path = Path(path)
        file_format = path.suffix.lower().removeprefix(".").replace("jpeg", "jpg")
        if file_format not in FORMATS:
            raise ConfigError(f"a figure is written as {', '.join(FORMATS)}, got {path.name!r}")
        sheet_style = Style(dpi=dpi, format=file_format)
        return Sheets(sheet_style).write(self.grid(kind, sheet_style, style), path)

    def grid(self, kind: str, sheet_style: Style, style: DrawStyle | None = None) -> Grid:
        """The sheet of a figure type.

        Raises:
            ConfigError: as `plot`.
            DataError: an image cannot be read.
        """
        known = (*PER_IMAGE, PAIR)
        if kind not in known:
            raise ConfigError(
                f"there is no figure type {kind!r} of one image{suggest(kind, list(known))}; known: {', '.join(known)}"
            )
        image = read_image(self.source, width_px=sheet_style.width_px)
        if kind != PAIR:
            return draw(kind, self, image, style or DrawStyle())
        if self.match is None:
            raise ConfigError(
                f"a figure of a pair needs another image; explain {self.image_id} with target=model.similarity_to(…)"
            )
        other = read_image(self.match.source, width_px=sheet_style.width_px)
        return draw_pair(self, self.match, (image, other), style or DrawStyle())

    def _repr_png_(self) -> bytes | None:
        """The overlay, or the pair where there is one, as a PNG; None where there is no saliency."""
        if self.saliency is None:
            return None
        file = io.BytesIO()
        style = Style(dpi=110)
        Sheets(style).save(self.grid("overlay" if self.match is None else PAIR, style), file)
        return file.getvalue()

    def _repr_html_(self) -> str:
        png = self._repr_png_()
        figure = "" if png is None else f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        top = self.top()
        table = top.to_html(index=False, border=0, float_format="{:.3f}".format) if len(top) else ""
        name = html.escape(self.image_id)
        return f'<div style="display:flex;gap:1em;align-items:center" title="{name}">{figure}{table}</div>'


def read_image(source: Path | Image.Image, *, width_px: int) -> Pixels:
    """(H, W, 3) uint8 RGB, the upright image with W = `width_px`.

    Raises:
        DataError: the file cannot be read.
    """
    image = open_upright(source, longest_px=2 * width_px)
    height = max(1, round(image.height * width_px / image.width))
    return np.asarray(image.resize((width_px, height)), dtype=np.uint8)


def from_archive(archive: AttentionArchive, images: Sequence[ImageToDraw]) -> Iterator[Explanation]:
    """The explanations of archived images, without running a model.

    Raises:
        KeyError: an image is not in the archive.
    """
    row_of = {image_id: row for row, image_id in enumerate(archive.image_ids)}
    for image in images:
        yield _of_row(archive, row_of[image.image_id], image)


def _of_row(archive: AttentionArchive, row: int, image: ImageToDraw) -> Explanation:
    maps = {} if archive.maps is None else dict(zip(archive.map_names, archive.maps[row], strict=True))
    return Explanation(
        image_id=image.image_id,
        source=image.source,
        true=image.true,
        size_hw=(int(archive.sizes_hw[row][0]), int(archive.sizes_hw[row][1])),
        crop_box=archive.crop_boxes[row],
        maps={name: np.asarray(values) for name, values in maps.items()},
        norm=None if archive.norms is None else np.asarray(archive.norms[row, 0]),
        saliency=None if archive.saliency is None else np.asarray(archive.saliency[row]),
        **_answer_of_row(archive, row),
    )


def _answer_of_row(archive: AttentionArchive, row: int) -> dict[str, Any]:
    """What was predicted of an image, as fields of `ImageMaps`; in re-identification of queries alone."""
    predicted, confidence = archive.class_names[archive.predictions[row]], archive.confidences[row]
    if archive.retrieval is not None:
        cosine = None if np.isnan(confidence) else float(confidence)
        return {**NO_CLASSES, "predicted": None if cosine is None else predicted, "cosine": cosine}
    probabilities = np.full(len(archive.class_names), np.nan, dtype=np.float32)
    probabilities[archive.predictions[row]] = confidence
    names = archive.class_names
    return {"class_names": names, "predicted": predicted, "probabilities": probabilities, "target": predicted}


@dataclass(frozen=True, eq=False)
class ModelColumn:
    """The explanations of some images by one model; `as_parts` draws its first maps in colours, not its saliency."""

    name: str
    explanations: Sequence[Explanation]
    as_parts: bool


def compare_models(columns: Sequence[ModelColumn], style: DrawStyle, *, width_px: int) -> Grid:
    """The same images under several models: a row per image, the image itself in the first column.

    Args:
        columns: their explanations are of the same images, in the same order.
        width_px: of a panel.
    Raises:
        ConfigError: a model made no saliency, or no maps of parts.
        DataError: an image cannot be read.
    """
    rows = []
    for explanations in zip(*(column.explanations for column in columns), strict=True):
        image = read_image(explanations[0].source, width_px=width_px)
        cells = [
            draw_cell(explanation, image, style, as_parts=column.as_parts)
            for explanation, column in zip(explanations, columns, strict=True)
        ]
        rows.append(PanelRow([Panel(image), *cells], label=explanations[0].true or ""))
    with_parts = [column.explanations[0] for column in columns if column.as_parts]
    return Grid(
        rows,
        columns=["image", *(column.name for column in columns)],
        legend=legend_of_parts(with_parts[0]) if with_parts else (),
        scale=None if len(with_parts) == len(columns) else scale_of(style),
        caption=caption_of([column.explanations[0] for column in columns]),
    )
