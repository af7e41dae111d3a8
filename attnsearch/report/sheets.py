"""The sample images of a report with their maps, and ranked galleries, as JPEG in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from attnsearch.errors import AttnSearchError
from attnsearch.evaluation.ranking import hardest_queries
from attnsearch.figures.explanation import ImageToDraw, ModelColumn, compare_models, from_archive, read_image
from attnsearch.figures.grid import Grid, Style
from attnsearch.figures.kinds import DrawStyle, FigureContext
from attnsearch.figures.panels import Sheets
from attnsearch.figures.rankings import Rankings
from attnsearch.figures.ranks import RankFigure, rank_list
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose
from attnsearch.report.facts import StudyFacts
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


def sample_sheets(facts: Sequence[StudyFacts]) -> list[Sheet]:
    """Two sheets of classes at most; none where the maps or the images are not in the folder."""
    of_classes = [one for one in facts if one.retrieval is None]
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
    return _as_address(grid, _CLASS_STYLE, f"{title} ({columns[0].archive.split})")


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


def rank_sheets(facts: StudyFacts) -> list[Sheet]:
    """The queries with the lowest AP and others that are spread evenly over the rest, each before its gallery.

    None where the images or their maps are not in the folder.
    """
    column = _column_of(facts)
    if column is None or column.archive.retrieval is None:
        return []
    order = hardest_queries(column.archive.retrieval, len(column.archive.retrieval.first_match))
    rest = order[N_QUERIES:]
    spread = rest[:: max(1, len(rest) // N_QUERIES)][:N_QUERIES]
    titles = {"queries with the lowest average precision": order[:N_QUERIES], "other queries": spread}
    split = column.archive.split
    sheets = [_rank_sheet(column, places, f"Ranked galleries of {facts.name}: {what} ({split})")
              for what, places in titles.items()]  # fmt: skip
    return [one for one in sheets if one is not None]


def _rank_sheet(column: _Column, places: Sequence[int], title: str) -> Sheet | None:
    """The ranked galleries of the queries at some places, whose images are archived and at hand; None without any."""
    archive = column.archive
    assert archive.retrieval is not None
    rankings, ids = Rankings(archive.retrieval), archive.retrieval.image_ids
    lists = [rank_list(rankings, int(rankings.query_rows[place])) for place in places]
    explained = _explained(column, {ids[row] for one in lists for row in one.rows})
    whole = [one for one in lists if explained.keys() >= {ids[row] for row in one.rows}]
    if not whole:
        return None
    contexts = {row: explained[ids[row]] for one in whole for row in one.rows}
    return _as_address(RankFigure(whole, rankings, contexts, DrawStyle()).grid(), _RANK_STYLE, title)


def _explained(column: _Column, image_ids: Collection[str]) -> dict[str, FigureContext]:
    """Image id -> the image and what the model made of it, of those that are archived and at hand."""
    archived = [one for one in column.archive.image_ids if one in image_ids]
    return {
        one.image_id: FigureContext(one, read_image(one.source, width_px=_RANK_STYLE.width_px), DrawStyle())
        for one in from_archive(column.archive, _images_at_hand(column, archived))
    }
