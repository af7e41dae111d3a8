"""Ranked galleries as figures: each query before its nearest gallery images, right and wrong ones marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from attnsearch.figures import raster
from attnsearch.figures.grid import RIGHT, WRONG, Frame, Grid, Panel, PanelRow
from attnsearch.figures.kinds import DrawStyle, FigureContext, caption_of
from attnsearch.figures.rank_lists import REMOVED_AS, RankedImage, RankList
from attnsearch.figures.raster import Pixels
from attnsearch.types import Retrieval

WIDTH_IN = 0.85
"""Default width of a panel."""
REMOVED = "#9aa1a9"
"""Colour of what the match rule removes."""
_GAP_IN = 0.07  # room for the frames


@dataclass(frozen=True, eq=False)
class RankFigure:
    """Ranked galleries with their images.

    Attributes:
        retrieval: the split that rows count in.
        images: row -> image and what the model made of it; those of all lists.
    """

    lists: Sequence[RankList]
    retrieval: Retrieval
    images: Mapping[int, FigureContext]
    style: DrawStyle

    def grid(self, caption: str = "") -> Grid:
        """Two rows for each query: images, and their saliency under one scale; no second one where there are no maps.

        Args:
            caption: how the queries were chosen.
        Raises:
            ValueError: there is no list.
        """
        scaled = "scaled per panel" if self.style.own_scale else "one scale per query"
        seen = caption_of([context.explanation for context in self.images.values()])
        return Grid(
            [row for one in self.lists for row in self._rows(one)],
            legend=self._legend(),
            scale=(self.style.colours, "least salient", f"most salient, {scaled}") if self._has_maps else None,
            caption="; ".join(filter(None, (caption, seen))),
            has_lead=True,
            gap_in=_GAP_IN,
        )

    @property
    def _has_maps(self) -> bool:
        return all(context.explanation.saliency is not None for context in self.images.values())

    def _rows(self, one: RankList) -> list[PanelRow]:
        """The images and, where there are maps, their overlays; the text stands below the last of the two."""
        rows = [one.query, *(image.row for image in one.images)]
        is_faded = [False, *(image.rank is None for image in one.images)]
        pixels = _aligned([self.images[row].image for row in rows], is_faded)
        columns = [self._query(one, pixels[0])]
        columns += [self._gallery(image, shown) for image, shown in zip(one.images, pixels[1:], strict=True)]
        if not self._has_maps:
            return [PanelRow(columns, header=self._header(one))]
        overlays = _aligned(self._overlays(rows), is_faded)
        upper = [Panel(column.pixels, frame=column.frame) for column in columns]
        lower = [replace(column, pixels=shown) for column, shown in zip(columns, overlays, strict=True)]
        return [PanelRow(upper, header=self._header(one)), PanelRow(lower)]

    def _overlays(self, rows: Sequence[int]) -> list[Pixels]:
        """The images of rows under their saliency: one scale for all of them, or one for each."""
        contexts = [self.images[row] for row in rows]
        placed = [context.placed(context.saliency()) for context in contexts]
        bounds = None if self.style.own_scale else raster.limits(np.concatenate([one.ravel() for one in placed]))
        return [
            raster.lay_over(
                context.image,
                raster.levels(one, bounds),
                raster.seen(context.box, context.size_hw),
                colours=self.style.colours,
            )
            for context, one in zip(contexts, placed, strict=True)
        ]

    def _header(self, one: RankList) -> str:
        image_id = self.retrieval.image_ids[one.query]
        if math.isnan(one.average_precision):
            return f"{image_id}: no match in the gallery"
        return f"{image_id}: AP {one.average_precision:.3f}, first match at rank {one.first_match}"

    def _query(self, one: RankList, pixels: Pixels) -> Panel:
        matches = f"{one.n_matches} match{'' if one.n_matches == 1 else 'es'}"
        return Panel(pixels, note="query", details=(matches, *self._names(one.query)))

    def _gallery(self, image: RankedImage, pixels: Pixels) -> Panel:
        rule = self.retrieval.match_rule
        rank = f"rank {image.rank}" if image.rank else f"– {REMOVED_AS[rule]}"
        sign = "" if image.rank is None else "✓ " if image.is_match else "✗ "
        names = self._names(image.row)
        return Panel(
            pixels,
            note=f"{sign}{rank}",
            is_correct=None if image.rank is None else image.is_match,
            details=(f"cosine {image.cosine:.3f}", *(("distractor", *names[1:]) if image.is_distractor else names)),
            frame=_frame(image),
        )

    def _names(self, row: int) -> tuple[str, ...]:
        """Identity, and camera where it is known."""
        retrieval = self.retrieval
        identity = retrieval.identities[retrieval.labels[row]]
        if retrieval.cameras is None:
            return (identity,)
        return identity, f"camera {retrieval.camera_names[retrieval.cameras[row]]}"

    def _legend(self) -> list[tuple[str | Frame, str]]:
        shown = [image for one in self.lists for image in one.images]
        legend: list[tuple[str | Frame, str]] = [(Frame(RIGHT), "✓ same identity"), (Frame(WRONG), "✗ other identity")]
        if any(image.is_distractor for image in shown):
            legend.append((Frame(WRONG, is_dashed=True), "✗ distractor, of no query's identity"))
        if any(image.rank is None for image in shown):
            legend.append((Frame(REMOVED), f"– {REMOVED_AS[self.retrieval.match_rule]} and identity: removed, no rank"))
        return legend


def _frame(image: RankedImage) -> Frame:
    """Green for a match, red for another identity, dashed for a distractor, grey for what is removed."""
    if image.rank is None:
        return Frame(REMOVED)
    return Frame(RIGHT if image.is_match else WRONG, is_dashed=image.is_distractor)


def _aligned(images: Sequence[Pixels], is_faded: Sequence[bool]) -> list[Pixels]:
    """Images of one width with white above and below the lower ones, some of them faded."""
    height = max(len(image) for image in images)
    return [
        raster.pad_height(raster.fade(image) if faded else image, height)
        for image, faded in zip(images, is_faded, strict=True)
    ]
