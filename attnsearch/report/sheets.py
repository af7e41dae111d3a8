"""The sample images of a report with their maps, and ranked galleries, as JPEG in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from attnsearch.errors import AttnSearchError
from attnsearch.evaluation.ranking import hardest_queries
from attnsearch.figures.explanation import (
    NO_CLASSES,
    ImageToDraw,
    ModelColumn,
    compare_models,
    from_archive,
    read_image,
)
from attnsearch.figures.grid import Grid, Style
from attnsearch.figures.kinds import DrawStyle, FigureContext, ImageMaps
from attnsearch.figures.panels import Sheets
from attnsearch.figures.rankings import Rankings
from attnsearch.figures.ranks import RankFigure, rank_list
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose
from attnsearch.report.facts import StudyFacts
from attnsearch.results.retrieval import how_to_rank_again
from attnsearch.results.trial import TrialReader
from attnsearch.types import AttentionArchive, Split

MAX_IMAGES = 6
MAX_STUDIES = 6
N_QUERIES = 3
"""Queries of each of the two sheets of ranked galleries."""
_CLASS_STYLE = Style(dpi=130, width_in=1.15, format="jpg")
_RANK_STYLE = Style(dpi=100, width_in=0.85, format="jpg")


@dataclass(frozen=True)
class Sheet:
    """A JPEG as the address of an `<img>`, and what it shows."""

    address: str
    title: str


@dataclass(frozen=True, eq=False)
class _Column:
    """The best trial of a study, with an archive that has its arrays."""

    facts: StudyFacts
    trial: TrialReader
    archive: AttentionArchive

    @property
    def has_parts(self) -> bool:
        return self.facts.config is not None and "parts" in self.facts.config.model.figure_kinds

    @property
    def saliency_text(self) -> str:
        """The grid of the saliency."""
        assert self.archive.saliency is not None
        _, h, w = self.archive.saliency.shape
        return f"saliency, {h}x{w} ({h * w} cells)"


def sample_sheets(facts: Sequence[StudyFacts]) -> list[Sheet]:
    """Two sheets of classes at most; none where the maps or the images are not in the folder."""
    of_classes = [one for one in facts if not one.is_retrieval]
    columns = [column for one in of_classes if (column := _column_of(one)) is not None][:MAX_STUDIES]
    if not columns:
        return []
    columns = [one for one in columns if one.archive.split == columns[0].archive.split]
    known = ImageIndex.of_archive(columns[0].archive)
    one_each = choose(known, ImageSelection(per_class=1), None)
    spread = one_each[:: -(-len(one_each) // MAX_IMAGES)]
    sheets = [_class_sheet(columns, spread, "Images of several classes")]
    try:
        errors = choose(known, ImageSelection(confused=4), None)
    except AttnSearchError:  # nothing was confused
        errors = []
    title = f"Errors of {columns[0].facts.name} between the two classes that it confuses most"
    return [one for one in [*sheets, _class_sheet(columns, errors, title)] if one is not None]


def _column_of(facts: StudyFacts) -> _Column | None:
    trial = facts.best_trial
    if trial is None:
        return None
    archives = trial.archives()
    splits: tuple[Split, ...] = ("test", "val")
    for split in splits:
        if split in archives:
            try:
                archive = trial.archive(split)
            except AttnSearchError:  # retention removed the arrays
                continue
            return None if archive.saliency is None else _Column(facts, trial, archive)
    return None


def _class_sheet(columns: Sequence[_Column], image_ids: Sequence[str], title: str) -> Sheet | None:
    """The images that all archives hold, by study; None where there is none."""
    shared = [one for one in image_ids if all(one in column.archive.image_ids for column in columns)]
    images = _images_at_hand(columns[0], shared)
    if not images:
        return None
    models = [
        ModelColumn(column.facts.name, list(from_archive(column.archive, images)), column.has_parts)
        for column in columns
    ]
    grid = compare_models(models, DrawStyle(), width_px=_CLASS_STYLE.width_px)
    return _as_address(grid, _CLASS_STYLE, f"{title} ({columns[0].archive.split}); {_grids(columns)}")


def _grids(columns: Sequence[_Column]) -> str:
    """How fine the saliency is, by study where they differ: `saliency, 3x3 (9 cells)`."""
    texts = {column.facts.name: column.saliency_text for column in columns}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _as_address(grid: Grid, style: Style, title: str) -> Sheet:
    """The grid as a JPEG in the page."""
    jpeg = io.BytesIO()
    Sheets(style).save(grid, jpeg)
    return Sheet(f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}", title)


def _images_at_hand(column: _Column, image_ids: Sequence[str]) -> list[ImageToDraw]:
    """Those of which the small copy is there, or the original where the data set is on this machine."""
    archive = column.archive
    label_of = dict(zip(archive.image_ids, archive.labels.tolist(), strict=True))
    paths = {one: column.trial.image_file(one, archive.split) for one in image_ids}
    return [
        ImageToDraw(one, path, archive.class_names[label_of[one]]) for one, path in paths.items() if path is not None
    ]


@dataclass(frozen=True)
class RankSheets:
    """Ranked galleries, and what is not shown of them with the reason, in one line that may be empty."""

    sheets: Sequence[Sheet] = ()
    note: str = ""


def rank_sheets(facts: StudyFacts) -> RankSheets:
    """The queries with the lowest AP and others that are spread evenly over the rest, each before its gallery.

    Maps are shown of a query that has them for all images of its row.
    """
    trial, index, retrieval = facts.best_trial, facts.archive, facts.retrieval
    if trial is None or index is None or retrieval is None:
        return RankSheets()
    if not retrieval.has_ranks:
        how = how_to_rank_again(trial, index.split)
        return RankSheets(note=f"No ranked galleries are shown: features and ranks were removed; {how}.")
    galleries = _Galleries(trial, index.split, Rankings(retrieval), _with_arrays(trial, index.split))
    order = hardest_queries(retrieval, len(retrieval.first_match))
    rest = order[N_QUERIES:]
    spread = rest[:: max(1, len(rest) // N_QUERIES)][:N_QUERIES]
    titles = {"queries with the lowest average precision": order[:N_QUERIES], "other queries": spread}
    figures = {
        f"Ranked galleries of {facts.name}: {what} ({index.split})": galleries.figure(places)
        for what, places in titles.items()
    }
    sheets = [_as_address(one.grid(), _RANK_STYLE, title) for title, one in figures.items() if one.lists]
    return RankSheets(sheets, galleries.note(figures.values(), sum(map(len, titles.values()))))


def _with_arrays(trial: TrialReader, split: Split) -> AttentionArchive | None:
    """The archive of a split; None where retention removed its arrays."""
    try:
        return trial.archive(split)
    except AttnSearchError:
        return None


@dataclass(frozen=True, eq=False)
class _Galleries:
    """The ranked galleries of a trial on one split; `archive` is None where there are no maps."""

    trial: TrialReader
    split: Split
    rankings: Rankings
    archive: AttentionArchive | None

    def figure(self, places: Sequence[int]) -> RankFigure:
        """The ranked galleries of the queries at some places whose images are all at hand, which may be none."""
        lists = [rank_list(self.rankings, int(self.rankings.query_rows[place])) for place in places]
        files = self._files({row for one in lists for row in one.rows})
        whole = [one for one in lists if files.keys() >= set(one.rows)]
        images = {row: self._context(row, files[row]) for one in whole for row in one.rows}
        return RankFigure(whole, self.rankings, images, DrawStyle())

    def note(self, figures: Iterable[RankFigure], n_chosen: int) -> str:
        """How many of the chosen queries the figures do not show, or not with their maps; empty where it is none."""
        shown = [(figure, one) for figure in figures for one in figure.lists]
        n_left_out, n_bare = n_chosen - len(shown), sum(not figure.has_maps(one) for figure, one in shown)
        lines = []
        if n_left_out:
            lacks = "neither small copies nor originals of all of their nearest images are on this machine"
            lines.append(f"{n_left_out} of {n_chosen} chosen queries are not shown: {lacks}.")
        if n_bare and (self.archive is None or self.archive.saliency is not None):
            lacks = "those of some of their nearest images are not in this folder"
            lines.append(f"{n_bare} of {n_chosen} chosen queries are shown without maps: {lacks}.")
        return " ".join(lines)

    def _files(self, rows: Iterable[int]) -> dict[int, Path]:
        """Row -> small copy, or the original where the data set is on this machine; of images with one of them."""
        ids = self.rankings.retrieval.image_ids
        files = {row: self.trial.image_file(ids[row], self.split) for row in rows}
        return {row: path for row, path in files.items() if path is not None}

    def _context(self, row: int, path: Path) -> FigureContext:
        """An image with its maps where these are archived."""
        image_id, pixels = self.rankings.retrieval.image_ids[row], read_image(path, width_px=_RANK_STYLE.width_px)
        if self.archive is not None and image_id in self._archived:
            return FigureContext(next(from_archive(self.archive, [ImageToDraw(image_id, path)])), pixels, DrawStyle())
        size_hw = (pixels.shape[0], pixels.shape[1])
        whole = np.array([0.0, 0.0, size_hw[1], size_hw[0]])
        bare = ImageMaps(
            image_id=image_id, predicted=None, size_hw=size_hw, crop_box=whole, maps={}, saliency=None, **NO_CLASSES
        )
        return FigureContext(bare, pixels, DrawStyle())

    @cached_property
    def _archived(self) -> frozenset[str]:
        return frozenset(() if self.archive is None else self.archive.image_ids)
