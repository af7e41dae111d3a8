"""The explorer in a real browser: its path from study to shared link, its keys, its width on a phone."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from attnsearch.explorer.server import RunningServer
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import DESK, PHONE, Watched, base_of, violations
from tests.explorer.built import Built, build, serving, write_trial_scores
from tests.search.studies import build_halving

pytestmark = pytest.mark.slow

STUDY, TRIAL, IMAGE = "/attention/study/here/hunt", "/attention/trial/here/hunt/0", "/attention/image/here/hunt/0/0"
COMPARE = "/attention/compare/here?t=hunt%3A0&t=hunt%3A2"
MORE = ("failures", "classes", "explain")
COLOURS = "document.getElementById('canvas').toDataURL()"


def test_from_study_to_shared_link(watched: Watched, browser: Any) -> None:
    page = watched.open("/attention/")
    page.get_by_role("link", name="hunt", exact=True).click()
    page.get_by_role("button", name=re.compile("^trial 1: ")).click()
    page.locator("#preview .tile").first.wait_for()
    page.locator("#open-trial").click()
    page.locator("#grid .tile").first.wait_for()
    assert page.locator("#grid .tile").count() == 6
    page.locator("#grid .tile").first.click()
    watched.wait("document.body.dataset.ready === '1'")
    before = page.evaluate(COLOURS)
    page.get_by_role("radio", name="part2", exact=True).click()
    watched.wait(f"{COLOURS} !== {before!r}")
    other_map = page.evaluate(COLOURS)
    page.locator("#opacity").fill("30")
    watched.wait(f"{COLOURS} !== {other_map!r}")
    faint = page.evaluate(COLOURS)
    assert "opacity=30" in page.url
    assert "map=map1" in page.url

    friend = Watched(browser, watched.base)
    friend.open(page.url.removeprefix(watched.base))
    friend.wait("document.body.dataset.ready === '1'")
    assert friend.page.evaluate(COLOURS) == faint
    assert friend.page.locator("#opacity").input_value() == "30"
    assert friend.page.locator("#strip [aria-checked=true]").get_attribute("data-map") == "map1"
    friend.context.close()
    assert friend.problems == []

    page.get_by_role("link", name="Compare trials").click()
    watched.wait("document.body.dataset.ready === '1'")
    page.locator("#add").select_option("hunt:2")
    page.locator("#tiles .tile").nth(1).wait_for()
    assert page.locator("#tiles canvas").count() == 2
    assert page.locator("#map").input_value() == "map1"
    assert page.url.count("t=hunt%3A") == 2
    page.locator("#difference").check()
    page.locator("#difference-canvas").wait_for()


def test_compared_trials_share_one_scale(watched: Watched) -> None:
    """The hot cell is 1 in trial 0 and 3 in trial 2: they differ on one scale, and not each on its own."""
    page = watched.open(f"{COMPARE}&map=map0&smooth=0")
    watched.wait("document.body.dataset.ready === '1'")
    images = "[...document.querySelectorAll('#tiles canvas')].map((one) => one.toDataURL())"
    one, two = page.evaluate(images)
    assert one != two
    assert page.locator("#legend .high").inner_text() == "3"
    page.locator("#scale").select_option("own")
    watched.wait(f"(([one, two]) => one === two)({images})")


def test_trials_of_several_studies_are_compared_as_shares(browser: Any, tmp_path: Path) -> None:
    """Units differ between models; the choice of a person still wins."""
    built = build(tmp_path, n_trials=1, n_per_class=1)
    other = StudyLayout(built.root, "here", "run")
    shutil.copytree(built.layout.trial(0).directory, other.trial(0).directory)
    with serving(built) as served:
        one = Watched(browser, base_of(served))
        page = one.open("/attention/compare/here?t=hunt%3A0&t=run%3A0")
        one.wait("document.body.dataset.ready === '1'")
        assert page.locator("#scale").input_value() == "shares"
        page.locator("#scale").select_option("one")
        one.wait("location.search.includes('scale=one')")
        assert page.locator("#scale").input_value() == "one"
        one.context.close()
        assert one.problems == []


def test_point_of_the_pareto_plot_shows_its_maps_and_back_undoes_it(watched: Watched) -> None:
    page = watched.open(STUDY)
    page.get_by_text("Trial 2", exact=True).wait_for()  # the best one
    page.locator(".point[data-key='0']").click()
    page.get_by_text("Trial 0", exact=True).wait_for()
    assert "point=0" in page.url
    page.go_back()
    page.get_by_text("Trial 2", exact=True).wait_for()


def test_table_sorts_filters_and_keeps_both_in_the_url(watched: Watched) -> None:
    page = watched.open(STUDY)
    first = page.locator("#table tbody tr").first.locator("td").nth(1)
    page.get_by_role("button", name="val accuracy", exact=True).click()
    page.get_by_role("button", name="val accuracy", exact=True).click()
    assert first.inner_text().startswith("2")  # accuracy climbs with the number
    page.locator("#filter").fill("adam accuracy<0.55")
    assert page.locator("#table tbody tr").count() == 1
    watched.open(page.url.removeprefix(watched.base))
    assert page.locator("#table tbody tr").count() == 1
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("val accuracy")


def test_curves_of_ticked_trials(watched: Watched) -> None:
    page = watched.open(STUDY)
    page.locator("[data-tick='0']").check()
    page.locator("#curves[aria-label*='trial 0']").wait_for()
    label = page.locator("#curves").get_attribute("aria-label")
    assert [label.count(name) for name in ("trial 0", "trial 1", "trial 2")] == [2, 0, 2]  # with that of training
    assert page.locator("#curves canvas").count() == 1
    assert page.locator("#compare").is_enabled()


def test_filters_of_the_grid(watched: Watched) -> None:
    page = watched.open(TRIAL)
    page.locator("#filters summary").click()
    page.locator("#verdict").select_option("wrong")
    page.get_by_text("3 of 6 images").wait_for()
    assert page.locator("#grid .verdict.incorrect").count() == 3
    page.locator("#low").fill("0.9")
    page.locator("#low").press("Tab")
    page.get_by_text("1 of 6 images").wait_for()
    assert "verdict=wrong" in page.url
    page.locator("#reset").click()
    page.get_by_text("6 images", exact=True).wait_for()


def test_hostile_names_are_text(watched: Watched) -> None:
    page = watched.open(TRIAL)
    page.locator("#grid .tile").first.wait_for()
    assert page.locator("b").count() == 0
    assert page.get_by_text("<b>tern</b> & 'skua'").count() > 0


@pytest.mark.parametrize("path", ["/attention/", STUDY, TRIAL, IMAGE, COMPARE + "&difference=1"])
def test_phone_width_needs_no_sideways_scrolling(browser: Any, served: RunningServer, path: str) -> None:
    one = Watched(browser, base_of(served), PHONE, density=2)
    one.open(path)
    assert one.overflow_px() == 0
    one.context.close()
    assert one.problems == []


@pytest.mark.parametrize(
    "path", ["/attention/", STUDY, TRIAL, IMAGE, COMPARE, *(TRIAL.replace("trial", name) for name in MORE)]
)
def test_pages_can_be_read_by_everybody(watched: Watched, path: str) -> None:
    assert violations(watched.open(path)) == []


def test_keyboard_alone_goes_from_study_to_comparison(watched: Watched) -> None:
    page = watched.open("/attention/")
    tab_to(page, "a[href$='/study/here/hunt']")
    page.keyboard.press("Enter")
    page.locator(".point").first.wait_for()
    tab_to(page, ".point")
    page.keyboard.press("Enter")
    page.locator("#open-trial").wait_for()
    tab_to(page, "#open-trial")
    page.keyboard.press("Enter")
    page.locator("#grid .tile").first.wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/image/here/hunt/[0-9]+/3"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("]")
    watched.wait("document.querySelector('#strip [aria-checked=true]').dataset.map === 'map0'")
    for _ in range(3):
        page.keyboard.press("-")
    watched.wait("location.search.includes('opacity=60')")
    page.keyboard.press("m")
    watched.wait("location.search.includes('mask=deletion')")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("/image/here/hunt/[0-9]+/4.*opacity=60"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.wait_for_url(re.compile("/compare/here"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("d")
    watched.wait("location.search.includes('difference=1')")


def tab_to(page: Any, selector: str) -> None:
    """Presses Tab until an element of this kind has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


def test_views_are_saved_as_png_and_svg(watched: Watched) -> None:
    page = watched.open(IMAGE + "?contour=50")
    watched.wait("document.body.dataset.ready === '1'")
    with page.expect_download() as png:
        page.locator("#save-png").click()
    assert Path(png.value.path()).read_bytes().startswith(b"\x89PNG")
    with page.expect_download() as svg:
        page.locator("#save-svg").click()
    text = Path(svg.value.path()).read_text(encoding="utf-8")
    assert "<path" in text  # the contour is a line
    assert "predicted gull" in text
    assert svg.value.suggested_filename.endswith(".svg")


def test_plots_are_saved_as_they_look(watched: Watched) -> None:
    page = watched.open(STUDY)
    page.locator("#curves canvas").wait_for()
    for name in ("chart", "curves"):
        with page.expect_download() as svg:
            page.locator(f"[data-save={name}][data-kind=svg]").click()
        text = Path(svg.value.path()).read_text(encoding="utf-8")
        assert "val accuracy" in text
        assert "class=" not in text.partition(">")[2]  # no style sheet is needed
        with page.expect_download() as png:
            page.locator(f"[data-save={name}][data-kind=png]").click()
        assert Path(png.value.path()).read_bytes().startswith(b"\x89PNG")


def test_dashboard_at_the_root_asks_for_nothing_outside(browser: Any, served: RunningServer) -> None:
    one = Watched(browser, base_of(served))
    one.open("/dashboard/studies/1")
    one.page.get_by_text("hunt").first.wait_for()
    one.context.close()
    assert [problem for problem in one.problems if problem.startswith(("external", "failed"))] == []


def test_curve_moves_the_mask(browser: Any, tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1, n_per_class=1)
    write_trial_scores(built.layout, 0, ["val/gull/0.jpg", "val/tern/0.jpg"], {"deletion": [0.1, 0.2]})
    with serving(built) as served:
        one = Watched(browser, base_of(served))
        page = one.open("/attention/image/here/hunt/0/0")
        one.wait("document.body.dataset.ready === '1'")
        page.get_by_text("No curves").wait_for(state="detached")
        frame = page.locator("svg.curve").bounding_box()
        page.mouse.click(frame["x"] + frame["width"] * (34 + 0.5 * 258) / 300, frame["y"] + 40)
        one.wait("location.search.includes('share=50')")
        assert "mask=deletion" in page.url
        assert page.locator(".knob").count() == 1
        one.context.close()
        assert one.problems == []


def test_notes_in_the_dashboard_run_nothing(browser: Any, tmp_path: Path) -> None:
    """A config that closes its own block of code, with markup and a script behind it."""
    built = build(tmp_path, n_trials=1)
    markup = "<img src=x onerror='window.harmed=1'><script>window.harmed=1</script>\n[a](javascript:alert(1))"
    built.layout.trial(0).config.write_text(f"name: x\n```\n{markup}\n", encoding="utf-8")
    with serving(built) as served:
        one = Watched(browser, base_of(served))
        page = one.open("/dashboard/studies/1/trials?numbers=0")
        page.get_by_text("onerror").first.wait_for()
        assert page.evaluate("window.harmed") is None
        assert page.locator("img[src=x], a[href^='javascript']").count() == 0
        one.context.close()


def test_missing_data_set_and_copies_leave_the_map(browser: Any, tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1)
    shutil.rmtree(built.data_root)
    shutil.rmtree(built.layout.thumbnails)
    with serving(built) as served:
        one = Watched(browser, base_of(served))
        page = one.open(TRIAL)
        page.get_by_text("grey: neither a small copy nor the data set is on this machine").wait_for()
        page.locator("#grid .tile").first.click()
        one.wait("document.body.dataset.ready === '1'")
        assert page.locator("#original").is_disabled()
        one.context.close()
        assert one.problems == []


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_paused_trials_can_be_filtered_and_their_rungs_are_a_table(
    tmp_path: Path, browser: Any, size: tuple[int, int]
) -> None:
    layout = build_halving(tmp_path)
    with serving(Built(tmp_path, tmp_path, layout)) as one:
        watched = Watched(browser, base_of(one), size)
        page = watched.open(STUDY)
        page.locator("#which").select_option("paused")
        badge = page.locator("#table .badge")
        assert badge.all_inner_texts() == ["paused"]
        assert badge.get_attribute("title") == "at epoch 1, rung 1, place 2 of 3"
        assert "1 paused | " in page.locator("#headline").inner_text()
        cells = [row.split("\t") for row in page.locator("#rungs tbody tr").all_inner_texts()]
        assert cells[:3] == [
            ["1", "started", "", "3 of 4", ""],
            ["1", "1", "1", "3 of 4", "1 of 2"],
            ["1", "complete", "", "1 of 2", ""],
        ]
        assert watched.overflow_px() == 0
        assert watched.problems == []
        watched.context.close()
