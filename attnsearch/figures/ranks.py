"""Ranked galleries as figures: each query before its nearest gallery images, right and wrong ones marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from attnsearch.figures import raster
from attnsearch.figures.grid import RIGHT, WRONG, Frame, Grid, Panel, PanelRow, equally_high
from attnsearch.figures.kinds import DrawStyle, FigureContext, caption_of, scales_of
from attnsearch.figures.rankings import REMOVED_AS, RankedImage, Rankings
from attnsearch.figures.raster import Pixels

N_SHOWN = 10
"""Gallery images that are shown of a ranked list."""
WIDTH_IN = 0.85
"""Default width of a panel."""
REMOVED = "#9aa1a9"
"""Colour of what the match rule removes."""
_GAP_IN = 0.07  # room for the frames


@dataclass(frozen=True)
class RankList:
    """The beginning of a ranked gallery; `query` is its row in the split."""

    query: int
    images: Sequence[RankedImage]

    @property
    def rows(self) -> tuple[int, ...]:
        """Of the query and of its images."""
        return self.query, *(image.row for image in self.images)


def rank_list(rankings: Rankings, query: int, *, n_shown: int = N_SHOWN, with_removed: bool = False) -> RankList:
    """The nearest gallery images of a query, at most `n_shown`.

    Args:
        query: its row in the split.
        with_removed: with images that the match rule removes, at the place of their distance.
    Raises:
        ConfigError: there is no such row, or it holds a gallery image.
    """
    images = rankings.ranked(rankings.place_of(query), n_shown)
    return RankList(query, [image for image in images if with_removed or image.rank is not None][:n_shown])


@dataclass(frozen=True, eq=False)
class RankFigure:
    """Ranked galleries with their images.

    Attributes:
        rankings: of the split that rows count in.
        images: row -> image and what the model made of it; those of all lists.
    """

    lists: Sequence[RankList]
    rankings: Rankings
    images: Mapping[int, FigureContext]
    style: DrawStyle

    def grid(self, caption: str = "") -> Grid:
        """Two rows for each query: images, and their saliency under one scale; the first alone where one has no map.

        Args:
            caption: how the queries were chosen.
        Raises:
            ValueError: there is no list.
        """
        scaled = "scaled per panel" if self.style.own_scale else "one scale per query"
        mapped = [one for one in self.lists if self.has_maps(one)]
        seen = caption_of([self.images[row].explanation for one in mapped for row in one.rows])
        return Grid(
            [row for one in self.lists for row in self._rows(one)],
            legend=self._legend(),
            scale=(self.style.colours, "0", f"most salient, {scaled}") if mapped else None,
            caption="; ".join(filter(None, (caption, seen))),
            has_lead=True,
            gap_in=_GAP_IN,
        )

    def has_maps(self, one: RankList) -> bool:
        """Whether there is a map of each image of a list."""
        return all(self.images[row].explanation.saliency is not None for row in one.rows)

    def _rows(self, one: RankList) -> list[PanelRow]:
        """The images and, where there are maps, their overlays; the text stands below the last of the two."""
        is_faded = [False, *(image.rank is None for image in one.images)]
        images = _faded([self.images[row].image for row in one.rows], is_faded)
        columns = [self._query(one, images[0])]
        columns += [self._gallery(image, pixels) for image, pixels in zip(one.images, images[1:], strict=True)]
        if not self.has_maps(one):
            return [PanelRow(equally_high(columns), header=self._header(one))]
        overlays = _faded(self._overlays(one.rows), is_faded)
        upper = [Panel(column.pixels, frame=column.frame) for column in columns]
        lower = [replace(column, pixels=pixels) for column, pixels in zip(columns, overlays, strict=True)]
        return [PanelRow(equally_high(upper), header=self._header(one)), PanelRow(equally_high(lower))]

    def _overlays(self, rows: Sequence[int]) -> list[Pixels]:
        """The images of rows under their saliency: one scale for all of them, or one for each."""
        contexts = [self.images[row] for row in rows]
        maps = [context.saliency() for context in contexts]
        placed = [context.placed(one) for context, one in zip(contexts, maps, strict=True)]
        scales = scales_of(maps, placed, self.style, None)
        return [
            raster.lay_over(
                context.image,
                raster.levels(one, scale),
                raster.seen(context.box, context.size_hw),
                colours=self.style.colours,
            )
            for context, one, scale in zip(contexts, placed, scales, strict=True)
        ]

    def _header(self, one: RankList) -> str:
        retrieval, place = self.rankings.retrieval, self.rankings.place_of(one.query)
        image_id, precision = retrieval.image_ids[one.query], retrieval.average_precision[place]
        if math.isnan(precision):
            return f"{image_id}: no match in the gallery"
        return f"{image_id}: AP {precision:.3f}, first match at rank {retrieval.first_match[place]}"

    def _query(self, one: RankList, pixels: Pixels) -> Panel:
        n_matches = len(self.rankings.entries(self.rankings.place_of(one.query))[0])
        matches = f"{n_matches} match{'' if n_matches == 1 else 'es'}"
        return Panel(pixels, note="query", details=(matches, *self._names(one.query)))

    def _gallery(self, image: RankedImage, pixels: Pixels) -> Panel:
        rule = self.rankings.retrieval.match_rule
        rank = f"rank {image.rank}" if image.rank else f"– {REMOVED_AS[rule]}"
        sign = "" if image.rank is None else "✓ " if image.is_match else "✗ "
        names = ("distractor", *self._names(image.row)[1:]) if self._is_distractor(image) else self._names(image.row)
        return Panel(
            pixels,
            note=f"{sign}{rank}",
            is_correct=None if image.rank is None else image.is_match,
            details=(f"cos {image.cosine:.3f}", *names),
            frame=self._frame(image),
        )

    def _names(self, row: int) -> tuple[str, ...]:
        """Identity, and camera where it is known."""
        retrieval = self.rankings.retrieval
        identity = retrieval.identities[retrieval.labels[row]]
        if retrieval.cameras is None:
            return (identity,)
        return identity, f"camera {retrieval.camera_names[retrieval.cameras[row]]}"

    def _is_distractor(self, image: RankedImage) -> bool:
        return bool(self.rankings.retrieval.labels[image.row] == self.rankings.distractor_label)

    def _frame(self, image: RankedImage) -> Frame:
        """Green for a match, red for another identity, dashed for a distractor, grey for what is removed."""
        if image.rank is None:
            return Frame(REMOVED)
        return Frame(RIGHT if image.is_match else WRONG, is_dashed=self._is_distractor(image))

    def _legend(self) -> list[tuple[str | Frame, str]]:
        shown = [image for one in self.lists for image in one.images]
        legend: list[tuple[str | Frame, str]] = [(Frame(RIGHT), "✓ same identity"), (Frame(WRONG), "✗ other identity")]
        if any(map(self._is_distractor, shown)):
            legend.append((Frame(WRONG, is_dashed=True), "✗ distractor, of no query's identity"))
        if any(image.rank is None for image in shown):
            removed_as = REMOVED_AS[self.rankings.retrieval.match_rule]
            legend.append((Frame(REMOVED), f"– {removed_as} and identity: removed, no rank"))
        return legend


def _faded(images: Sequence[Pixels], is_faded: Sequence[bool]) -> list[Pixels]:
    """The images, some of them faded."""
    return [raster.fade(image) if faded else image for image, faded in zip(images, is_faded, strict=True)]
