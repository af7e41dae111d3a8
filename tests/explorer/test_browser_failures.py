"""Failures and classes in a real browser: from a list to its own address, to the image, and between pages."""

from __future__ import annotations

from typing import Any

import pytest

from attnsearch.explorer.server import RunningServer
from tests.explorer.browsing import PHONE, Watched, base_of
from tests.explorer.built import CLASSES

pytestmark = pytest.mark.slow
TRIAL, FAILURES, CLASSES_PAGE = (f"/attention/{page}/here/hunt/0" for page in ("trial", "failures", "classes"))
READY = "document.body.dataset.ready === '1'"
FIRST_TILE = "document.querySelector('#finding-confident canvas').toDataURL()"


def test_from_the_trial_to_an_error(watched: Watched) -> None:
    page = watched.open(TRIAL)
    page.get_by_role("link", name="Find failures").click()
    watched.wait(READY)
    assert "3 of 6 images are predicted wrongly, 50 % correct" in page.locator("#summary").inner_text()
    assert page.locator("#legend .of").inner_text() == "saliency, 4x5 (20 cells)"
    tiles = page.locator("#finding-confident .tile")
    assert [tiles.nth(index).get_attribute("data-row") for index in range(tiles.count())] == ["5", "3", "1"]
    before = page.evaluate(FIRST_TILE)
    page.locator("#opacity").fill("0")
    watched.wait(f"{FIRST_TILE} !== {before!r}")
    tiles.first.click()
    watched.wait(READY)
    assert "/attention/image/here/hunt/0/5" in page.url


def test_pair_has_an_address_that_can_be_shared(watched: Watched, browser: Any) -> None:
    page = watched.open(FAILURES)
    watched.wait(READY)
    page.locator("#finding-pairs").get_by_role("link", name="3 images").click()
    watched.wait(READY)
    assert page.locator(".finding h2").inner_text() == f"{CLASSES[0]} and {CLASSES[1]} (3)"
    friend = Watched(browser, watched.base)
    friend.open(page.url.removeprefix(watched.base))
    friend.wait(READY)
    assert friend.page.locator(".finding .tile").count() == 3
    friend.context.close()
    assert friend.problems == []
    page.get_by_role("link", name="All failures").click()
    watched.wait(READY)
    assert page.locator(".finding").count() == 5


def test_other_trials_are_chosen(watched: Watched) -> None:
    page = watched.open(FAILURES)
    watched.wait(READY)
    assert page.locator("#compared").inner_text() == "(hunt:1, hunt:2)"
    page.locator("#others summary").click()
    page.get_by_label("hunt 2").uncheck()
    watched.wait("document.getElementById('compared').textContent === '(hunt:1)'")
    assert "t=hunt%3A1" in page.url
    page.go_back()
    watched.wait("document.getElementById('compared').textContent === '(hunt:1, hunt:2)'")


def test_classes(watched: Watched) -> None:
    page = watched.open(CLASSES_PAGE)
    watched.wait(READY)
    rows = page.locator("#table tbody tr")
    assert rows.count() == 2
    assert rows.first.locator("a").first.inner_text() == CLASSES[1]  # the lowest accuracy
    rows.first.locator("a").first.click()
    watched.wait(READY)
    assert page.locator("#title").inner_text() == f"{CLASSES[1]}, trial 0"
    assert page.locator("#legend .of").inner_text() == "mean saliency, 4x5 (20 cells)"
    assert "not scored" in page.locator("#facts").inner_text()
    page.locator("#facts").get_by_role("link", name=f"{CLASSES[0]} (2)").click()
    watched.wait(READY)
    assert page.locator(".finding .tile").count() == 3


@pytest.mark.parametrize("path", [FAILURES, CLASSES_PAGE, f"{CLASSES_PAGE}?class=gull"])
def test_pages_fit_a_phone(browser: Any, served: RunningServer, path: str) -> None:
    one = Watched(browser, base_of(served), PHONE)
    one.open(path)
    one.wait(READY)
    assert one.overflow_px() == 0
    one.context.close()
    assert one.problems == []
