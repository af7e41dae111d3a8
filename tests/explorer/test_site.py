"""The split in the URL of a page: it stays there when a setting changes, so that a reload shows the same image."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.explorer.server import RunningServer
from attnsearch.tasks.retrieval import rank_split
from tests.explorer.browsing import Watched
from tests.explorer.built import Built, serving
from tests.explorer.built_reid import (
    PLANTED,
    build_reid,
    planted_features,
    planted_saliency,
    planted_table,
    write_rankings,
)

pytestmark = pytest.mark.slow

STUDY = "here/seek"
QUERY, MATCH = len(PLANTED) - 1, len(PLANTED) - 7
"""Rows of the test split, which is that of validation from its end: those of query 0 and its first match."""


def build_with_test(folder: Path) -> Built:
    """The study of re-identification, its trial 0 with the images of validation in reverse order as test split."""
    built = build_reid(folder)
    table = planted_table(built.data_root)
    assert table.cameras is not None
    assert table.is_query is not None
    turned = replace(
        table,
        split="test",
        image_ids=table.image_ids[::-1],
        paths=table.paths[::-1],
        labels=np.ascontiguousarray(table.labels[::-1]),
        cameras=np.ascontiguousarray(table.cameras[::-1]),
        is_query=np.ascontiguousarray(table.is_query[::-1]),
    )
    retrieval, _ = rank_split(turned, np.ascontiguousarray(planted_features(0)[::-1]), distance="euclidean")
    saliency = np.ascontiguousarray(planted_saliency(0)[::-1])
    archive = built.layout.trial(0).archive("test")
    write_rankings(archive, retrieval, rows=range(len(PLANTED)), saliency=saliency, split="test")
    return built


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(build_with_test(tmp_path_factory.mktemp("splits"))) as one:
        yield one


CHANGES = {
    "maps of a query": (f"query/{STUDY}/0/{QUERY}", lambda page: page.locator("#overlay").check(), "opacity=75"),
    "key of a query": (f"query/{STUDY}/0/{QUERY}", lambda page: page.keyboard.press("r"), "removed=1"),
    "length of a gallery": (
        f"query/{STUDY}/0/{QUERY}",
        lambda page: page.locator("#top").select_option("20"),
        "top=20",
    ),
    "key of an image": (f"image/{STUDY}/0/{QUERY}", lambda page: page.keyboard.press("c"), "colours=viridis"),
    "mask of an image": (f"image/{STUDY}/0/0", lambda page: page.keyboard.press("m"), "mask=deletion"),
    "filter of the queries": (
        f"retrieval/{STUDY}/0",
        lambda page: page.locator("#verdict").select_option("wrong"),
        "verdict=wrong",
    ),
    "order of the queries": (
        f"retrieval/{STUDY}/0",
        lambda page: page.get_by_role("button", name="identity", exact=True).click(),
        "order=identity",
    ),
    "key of a trial": (f"trial/{STUDY}/0", lambda page: page.keyboard.press("c"), "colours=viridis"),
    "contour of a pair": (f"pair/{STUDY}/0/{QUERY}/{MATCH}", lambda page: page.keyboard.press("l"), "contour=50"),
    "scale of a pair": (
        f"pair/{STUDY}/0/{QUERY}/{MATCH}",
        lambda page: page.locator("#scale").select_option("own"),
        "scale=own",
    ),
}
SHOWN = """
JSON.stringify([JSON.parse(document.getElementById("where").textContent).split, document.getElementById("split")?.value,
  document.querySelector("h1").textContent, document.querySelector(".facts")?.textContent,
  ...[...document.querySelectorAll("#gallery .tile, #grid .tile, #table tbody tr")].map((one) => one.textContent)])
"""
HAS_IMAGES = "document.querySelector('#facts .id, #grid .tile, #table tbody tr') !== null"


def open_shown(watched: Watched, path: str) -> str:
    """Opens a page; what it shows."""
    page = watched.open(path)
    watched.wait(HAS_IMAGES)
    return str(page.evaluate(SHOWN))


@pytest.mark.parametrize("what", CHANGES)
def test_split_stays_where_a_setting_changes(watched: Watched, what: str) -> None:
    path, change, words = CHANGES[what]
    expected = open_shown(watched, f"/attention/{path}?split=test&{words}")
    assert expected.startswith('["test"')
    open_shown(watched, f"/attention/{path}?split=test")
    change(watched.page)
    watched.wait(f"location.search.includes('{words}')")
    assert "split=test" in watched.page.url
    assert open_shown(watched, watched.page.url.removeprefix(watched.base)) == expected


def test_filters_are_cleared_and_the_split_is_not(watched: Watched) -> None:
    page = watched.open(f"/attention/trial/{STUDY}/0?split=test&order=image")
    watched.wait(HAS_IMAGES)
    page.locator("#reset").click()
    watched.wait("!location.search.includes('order=')")
    assert "split=test" in page.url
    page.locator("#split").select_option("val")
    page.wait_for_url(re.compile("split=val"))
    watched.wait(HAS_IMAGES)
    assert page.locator("#split").input_value() == "val"


def test_page_without_a_split_shows_that_of_validation(watched: Watched) -> None:
    page = watched.open(f"/attention/image/{STUDY}/0/0")
    watched.wait(HAS_IMAGES)
    page.keyboard.press("c")
    watched.wait("location.search.includes('colours=viridis')")
    assert page.evaluate(SHOWN).startswith('["val"')
    assert page.locator("#next").get_attribute("href").count("split=val") == 1
