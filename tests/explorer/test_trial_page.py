"""The page of a trial and its texts; what colours say of maps here and on the pages that it leads to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from werkzeug.test import Client

from attnsearch.errors import ConfigError
from attnsearch.explorer.server import build_app
from attnsearch.explorer.trial_page import MAX_TEXT_BYTES, text_of
from attnsearch.results.reader import find_experiments
from attnsearch.results.study import StudyReader
from attnsearch.store.floors import MeasuredFloors, add_floors
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import DESK, PHONE, Watched, base_of
from tests.explorer.built import MAP_HW, Built, build, serving, write_trial_scores

TRIAL, IMAGE = "/attention/trial/here/hunt/0", "/attention/image/here/hunt/0"
IDS = [f"val/{folder}/{index}.jpg" for folder in ("gull", "tern") for index in range(3)]
READY = "document.body.dataset.ready === '1'"
COLOURS = "[...document.querySelectorAll('#grid canvas')].map((one) => one.toDataURL())"
RIPPLED, GRID = 0, "saliency, 4x5 (20 cells)"


def ripple(layout: StudyLayout) -> None:
    """Makes the saliency of the first image 1 with a ripple of 1 %, and that of the others of unlike strength."""
    saliency = np.load(layout.trial(0).archive("val").saliency, mmap_mode="r+")
    for row in range(len(saliency)):
        saliency[row] *= 1 + row
    saliency[RIPPLED] = 1 + 0.01 * (np.indices(saliency.shape[1:]).sum(axis=0) % 2)
    saliency.flush()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Built, str]]:
    """A server on one trial, whose first four images are scored; of the third a blank image is still recognised."""
    built = build(tmp_path_factory.mktemp("scales"), n_trials=2, n_with_maps=2)
    ripple(built.layout)
    columns = {"relevance_gain": [0.1, 0.2, 0.3, 0.4], "masked_score": [0.1, 0.2, 0.78, 0.3]}
    write_trial_scores(built.layout, 0, IDS[:4], {**columns, "pointing_hit": [1, 1, 0, 1]})
    floors = {"pointing_hit": {"fixed cell": 0.85, "untrained": 0.74}}
    sizes = {"grid": MAP_HW, "n_images": 4, "n_split": 6, "version": 1}
    add_floors(built.layout.floors_json, MeasuredFloors(**sizes, settings="s", images="i", values=floors))
    built.layout.trial(0).log.write_text("epoch 1 <b>done</b>\n", encoding="utf-8")
    with serving(built) as served:
        yield built, base_of(served)


@pytest.fixture
def page_of(browser: Any, scored: tuple[Built, str]) -> Iterator[Watched]:
    one = Watched(browser, scored[1])
    yield one
    one.context.close()
    assert one.problems == []


@pytest.mark.slow
def test_a_rippled_map_is_flat_in_colour_and_has_the_badge(watched: Watched) -> None:
    """The relative luminance differs by less than 2 %; stretched, the same map goes through all colours."""
    page = watched.open("/attention/")
    script = """async () => {
      const { mapImage } = await import('/attention/static/paint.js');
      const { rangeOf, scaleOf } = await import('/attention/static/field.js');
      const { flatBadge } = await import('/attention/static/tile.js');
      const map = (values) => ({ h: 2, w: 2, values: Float32Array.from(values) });
      const rippled = map([1, 1.01, 1.01, 1]);
      const view = { opacity: 1, colours: 'inferno', smooth: false, isUniform: false };
      const seen = (isStretched) => {
        const scale = scaleOf(rangeOf([rippled]), { isStretched });
        const box = { left: 0, top: 0, right: 2, bottom: 2 };
        return [...mapImage({ width: 2, height: 2 }, rippled, box, view, scale).image.data];
      };
      const others = [[0.517, 0.6, 0.6, 0.714], [0, 0, 0, 0], [0, 0, 0, 1], [-1, -1, -1, 1]].map(map);
      const badges = [rippled, ...others].map((one) => flatBadge(one)?.textContent ?? '');
      return { own: seen(false), stretched: seen(true), badges };
    }"""
    found = page.evaluate(script)
    assert contrast(found["own"]) < 0.02
    assert contrast(found["stretched"]) > 0.9
    assert found["badges"] == ["flat", "flat", "flat", "", ""]


def contrast(pixels: list[int]) -> float:
    """Michelson's, of what is painted over black."""
    colours = np.array(pixels).reshape(-1, 4) / 255
    luminance = colours[:, :3] @ [0.2126, 0.7152, 0.0722] * colours[:, 3]
    return float((luminance.max() - luminance.min()) / (luminance.max() + luminance.min()))


@pytest.mark.slow
def test_scale_of_the_grid_is_chosen_and_kept_in_the_link(page_of: Watched) -> None:
    page = page_of.open(TRIAL)
    page.locator("#grid .tile").nth(5).wait_for()
    legend = page.locator("#legend")
    assert legend.locator(".of").inner_text() == GRID
    assert [legend.locator(end).inner_text() for end in (".low", ".high")] == ["0", "own maximum, 1.01 to 6"]
    own = page.evaluate(COLOURS)
    page.locator("#scale").select_option("one")
    page_of.wait("document.querySelector('#legend .high').textContent === '6'")
    assert "scale=one" in page.url
    assert page.evaluate(COLOURS) != own
    page.locator("#scale").select_option("stretch")
    page_of.wait("document.querySelector('#legend .low').textContent === 'own minimum, 0 to 1'")
    page.reload()
    page.locator("#grid .tile").nth(5).wait_for()
    assert page.locator("#scale").input_value() == "stretch"
    page.locator("#grid .tile").first.click()
    page_of.wait(READY)
    assert page.locator("#scale").input_value() == "stretch"


@pytest.mark.slow
def test_coarse_maps_are_shown_as_cells(page_of: Watched) -> None:
    page = page_of.open(f"{IMAGE}/3?smooth=1")
    page_of.wait(READY)
    assert page.locator("#legend .of").inner_text() == GRID
    assert page.locator("#smooth").is_disabled()
    assert not page.locator("#smooth").is_checked()
    assert "below 8x8" in page.locator("label:has(#smooth)").get_attribute("title")


@pytest.mark.slow
def test_flat_maps_have_a_badge_with_the_reason(page_of: Watched) -> None:
    page = page_of.open(TRIAL)
    page.locator("#grid .tile").nth(5).wait_for()
    badges = page.locator("#grid .badge.flat")
    assert badges.count() == 1
    assert page.locator("#grid .tile").first.locator(".badge.flat").count() == 1
    assert "Gini coefficient is below 0.1" in badges.get_attribute("title")
    page.goto(f"{page_of.base}{IMAGE}/{RIPPLED}")
    page_of.wait(READY)
    assert page.locator("#badge").inner_text() == "flat"
    page.goto(f"{page_of.base}{IMAGE}/1")
    page_of.wait(READY)
    assert page.locator("#badge").inner_text() == ""


@pytest.mark.slow
def test_first_page_shows_classes_by_turns_and_the_score_of_the_order(page_of: Watched) -> None:
    page = page_of.open(TRIAL)
    page.locator("#grid .tile").nth(5).wait_for()
    rows = "[...document.querySelectorAll('#grid .tile')].map((one) => Number(one.dataset.row))"
    assert page.evaluate(rows) == [0, 3, 1, 4, 2, 5]
    page.locator("#filters summary").click()
    page.locator("#order").select_option("relevance_gain")
    page.locator("#grid .tile", has_text="relevance gain (LeRF - MoRF) 0.1").wait_for()
    assert page.evaluate(rows) == [0, 1, 2, 3, 4, 5]
    assert page.locator("#grid .tile").last.inner_text().endswith("not scored")


@pytest.mark.slow
def test_trial_page_shows_scores_curve_texts_and_the_command(page_of: Watched) -> None:
    page = page_of.open(TRIAL)
    page.locator("#epochs polyline").nth(1).wait_for()
    row = page.locator(".meanings > div", has_text="relevance gain")
    assert row.is_visible()
    assert "↑" in row.inner_text()
    assert "0 at random" in row.inner_text()
    command = page.locator("code", has_text="attnsearch faithfulness here/hunt --trial 0")
    assert command.inner_text().endswith("n_images=6")
    page.get_by_role("link", name="log.txt").click()
    page_of.wait("document.body.innerText.includes('epoch 1 <b>done</b>')")
    assert page.locator("b").count() == 0


@pytest.mark.slow
def test_a_hit_is_told_beside_what_hits_without_information(page_of: Watched) -> None:
    page = page_of.open(f"{IMAGE}/0")
    page_of.wait(READY)
    assert "hit (fixed cell 85 %, untrained 74 %)" in page.locator("#facts").inner_text()
    page.goto(page_of.base + TRIAL)
    quality = page.locator("dl > div", has_text="pointing game").first
    assert "fixed cell 0.85, untrained 0.74; at the floor" in quality.inner_text()


@pytest.mark.slow
def test_a_blank_image_that_is_still_recognised_is_said(page_of: Watched) -> None:
    page = page_of.open(f"{IMAGE}/2")
    page_of.wait(READY)
    warning = "The blank image is still 78 % gull: its deletion scores mean little."
    assert page.locator("#scores-warning").inner_text() == warning
    page.goto(f"{page_of.base}{IMAGE}/1")
    page_of.wait(READY)
    assert page.locator("#scores-warning").inner_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_comparison_begins_with_a_list_of_trials(
    browser: Any, scored: tuple[Built, str], size: tuple[int, int]
) -> None:
    one = Watched(browser, scored[1], size)
    page = one.open("/attention/compare/here")
    page.get_by_role("checkbox", name="hunt 0").check()
    page.get_by_role("checkbox", name="hunt 1").check()
    page.get_by_role("button", name="Compare the ticked trials").click()
    page.locator("#tiles canvas").nth(1).wait_for()
    assert page.locator("#title").inner_text() == "val/gull/0.jpg"
    assert page.locator("#choice-box").is_hidden()
    tiles = page.locator("#tiles .tile")
    assert GRID in tiles.first.inner_text()
    assert "relevance gain (LeRF - MoRF) ↑\n0.1" in tiles.first.inner_text()
    assert "Not scored." in tiles.nth(1).inner_text()
    assert page.url.count("t=hunt%3A") == 2
    assert one.overflow_px() == 0
    one.context.close()
    assert one.problems == []


def test_texts_of_a_trial_are_served_as_text_alone(client: Client) -> None:
    answer = client.get("/attention/text/here/hunt/0/config.yaml")
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "resnet10t" in answer.text
    for name in ("log.txt", "epochs.csv", "..%2F..%2Fstudy.yaml"):  # there is none, and others are not shown
        assert client.get(f"/attention/text/here/hunt/0/{name}").status_code == 404
    assert client.get("/attention/text/here/hunt/99/config.yaml").status_code == 404


def test_a_log_that_leads_out_of_the_trial_is_not_shown(copied: Built, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("secret", encoding="utf-8")
    copied.layout.trial(0).log.symlink_to(outside)
    trial = StudyReader(copied.layout).trial(0)
    with pytest.raises(ConfigError, match=r"has no log\.txt"):
        text_of(trial, "log.txt")
    app, _ = build_app(find_experiments(copied.root))
    page = Client(app).get("/attention/trial/here/hunt/0").text
    assert "config.yaml</a>" in page
    assert "log.txt</a>" not in page


def test_of_a_long_log_the_end_is_shown(copied: Built) -> None:
    lines = [f"line {number:08d}\n" for number in range(MAX_TEXT_BYTES // 10)]
    copied.layout.trial(0).log.write_text("".join(lines), encoding="utf-8")
    shown = text_of(StudyReader(copied.layout).trial(0), "log.txt").decode().splitlines(keepends=True)
    assert shown[0] == "[...]\n"
    assert shown[1:] == lines[-len(shown[1:]) :]
    assert len("".join(shown)) <= MAX_TEXT_BYTES + len(shown[0])


def test_no_command_is_offered_where_all_images_are_scored(copied: Built) -> None:
    write_trial_scores(copied.layout, 0, IDS, {"deletion": [0.1] * 6})
    app, _ = build_app(find_experiments(copied.root))
    assert "attnsearch faithfulness" not in Client(app).get("/attention/trial/here/hunt/0").text
    assert "have no scores" in Client(app).get("/attention/trial/here/hunt/1").text
