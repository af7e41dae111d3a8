"""Ranked galleries in a report of which maps, images or ranks are missing."""

from __future__ import annotations

import base64
import io
import shutil

import pytest
from PIL import Image

from attnsearch.report.facts import read_facts
from attnsearch.report.page import build_report
from attnsearch.report.sheets import RankSheets, Sheet, rank_sheets
from attnsearch.results.reader import load_study
from attnsearch.store.archive import read_archive
from tests.explorer.built import Built
from tests.explorer.built_reid import PLANTED, planted_saliency, write_rankings
from tests.report.people import archive_of, text_of


def sheets_of(reid: Built) -> RankSheets:
    return rank_sheets(read_facts(load_study(reid.layout.study_dir)))


def height_of(sheet: Sheet) -> int:
    with Image.open(io.BytesIO(base64.b64decode(sheet.address.partition(",")[2]))) as image:
        return image.height


def test_galleries_are_shown_without_maps_where_some_images_lack_them(reid: Built) -> None:
    """Each query has the image without maps among its ten nearest."""
    bare = sheets_of(reid)
    assert [sheet.title for sheet in bare.sheets] == [
        "Ranked galleries of seek: queries with the lowest average precision (val)"
    ]
    assert bare.note.startswith("3 of 3 chosen queries are shown without maps: ")
    assert bare.note in text_of(build_report(reid.root))
    retrieval = read_archive(archive_of(reid)).retrieval
    assert retrieval is not None
    write_rankings(archive_of(reid), retrieval, rows=range(len(PLANTED)), saliency=planted_saliency(0))
    mapped = sheets_of(reid)
    assert (len(mapped.sheets), mapped.note) == (1, "")
    assert height_of(mapped.sheets[0]) > 1.4 * height_of(bare.sheets[0])  # a second row for each query


@pytest.mark.parametrize("removed", ["maps", "saliency"])
def test_galleries_are_shown_where_the_maps_were_removed(reid: Built, removed: str) -> None:
    getattr(archive_of(reid), removed).unlink()
    shown = sheets_of(reid)
    assert len(shown.sheets) == 1
    assert shown.note.startswith("3 of 3 chosen queries are shown without maps: ")


def test_images_that_are_not_at_hand_are_said(reid: Built) -> None:
    shutil.rmtree(reid.data_root)
    last = PLANTED[4].image_id(4)  # removed for query 0, and in the lists of queries 1 and 2
    reid.layout.thumbnail(last).unlink()
    shown = sheets_of(reid)
    assert len(shown.sheets) == 1
    assert shown.note.startswith("2 of 3 chosen queries are not shown: neither small copies nor originals")
    shutil.rmtree(reid.layout.thumbnails)
    shown = sheets_of(reid)
    assert (shown.sheets, shown.note.partition(":")[0]) == ([], "3 of 3 chosen queries are not shown")
    assert shown.note in text_of(build_report(reid.root))


def test_removed_ranks_are_said_with_the_command_that_brings_them_back(reid: Built) -> None:
    archive_of(reid).ranks.unlink()
    shown = sheets_of(reid)
    assert shown.sheets == ()
    assert "features and ranks were removed; `attnsearch train results/here/seek/trials/00000/config.yaml" in shown.note
    assert shown.note in text_of(build_report(reid.root))
