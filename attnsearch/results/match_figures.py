"""Figures of re-identification: ranked galleries, and what in two images matched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from attnsearch.errors import ConfigError, suggest
from attnsearch.figures.explanation import Explanation, ImageToDraw, read_image
from attnsearch.figures.grid import Style
from attnsearch.figures.kinds import PAIR, RANKS, DrawStyle, FigureContext
from attnsearch.figures.panels import Sheets
from attnsearch.figures.rankings import Rankings
from attnsearch.figures.ranks import RankFigure, RankList, rank_list
from attnsearch.figures.selection import DEFAULT_QUERIES, ImageIndex, ImageSelection, choose
from attnsearch.results.explained import ExplainedModel, ImagesOfSplit
from attnsearch.types import Retrieval

PER_SHEET = 6
"""Queries on one sheet of ranked galleries."""


@dataclass(frozen=True, eq=False)
class MatchFigures:
    """The figures of one model, of queries that a selection chooses, below a folder."""

    model: ExplainedModel
    selection: ImageSelection
    look: DrawStyle
    sheets: Sheets
    folder: Path

    @cached_property
    def retrieval(self) -> Retrieval:
        """The ranked galleries of the split, from the archive where retention left them, else from the checkpoint.

        Raises:
            ConfigError: neither is left.
            DataError: the checkpoint is needed, and the data set cannot be used.
        """
        archive = self.model.archive
        if archive is not None and archive.retrieval is not None:
            return archive.retrieval
        from attnsearch.data.loader import open_data  # these import torch
        from attnsearch.evaluation.base import ModelOnData
        from attnsearch.evaluation.retrieval import rank_gallery

        inference = self.model.inference
        return rank_gallery(ModelOnData.of(inference, open_data(inference.config.data)), self.model.split)

    @cached_property
    def rankings(self) -> Rankings:
        """Its ranked galleries, image by image."""
        return Rankings(self.retrieval)

    @cached_property
    def images(self) -> ImagesOfSplit:
        """Where all images of the split lie."""
        table, archive = self.model.table, self.model.archive
        if table is not None:
            identities = _names(table.image_ids, table.labels, table.class_names)
        elif archive is not None and archive.retrieval is not None:
            retrieval = archive.retrieval
            identities = _names(retrieval.image_ids, retrieval.labels, retrieval.identities)
        else:
            identities = {}
        return ImagesOfSplit.of(self.model, identities)

    @cached_property
    def wanted(self) -> ImageSelection:
        """The selection, or the worst queries where none says which."""
        is_open = self.selection.names_no_images and not self.selection.classes
        return replace(self.selection, worst=DEFAULT_QUERIES) if is_open else self.selection

    def save_ranks(self) -> Iterator[Path]:
        """Writes the ranked galleries of the chosen queries, some on each sheet.

        Raises:
            ConfigError: an image that is no query, or one that is not on this machine; or neither maps nor a checkpoint
                are left.
            DataError: an image cannot be read.
        """
        lists = [rank_list(self.rankings, row, with_removed=self.look.with_removed) for row in self._queries()]
        rows = list(dict.fromkeys(row for one in lists for row in one.rows))
        images = [self._image(row) for row in rows]
        explanations = dict(zip(rows, self.model.explain(RANKS, images), strict=True))
        style = self.sheets.style
        for start in range(0, len(lists), PER_SHEET):
            grid = self._ranks(lists[start : start + PER_SHEET], explanations).grid(_how_chosen(self.wanted))
            name = f"{self.model.split}_sheet_{start // PER_SHEET + 1}.{style.format}"
            yield self.sheets.write(grid, self.folder / RANKS / name)

    def _ranks(self, lists: Sequence[RankList], explanations: dict[int, Explanation]) -> RankFigure:
        shown = {row: explanations[row] for one in lists for row in one.rows}
        contexts = {
            row: FigureContext(one, read_image(one.source, width_px=self.sheets.style.width_px), self.look)
            for row, one in shown.items()
        }
        return RankFigure(lists, self.rankings, contexts, self.look)

    def save_pairs(self) -> Iterator[Path]:
        """Writes a figure for each chosen query and the image that it is compared with.

        That is the one that the selection names, else the nearest gallery image, and where that is of another
        identity the nearest match too.

        Raises:
            ConfigError, DataError: as `save_ranks`.
            UsageError: the model can have no map of the method.
        """
        from attnsearch.evaluation.matches import explain_matches  # imports torch

        pairs = self._named_pairs() if self.wanted.other else self._nearest_pairs()
        firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
        style = self.sheets.style
        for explanation in explain_matches(self.model.inference, firsts, seconds, method=self.look.method):
            assert explanation.match is not None
            query = file_name(explanation.image_id, style)
            other = file_name(explanation.match.image_id.replace("/", "__"), style)
            name = f"{query.stem}_and_{other.stem}_by_{self.look.method}{query.suffix}"
            grid = explanation.grid(PAIR, style, self.look)
            yield self.sheets.write(grid, self.folder / PAIR / query.with_name(name))

    def _queries(self) -> list[int]:
        """The rows of the chosen queries in the split.

        Raises:
            ConfigError: a named image is no query of the split, or no query fits.
        """
        index = ImageIndex.of_queries(self.retrieval)
        row_of = dict(zip(index.image_ids, self.rankings.query_rows.tolist(), strict=True))
        for name in self.wanted.images:
            if name not in row_of:
                near = suggest(name, list(row_of))
                raise ConfigError(
                    f"--image {name!r} is no query of {self.model.split}{near}; queries alone have a ranked gallery, "
                    "and --with IMAGE compares any other image in --kind pair"
                )
        rows = [row_of[name] for name in [*self.wanted.images, *choose(index, self.wanted, self.model.scores)]]
        if not rows:
            raise ConfigError("no query fits; ask for others")
        return list(dict.fromkeys(rows))

    def _named_pairs(self) -> list[tuple[ImageToDraw, ImageToDraw]]:
        """Each chosen image, of the split or a file, and the one that is named."""
        others = self.images.named(self.wanted.other, option="--with")
        if len(others) != 1:
            raise ConfigError(f"--with {self.wanted.other} must be one image, got a folder of {len(others)}")
        if self.wanted.images:
            images = [image for name in self.wanted.images for image in self.images.named(name)]
        else:
            images = [self._image(row) for row in self._queries()]
        return [(image, others[0]) for image in images]

    def _nearest_pairs(self) -> list[tuple[ImageToDraw, ImageToDraw]]:
        """Each query and its nearest gallery image, and where that is of another identity its nearest match too."""
        pairs: dict[tuple[int, int], None] = {}
        for row in self._queries():
            place = self.rankings.place_of(row)
            nearest = int(self.rankings.nearest[place]), int(self.rankings.nearest_matches[place])
            pairs |= dict.fromkeys((row, other) for other in nearest if other >= 0)
        return [(self._image(row), self._image(other)) for row, other in pairs]

    def _image(self, row: int) -> ImageToDraw:
        return self.images.image(self.retrieval.image_ids[row])


def _names(image_ids: Sequence[str], labels: NDArray[np.int64], names: Sequence[str]) -> dict[str, str]:
    """Image id -> name of its label."""
    return {image_id: names[label] for image_id, label in zip(image_ids, labels.tolist(), strict=True)}


def _how_chosen(selection: ImageSelection) -> str:
    """A line that tells how to get the same queries again."""
    ways = {
        "queries with the lowest average precision, the worst first": selection.worst,
        f"queries by chance, seed {selection.seed}": selection.random,
    }
    return ", then ".join(way for way, n_queries in ways.items() if n_queries)


def file_name(image_id: str, style: Style) -> Path:
    """The id with its folders and the ending of the figure alone: `a.jpg` is `a.png`.

    Other endings stay in the name, so that `a.jpg` and `a.png` do not meet: `a.png` is `a_png.png`.
    """
    image = PurePosixPath(image_id)
    ending = image.suffix.lower()
    kept = "" if ending == ".jpg" else ending.replace(".", "_")
    return Path(image.parent, f"{image.stem}{kept}.{style.format}")
