"""The explorer in a real browser: its path from study to shared link, its pixels, its keys, its width on a phone."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch import geometry
from attnsearch.explorer.server import Served
from attnsearch.store.layout import StudyLayout
from tests.explorer.built import CROP_RATIO, HOT, IMAGE_SIZE_PX, MAP_HW, Built, build, serving, write_scores

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install '.[test]'")
pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome")
N_LOOKS, LOOK_MS = 500, 30
PHONE, DESK = (390, 844), (1360, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium of the system, else the one that Playwright installed."""
    with playwright.sync_playwright() as starter:
        path = next((found for name in NAMES if (found := shutil.which(name))), starter.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("Chromium is missing, the explorer was not tested in a browser: apt-get install chromium")
        one = starter.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield one
        one.close()


class Watched:
    """A page that remembers what must not happen: console errors, failed and external requests."""

    def __init__(self, browser: Any, base: str, size: tuple[int, int] = DESK, density: float = 1) -> None:
        self.base = base
        self.faults: list[str] = []
        settings = {"viewport": {"width": size[0], "height": size[1]}, "device_scale_factor": density}
        self.context = browser.new_context(**settings, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(15000)
        self.page.on("console", lambda one: one.type in ("error", "warning") and self.faults.append(one.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda one: self.faults.append(f"failed: {one.url}"))
        self.page.on("response", lambda one: one.status >= 400 and self.faults.append(f"{one.status}: {one.url}"))
        self.page.on("request", lambda one: self._refuse_foreign(one.url))

    def _refuse_foreign(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.faults.append(f"external: {url}")

    def open(self, path: str) -> Any:
        self.page.goto(self.base + path)
        self.page.wait_for_load_state("networkidle")
        return self.page

    def wait(self, script: str) -> None:
        """Until an expression in the page is true; the pages forbid `eval`, which Playwright's own waiting needs."""
        for _ in range(N_LOOKS):
            try:
                if self.page.evaluate(script):
                    return
            except playwright.Error:  # between two pages
                self.page.wait_for_load_state()
            self.page.wait_for_timeout(LOOK_MS)
        pytest.fail(f"never became true: {script}")

    def overflow_px(self) -> int:
        return int(self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.fixture
def watched(browser: Any, served: Served) -> Iterator[Watched]:
    one = Watched(browser, base_of(served))
    yield one
    one.context.close()
    assert one.faults == []


def base_of(served: Served) -> str:
    return served.url.split("/attention")[0]


STUDY, TRIAL, IMAGE = "/attention/study/here/hunt", "/attention/trial/here/hunt/0", "/attention/image/here/hunt/0/0"
COMPARE = "/attention/compare/here?t=hunt%3A0&t=hunt%3A2"
COLOURS = "document.getElementById('canvas').toDataURL()"


def test_from_study_to_shared_link(watched: Watched, browser: Any) -> None:
    page = watched.open("/attention/")
    page.get_by_role("link", name="hunt", exact=True).click()
    page.get_by_role("button", name=re.compile("^trial 1: ")).click()
    page.locator("#peek .tile").first.wait_for()
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
    assert friend.faults == []

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
    one, two = page.evaluate(images)
    assert one == two


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
        assert one.faults == []


def test_point_of_the_pareto_plot_shows_its_maps_and_back_undoes_it(watched: Watched) -> None:
    page = watched.open(STUDY)
    page.locator(".point[data-key='2']").click()
    page.get_by_text("Trial 2", exact=True).wait_for()
    assert "point=2" in page.url
    page.go_back()
    page.get_by_text("No point is chosen.").wait_for()


def test_table_sorts_filters_and_keeps_both_in_the_url(watched: Watched) -> None:
    page = watched.open(STUDY)
    first = page.locator("#table tbody tr").first.locator("td").nth(1)
    page.get_by_role("button", name="val/accuracy", exact=True).click()
    page.get_by_role("button", name="val/accuracy", exact=True).click()
    assert first.inner_text().startswith("2")  # accuracy climbs with the number
    page.locator("#filter").fill("adam accuracy<0.55")
    assert page.locator("#table tbody tr").count() == 1
    watched.open(page.url.removeprefix(watched.base))
    assert page.locator("#table tbody tr").count() == 1
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("val/accuracy")


def test_curves_of_ticked_trials(watched: Watched) -> None:
    page = watched.open(STUDY)
    page.locator("[data-tick='0']").check()
    page.locator("[data-tick='2']").check()
    page.locator("#curves polyline").nth(3).wait_for()  # validation, and training dashed, of both
    assert page.locator("#curves polyline").count() == 4
    assert page.locator("#compare").is_enabled()


def test_filters_of_the_grid(watched: Watched) -> None:
    page = watched.open(TRIAL)
    page.locator("#filters summary").click()
    page.locator("#verdict").select_option("wrong")
    page.get_by_text("3 of 6 images").wait_for()
    assert page.locator("#grid .verdict.wrong").count() == 3
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
def test_phone_width_needs_no_sideways_scrolling(browser: Any, served: Served, path: str) -> None:
    one = Watched(browser, base_of(served), PHONE, density=2)
    one.open(path)
    assert one.overflow_px() == 0
    one.context.close()
    assert one.faults == []


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
    page.wait_for_url(re.compile("/image/here/hunt/[0-9]+/1"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("]")
    watched.wait("document.querySelector('#strip [aria-checked=true]').dataset.map === 'map0'")
    for _ in range(3):
        page.keyboard.press("-")
    watched.wait("location.search.includes('opacity=60')")
    page.keyboard.press("m")
    watched.wait("location.search.includes('mask=deletion')")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(re.compile("/image/here/hunt/[0-9]+/2.*opacity=60"))
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
    page.locator("#curves polyline").first.wait_for()
    for name in ("pareto", "curves"):
        with page.expect_download() as svg:
            page.locator(f"[data-save={name}][data-kind=svg]").click()
        text = Path(svg.value.path()).read_text(encoding="utf-8")
        assert "val/accuracy" in text
        assert "class=" not in text.partition(">")[2]  # no style sheet is needed
        with page.expect_download() as png:
            page.locator(f"[data-save={name}][data-kind=png]").click()
        assert Path(png.value.path()).read_bytes().startswith(b"\x89PNG")


def test_dashboard_at_the_root_asks_for_nothing_outside(browser: Any, served: Served) -> None:
    one = Watched(browser, base_of(served))
    one.open("/dashboard/studies/1")
    one.page.get_by_text("hunt").first.wait_for()
    one.context.close()
    assert [fault for fault in one.faults if fault.startswith(("external", "failed"))] == []


@pytest.fixture(scope="module", params=["squash", "crop"])
def turned(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Built, str]]:
    """A server on pictures that are landscape, portrait, turned by EXIF and square, under both resize rules."""
    rule = str(request.param)
    built = build(tmp_path_factory.mktemp(rule), resize=rule, n_trials=1, n_per_class=2)
    with serving(built) as served:
        yield rule, built, base_of(served)


SIZES_HW = {0: (64, 96), 1: (96, 64), 2: (100, 60), 3: (80, 80)}
"""Height and width as a person sees the picture; the third file is 60 x 100, turned by EXIF."""


@pytest.mark.parametrize("row", SIZES_HW)
def test_hot_cell_lies_on_the_right_pixels_of_the_original(
    turned: tuple[str, Built, str], browser: Any, row: int
) -> None:
    """In the size of the original, exactly the pixels whose centres lie in the cell's box are painted."""
    rule, _, base = turned
    height, width = SIZES_HW[row]
    box = geometry.crop_box((height, width), image_size_px=IMAGE_SIZE_PX, crop_ratio=CROP_RATIO, resize=rule)  # type: ignore[arg-type]
    left, top, right, bottom = geometry.cell_box(box, map_hw=MAP_HW, row=HOT[0], column=HOT[1])
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    expected = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    one = Watched(browser, base)
    query = "?map=map0&smooth=0&opacity=100&colours=viridis&original=1"
    page = one.open(f"/attention/image/here/hunt/0/{row}{query}")
    one.wait("document.body.dataset.ready === '1'")
    assert page.evaluate("[canvas.height, canvas.width]") == [height, width]
    pixels = page.evaluate("[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
    painted = np.array(pixels).reshape(height, width, 4)[..., :3]
    one.context.close()
    assert one.faults == []
    hot = np.abs(painted - np.array([253, 231, 36])).max(axis=-1) <= 2  # the last colour of viridis
    assert expected.any()
    np.testing.assert_array_equal(hot, expected)


def test_smooth_map_is_bilinear_between_cell_centres(turned: tuple[str, Built, str], browser: Any) -> None:
    """One hot cell falls off as (1 - |dx|)(1 - |dy|) in cells from its centre; opacity follows the strength."""
    rule, _, base = turned
    height, width = SIZES_HW[3]
    box = geometry.crop_box((height, width), image_size_px=IMAGE_SIZE_PX, crop_ratio=CROP_RATIO, resize=rule)  # type: ignore[arg-type]
    one = Watched(browser, base)
    page = one.open("/attention/image/here/hunt/0/3")
    script = """async () => {
      const { mapImage } = await import('/attention/static/paint.js');
      const map = { h: 4, w: 5, values: new Float32Array(20) };
      map.values[1 * 5 + 3] = 1;
      const [left, top, right, bottom] = BOX;
      const view = { opacity: 1, colours: 'viridis', smooth: true, blend: 'strength' };
      const layer = mapImage({ width: 80, height: 80 }, map, { left, top, right, bottom }, view, { low: 0, high: 1 });
      return { left: layer.left, top: layer.top, w: layer.image.width, data: [...layer.image.data] };
    }""".replace("BOX", str([float(edge) for edge in box]))
    layer = page.evaluate(script)
    one.context.close()
    alpha = np.array(layer["data"]).reshape(-1, layer["w"], 4)[..., 3] / 255
    x = layer["left"] + np.arange(alpha.shape[1]) + 0.5
    y = layer["top"] + np.arange(alpha.shape[0]) + 0.5
    across = np.clip(1 - np.abs((x - box[0]) / (box[2] - box[0]) * 5 - 3.5), 0, 1)
    rows = (y - box[1]) / (box[3] - box[1]) * 4 - 0.5
    down = np.clip(1 - np.abs(rows - 1), 0, 1)
    np.testing.assert_allclose(alpha, down[:, None] * across[None, :], atol=1 / 255 + 1e-6)


def test_cells_in_the_padding_neither_show_nor_set_the_scale(watched: Watched) -> None:
    """A map of 4 x 4 cells over a square of 100 px: a picture of 100 x 60 px reaches into three rows of 25 px."""
    page = watched.open("/attention/")
    script = """async () => {
      const { onPicture, rangeOf } = await import('/attention/static/field.js');
      const map = { h: 4, w: 4, values: Float32Array.from({ length: 16 }, (_, cell) => cell) };
      const wide = onPicture(map, [60, 100], [0, 0, 100, 100]);
      const tall = onPicture(map, [100, 50], [0, 0, 100, 100]);
      const whole = onPicture(map, [100, 100], [10, 10, 90, 90]);
      const told = ({ map, box }) => [map.h, map.w, box, rangeOf([map]).high];
      return [wide, tall, whole].map(told);
    }"""
    assert page.evaluate(script) == [
        [3, 4, [0, 0, 100, 75], 11],
        [4, 2, [0, 0, 50, 100], 13],
        [4, 4, [10, 10, 90, 90], 15],
    ]


def test_mask_hides_the_strongest_cells_in_the_order_of_the_map(turned: tuple[str, Built, str], browser: Any) -> None:
    """A share of 5 % of 20 cells is the one hot cell: hidden by deletion, alone kept by insertion."""
    _, _, base = turned
    one = Watched(browser, base)
    shares = []
    for mask in ("deletion", "insertion"):
        page = one.open(f"/attention/image/here/hunt/0/3?map=map0&mask={mask}&share=5&original=1")
        one.wait("document.body.dataset.ready === '1'")
        pixels = page.evaluate("[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]")
        painted = np.array(pixels).reshape(80, 80, 4)[..., :3]
        filled = np.abs(painted - np.array([124, 116, 104])).max(axis=-1) == 0
        shares.append(filled[20:60, 20:60].mean())  # the model's view: the middle half
    one.context.close()
    assert one.faults == []
    assert shares == pytest.approx([1 / 20, 19 / 20], abs=0.01)


def test_curve_moves_the_mask(browser: Any, tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1, n_per_class=1)
    write_scores(built.layout, 0, ["val/gull/0.jpg", "val/tern/0.jpg"], {"deletion": [0.1, 0.2]})
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
        assert one.faults == []


def test_missing_data_set_and_copies_leave_the_map(browser: Any, tmp_path: Path) -> None:
    built = build(tmp_path, n_trials=1)
    shutil.rmtree(built.data_root)
    shutil.rmtree(built.layout.thumbnails)
    with serving(built) as served:
        one = Watched(browser, base_of(served))
        page = one.open(TRIAL)
        page.get_by_text("grey where neither a small copy nor the data set is here").wait_for()
        page.locator("#grid .tile").first.click()
        one.wait("document.body.dataset.ready === '1'")
        assert page.locator("#original").is_disabled()
        one.context.close()
        assert one.faults == []


def test_colour_tables_are_those_of_matplotlib(watched: Watched) -> None:
    from matplotlib import colormaps

    page = watched.open("/attention/")
    script = """async () => {
      const { TABLES } = await import('/attention/static/colours.js');
      return Object.fromEntries(Object.entries(TABLES).map(([name, table]) => [name, [...table]]));
    }"""
    tables = page.evaluate(script)
    assert sorted(tables) == ["RdBu", "inferno", "turbo", "viridis"]
    for name, table in tables.items():
        np.testing.assert_array_equal(np.reshape(table, (256, 3)), colormaps[name](np.arange(256), bytes=True)[:, :3])
