"""What in one image matched what in another, as a figure of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attnsearch import geometry
from attnsearch.figures import raster
from attnsearch.figures.grid import Grid, Mark, Panel, PanelRow, equally_high
from attnsearch.figures.kinds import DrawStyle, FigureContext, ImageMaps, Method, caption_of
from attnsearch.figures.raster import Floats, Pixels

METHODS: dict[Method, str] = {
    "occlusion": "what the cosine loses without each cell",
    "own": "the model's own map",
    "pair": "what each cell adds to the cosine",
    "gradient_rollout": "gradient rollout of the cosine",
}
N_PAIRS = 5
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a07000")
"""Of pairs of cells, the strongest first."""
_CAPTIONS: dict[Method, str] = {
    "occlusion": "each cell of one image alone was replaced by the mean colour; cells without which the cosine rises "
    "stay clear",
    "own": "where the model looks, whichever image it is compared with",
    "pair": "the features of the cells of each image add up to the cosine; cells that lower it stay clear",
    "gradient_rollout": "where attention raises the cosine",
}
_JOINED = "numbers join the pairs of cells whose features add most to the cosine, each cell once"
_IN_COSINES: tuple[Method, ...] = ("occlusion", "pair")
"""Both images have maps in units of the cosine, so that one scale suits both."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Match:
    """Why an image resembles another one, which the attributes are about unless they say otherwise.

    Attributes:
        source: the image, or its file.
        true: its identity, if it is known.
        size_hw: of the upright original, in pixels.
        crop_box: (4,) left, top, right, bottom of the model's view in original pixels.
        map: (h, w), signed where it is what cells add to the cosine.
        own_map: (h, w) of the explained image.
        pairs: (k, l, m, n) what each pair of cells adds to the cosine, of the k x l cells of the explained image and
            the m x n cells of this one; None where the embedding is no sum over cells.
        method: by which both maps were made.
    """

    image_id: str
    source: Path | Image.Image
    true: str | None
    size_hw: tuple[int, int]
    crop_box: NDArray[np.float64]
    map: Floats
    own_map: Floats
    pairs: Floats | None
    method: Method


def strongest_pairs(pairs: Floats, n_pairs: int = N_PAIRS) -> list[tuple[int, int, float]]:
    """The pairs of cells that add most, (cell, cell of the other image, what they add), each cell once.

    Args:
        pairs: (P, R), cells row by row.
    Returns:
        At most `n_pairs`, and only such as add something.
    """
    left = np.array(pairs, dtype=np.float64)
    found: list[tuple[int, int, float]] = []
    while len(found) < min(n_pairs, *left.shape) and left.max() > 0:
        one, other = divmod(int(left.argmax()), left.shape[1])
        found.append((one, other, float(left[one, other])))
        left[one], left[:, other] = -np.inf, -np.inf
    return found


def draw_pair(explanation: ImageMaps, match: Match, images: tuple[Pixels, Pixels], style: DrawStyle) -> Grid:
    """Both images, their maps between them, and numbers on the cells that matched.

    Args:
        explanation: of the first image; its cosine is that of both.
        images: (H, W, 3) each, the whole upright originals, of one width.
    """
    other = replace(
        explanation, image_id=match.image_id, true=match.true, size_hw=match.size_hw, crop_box=match.crop_box
    )
    figure = _PairFigure(match, (FigureContext(explanation, images[0], style), FigureContext(other, images[1], style)))
    return figure.grid(_header(explanation, match), style)


@dataclass(frozen=True, eq=False)
class _PairFigure:
    """Two images under their maps; `contexts` are of the explained image and of the other one."""

    match: Match
    contexts: tuple[FigureContext, FigureContext]

    def grid(self, header: str, style: DrawStyle) -> Grid:
        shown = self._shown_pairs()
        first, second = self._overlays(style)
        panels = [
            self._image(0),
            replace(first, marks=self._marks(0, [pair[0] for pair in shown])),
            replace(second, marks=self._marks(1, [pair[1] for pair in shown])),
            self._image(1),
        ]
        links = [((1, index), (2, index)) for index in range(len(shown))]
        seen = caption_of([context.explanation for context in self.contexts])
        return Grid(
            [PanelRow(equally_high(panels), header=header, links=links)],
            legend=[(COLOURS[index], f"pair {index + 1} adds {value:.3g}") for index, (*_, value) in enumerate(shown)],
            scale=self._scale(style),
            caption="; ".join(filter(None, (_CAPTIONS[self.match.method], _JOINED if shown else "", seen))),
        )

    @property
    def _maps(self) -> tuple[Floats, Floats]:
        """Both maps; cells that lower the cosine are as clear as those that add nothing."""
        return self.match.own_map.clip(min=0), self.match.map.clip(min=0)

    @property
    def _is_shared(self) -> bool:
        return self.match.method in _IN_COSINES

    def _image(self, side: int) -> Panel:
        shown = self.contexts[side].explanation
        note = "" if shown.true is None else f"identity {shown.true}"
        return Panel(self.contexts[side].image, title=PurePath(shown.image_id).name, note=note)

    def _overlays(self, style: DrawStyle) -> list[Panel]:
        """Each image under its map, whose scale starts at 0 where it is in units of the cosine."""
        bounds = (0.0, self._highest) if self._is_shared and not style.own_scale else None
        return [
            context.overlays({METHODS[self.match.method]: one}, bounds)[0]
            for context, one in zip(self.contexts, self._maps, strict=True)
        ]

    @property
    def _highest(self) -> float:
        """Of both maps as they are drawn."""
        return max(
            raster.limits(context.placed(one))[1] for context, one in zip(self.contexts, self._maps, strict=True)
        )

    def _shown_pairs(self) -> list[tuple[int, int, float]]:
        """The strongest pairs, without cells whose middle lies in the padding beyond an image, which is not drawn."""
        if self.match.pairs is None:
            return []
        first, second = (self._is_seen(side) for side in (0, 1))  # (P,), (R,)
        pairs = self.match.pairs.reshape(len(first), len(second))
        return strongest_pairs(np.where(first[:, None] & second, pairs, np.float32(-np.inf)))

    def _is_seen(self, side: int) -> NDArray[np.bool_]:
        """Whether the middle of each cell lies in the image, row by row."""
        h, w = self._cells(side)
        boxes = [self._box(side, cell) for cell in range(h * w)]
        middles = np.array([[(top + bottom) / 2, (left + right) / 2] for left, top, right, bottom in boxes])
        inside: NDArray[np.bool_] = np.all((middles >= 0) & (middles < self.contexts[side].size_hw), axis=1)
        return inside

    def _cells(self, side: int) -> tuple[int, int]:
        """How many rows and columns of cells an image has in the pairs."""
        assert self.match.pairs is not None
        h, w = self.match.pairs.shape[2 * side : 2 * side + 2]
        return h, w

    def _box(self, side: int, cell: int) -> tuple[float, float, float, float]:
        """The box of a cell of the pairs, which count row by row, in pixels of its image."""
        h, w = self._cells(side)
        left, top, right, bottom = geometry.cell_box(
            self.contexts[side].box, map_hw=(h, w), row=cell // w, column=cell % w
        )
        return float(left), float(top), float(right), float(bottom)

    def _marks(self, side: int, cells: Sequence[int]) -> tuple[Mark, ...]:
        """Numbered boxes around cells."""
        return tuple(Mark(self._box(side, cell), COLOURS[i], str(i + 1)) for i, cell in enumerate(cells))

    def _scale(self, style: DrawStyle) -> tuple[str, str, str]:
        if self._is_shared and not style.own_scale:
            return style.colours, "0 or less", f"{self._highest:.3g} of the cosine"
        return style.colours, "0", "most salient, scaled per panel"


def _header(explanation: ImageMaps, match: Match) -> str:
    """The cosine, and whether the identities are the same where both are known."""
    assert explanation.cosine is not None
    cosine = f"cosine {explanation.cosine:.3f}"
    if explanation.true is None or match.true is None:
        return cosine
    return f"{cosine}, {'✓ same identity' if explanation.true == match.true else '✗ other identity'}"
