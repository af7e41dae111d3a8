"""Sample overlays of a report: the same images under every study, and errors of the most confused pair."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from attnsearch.errors import AttnSearchError
from attnsearch.figures.explanation import Explanation, ImageToDraw, from_archive, read_image
from attnsearch.figures.kinds import DrawStyle, caption_of, draw_cell, legend_of_parts, scale_of
from attnsearch.figures.panels import Grid, Panel, PanelRow, Sheets, Style
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose
from attnsearch.report.facts import StudyFacts
from attnsearch.types import AttentionArchive, Split

MAX_IMAGES = 6
MAX_STUDIES = 6
_STYLE = Style(dpi=130, width_in=1.15, format="jpg")


@dataclass(frozen=True)
class Sheet:
    """A JPEG as the address of an `<img>`, and what it shows."""

    address: str
    title: str


@dataclass(frozen=True, eq=False)
class _Column:
    facts: StudyFacts
    archive: AttentionArchive

    @property
    def has_parts(self) -> bool:
        return self.facts.config is not None and "parts" in self.facts.config.model.figure_kinds


def sample_sheets(facts: Sequence[StudyFacts]) -> list[Sheet]:
    """Two sheets at most; none where the maps or the images are not in the folder."""
    columns = [column for one in facts if (column := _column(one)) is not None][:MAX_STUDIES]
    if not columns:
        return []
    columns = [one for one in columns if one.archive.split == columns[0].archive.split]
    known = ImageIndex.of_archive(columns[0].archive)
    of_classes = choose(known, ImageSelection(per_class=1), None)
    spread = of_classes[:: -(-len(of_classes) // MAX_IMAGES)]
    sheets = [_sheet(columns, spread, "Images of several classes")]
    try:
        errors = choose(known, ImageSelection(confused=4), None)
    except AttnSearchError:  # nothing was confused
        errors = []
    title = f"Errors of {columns[0].facts.name} between the two classes that it confuses most"
    return [one for one in [*sheets, _sheet(columns, errors, title)] if one is not None]


def _column(facts: StudyFacts) -> _Column | None:
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
            return None if archive.saliency is None else _Column(facts, archive)
    return None


def _sheet(columns: Sequence[_Column], image_ids: Sequence[str], title: str) -> Sheet | None:
    shared = [one for one in image_ids if all(one in column.archive.image_ids for column in columns)]
    found = {one: path for one in shared if (path := _image_file(columns[0], one)) is not None}
    if not found:
        return None
    first = columns[0].archive
    true_of = {one: first.class_names[int(label)] for one, label in zip(first.image_ids, first.labels, strict=True)}
    wanted = [ImageToDraw(one, path, true_of[one]) for one, path in found.items()]
    subjects = [list(from_archive(column.archive, wanted)) for column in columns]
    rows = [_row(columns, [of_study[index] for of_study in subjects], one) for index, one in enumerate(wanted)]
    parts = next((of[0] for of, column in zip(subjects, columns, strict=True) if column.has_parts), None)
    grid = Grid(
        rows,
        columns=["image", *(column.facts.name for column in columns)],
        legend=[] if parts is None else legend_of_parts(parts),
        scale=None if all(column.has_parts for column in columns) else scale_of(DrawStyle()),
        caption=caption_of([of[0] for of in subjects]),
    )
    return Sheet(_address(grid), f"{title} ({first.split})")


def _row(columns: Sequence[_Column], subjects: Sequence[Explanation], wanted: ImageToDraw) -> PanelRow:
    picture = read_image(wanted.source, width_px=_STYLE.width_px)
    cells = [
        draw_cell(one, picture, DrawStyle(), as_parts=column.has_parts)
        for one, column in zip(subjects, columns, strict=True)
    ]
    return PanelRow([Panel(picture), *cells], label=wanted.true or "")


def _image_file(column: _Column, image_id: str) -> Path | None:
    """The small copy, or the original where the data set is on this machine."""
    trial = column.facts.best_trial
    assert trial is not None
    return trial.image_file(image_id, column.archive.split)


def _address(grid: Grid) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sheet.jpg")
        Sheets(_STYLE).save(grid, path)
        return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"
