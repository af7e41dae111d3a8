"""The page of a study in a real browser, while a search trains and after it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch.explorer.server import RunningServer
from attnsearch.store.film import FilmImage, write_film_frame, write_film_images
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import DESK, PHONE, Watched, base_of, violations
from tests.explorer.built import Built, serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
N_EPOCHS, SEEN_EPOCHS, KILLED_AT = 20, 3, 6
START_S = 240
SEARCH = (
    *("search", "br_npa_low_res", "--profile", "demo", "n_trials=1", "enqueue=[]", f"train.epochs={N_EPOCHS}"),
    *("data.n_train_per_class=16", "data.n_val_per_class=8", "data.n_test_per_class=4"),
)
STUDY = "/attention/study/here/hunt"
TILES = "[...document.querySelectorAll('#film-strip tbody tr')].map((row) => row.querySelectorAll('td canvas').length)"
EPOCHS = "[...document.querySelectorAll('#film-strip thead [data-epoch]')].map((one) => Number(one.dataset.epoch))"
IN_STEP = f"""(() => {{
  const epoch = Number(/running (\\d+)\\/{N_EPOCHS}/.exec(document.getElementById('table').textContent)?.[1]);
  return epoch >= {SEEN_EPOCHS}
    && document.getElementById('keys-of-lines').textContent === `trial 0, ${{epoch}} of {N_EPOCHS} epochs`
    && document.getElementById('curves').dataset.points === String(epoch)
    && {TILES}.every((n) => n === epoch);
}})()"""


@dataclass
class Search:
    """A search in a process group of its own, so that a kill ends its workers too."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def layout(self) -> StudyLayout:
        return StudyLayout(self.folder / "results", "demo", "br_npa_low_res")

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            command = (sys.executable, "-m", "attnsearch", *SEARCH)
            self.process = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=log, stderr=log,
                                            start_new_session=True)  # fmt: skip

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def wait_for_frame(self, epoch: int) -> None:
        path = self.layout.trial(0).film_frame(epoch)
        self.wait(path.exists, f"no frame of epoch {epoch}")

    def wait(self, is_true: Callable[[], bool], failure: str) -> None:
        end = time.monotonic() + START_S
        while not is_true():
            if time.monotonic() > end:
                pytest.fail(f"{failure}: {(self.folder / 'log').read_text(encoding='utf-8')[-2000:]}")
            time.sleep(0.1)


@pytest.fixture
def search(tmp_path: Path) -> Iterator[Search]:
    one = Search(tmp_path)
    one.start()
    yield one
    one.kill()


def test_the_page_follows_a_search_that_is_killed_and_goes_on(browser: Any, search: Search) -> None:
    """Without a click the table, the curve and the film strip have the same epoch; a kill loses and doubles none."""
    search.wait_for_frame(1)
    with serving(Built(search.folder / "results", search.folder, search.layout)) as served:
        watched = Watched(browser, base_of(served))
        page = watched.open_live("/attention/study/demo/br_npa_low_res")
        watched.wait(IN_STEP)
        headline = page.locator("#headline").inner_text()
        assert re.match(r"1 running \| 0 of 1 done \| best val/accuracy [\d.]+ \(trial 0, epoch \d+\)", headline)
        assert violations(page) == []
        search.wait_for_frame(KILLED_AT)
        search.kill()
        search.start()
        assert search.process is not None
        search.wait(lambda: search.process is not None and search.process.poll() is not None, "the search does not end")
        assert search.process.returncode == 0
        watched.wait(f"document.getElementById('curves').dataset.points === '{N_EPOCHS}'")
        watched.wait("document.getElementById('state').textContent === 'finished'")
        watched.wait(f"{EPOCHS}.length === {N_EPOCHS}")
        assert page.evaluate(EPOCHS) == list(range(1, N_EPOCHS + 1))
        assert set(page.evaluate(TILES)) == {N_EPOCHS}
        assert page.locator("#headline").inner_text().startswith("1 of 1 done | best val/accuracy")
        assert "not scored" not in page.locator("#facts").inner_text()
        watched.context.close()
        assert watched.problems == []


@pytest.fixture
def filmed(copied: Built) -> Iterator[RunningServer]:
    """The built study, of whose best trial four images have been filmed for three epochs."""
    trial = copied.layout.trial(2)
    images = [FilmImage(f"val/gull/{row}.jpg", "gull", (64, 96), (16.0, 0.0, 80.0, 64.0)) for row in range(4)]
    write_film_images(trial, images)
    for epoch in (1, 2, 3):
        write_film_frame(trial, epoch, np.full((4, 2, 2), epoch, dtype=np.float32))
    with serving(copied) as served:
        yield served


@pytest.fixture
def page_of_film(browser: Any, filmed: RunningServer) -> Iterator[Watched]:
    one = Watched(browser, base_of(filmed))
    one.open(STUDY)
    one.page.locator("#film-strip canvas").first.wait_for()
    yield one
    one.context.close()
    assert one.problems == []


def test_a_film_has_one_scale_from_zero_and_a_scrubber(page_of_film: Watched) -> None:
    page = page_of_film.page
    assert page.locator("#film-title").inner_text() == "Film strip of trial 2"
    assert page.locator("#film .legend").inner_text().split() == ["saliency,", "2x2", "0", "3"]
    assert page.locator("#film-strip tbody tr").count() == 3
    page.locator("#film-rows").click()
    assert page.locator("#film-strip tbody tr").count() == 4
    page.locator("#epoch").focus()
    page.keyboard.press("Home")
    assert page.locator("#epoch-value").inner_text().startswith("1 of 3")
    faint = page.evaluate("document.querySelector('#frames canvas').toDataURL()")
    page.keyboard.press("ArrowRight")
    assert page.locator("#film-strip th.shown").inner_text() == "2"
    assert page.evaluate("document.querySelector('#frames canvas').toDataURL()") != faint
    assert page.locator("#frames canvas").count() == 4
    page.locator("[data-tick='0']").check()
    page.locator(".point[data-key='0']").click()
    page.locator("#film").wait_for(state="hidden")  # trial 0 was not filmed


def test_a_zoom_is_kept_until_a_double_click(watched: Watched) -> None:
    page = watched.open(STUDY)
    canvas = page.locator("#curves .u-over")
    canvas.scroll_into_view_if_needed()
    frame = canvas.bounding_box()
    page.mouse.move(frame["x"] + 0.4 * frame["width"], frame["y"] + 50)
    assert page.locator(".tip:visible").first.inner_text().startswith("epoch 2")
    whole = page.evaluate("document.querySelector('#curves canvas').toDataURL()")
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] - 2, frame["y"] + 60, steps=4)
    page.mouse.up()
    watched.wait(f"document.querySelector('#curves canvas').toDataURL() !== {whole!r}")
    canvas.dblclick()
    page.mouse.move(5, 5)
    watched.wait(f"document.querySelector('#curves canvas').toDataURL() === {whole!r}")


def test_a_brush_on_an_axis_filters_the_table(watched: Watched) -> None:
    page = watched.open(f"{STUDY}?chart=parallel")
    assert page.locator(".strand").count() == 3
    axis = page.locator(".brush-reach").nth(2)  # of accuracy, behind two hyperparameters
    axis.scroll_into_view_if_needed()
    frame = axis.bounding_box()
    middle = frame["x"] + frame["width"] / 2
    page.mouse.move(middle, frame["y"] + 2)
    page.mouse.down()
    page.mouse.move(middle, frame["y"] + 0.3 * frame["height"], steps=4)
    page.mouse.up()
    page.get_by_text("1 of 3 trials").wait_for()
    assert page.locator(".strand.out").count() == 2
    page.locator(".brush-reach").nth(2).click()
    page.get_by_text("3 of 3 trials").wait_for()


def test_further_metrics_are_folded_and_chosen(watched: Watched) -> None:
    page = watched.open(STUDY)
    assert page.get_by_role("button", name="best epoch").count() == 0
    page.locator("#more summary").click()
    page.get_by_label("best epoch").check()
    page.get_by_role("button", name="best epoch").wait_for()
    watched.open(page.url.removeprefix(watched.base))
    page.get_by_role("button", name="best epoch").wait_for()
    assert page.locator("th button").first.inner_text() == "trial"


def test_an_axis_can_be_logarithmic(watched: Watched) -> None:
    page = watched.open(f"{STUDY}?x=train.optimizer.lr")
    place = "document.querySelector(\".point[data-key='1'] .dot\").getAttribute('cx')"
    linear = page.evaluate(place)
    page.locator("#logx").check()
    assert page.evaluate(place) != linear
    assert "logx=1" in page.url


@pytest.mark.parametrize("chart", ["scatter", "parallel", "importance"])
@pytest.mark.parametrize("size", [DESK, PHONE])
def test_every_chart_is_accessible(browser: Any, filmed: RunningServer, chart: str, size: tuple[int, int]) -> None:
    one = Watched(browser, base_of(filmed), size)
    page = one.open(f"{STUDY}?chart={chart}")
    page.locator("#film-strip canvas").first.wait_for()
    page.locator("#more summary").click()
    assert violations(page) == []
    assert one.overflow_px() == 0
    one.context.close()
    assert one.problems == []
