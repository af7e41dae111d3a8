"""A photograph of one's own and scores on demand in a real browser, by a model that was trained."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from attnsearch.explorer import server
from attnsearch.explorer.server import RunningServer
from attnsearch.results.reader import find_study
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import PHONE, Watched, base_of
from tests.explorer.built import Built, serving

pytestmark = pytest.mark.slow
EXPLAIN, IMAGE = "/attention/explain/demo/br_npa_low_res/0", "/attention/image/demo/br_npa_low_res/0/0"
READY = "Boolean(document.body.dataset.ready)"
PAINTED = """(() => { const one = document.getElementById('canvas');
  return new Set(one.getContext('2d').getImageData(0, 0, one.width, one.height).data).size > 8; })()"""


@pytest.fixture(scope="module")
def unscored(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A copy of a run with its weights and without its scores."""
    root = Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("upload") / "results"))
    find_study("br_npa_low_res", root).trial(0).files.scores("val").about.unlink()
    return Built(root, root, StudyLayout(root, "demo", "br_npa_low_res"))


@pytest.fixture(scope="module")
def running(unscored: Built) -> Iterator[RunningServer]:
    with serving(unscored) as one:
        yield one


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "my <b>bird.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").convert("RGB").resize((300, 200)).save(path, exif=exif)
    return path


@pytest.fixture
def page(browser: Any, running: RunningServer) -> Iterator[Watched]:
    one = Watched(browser, base_of(running))
    yield one
    one.context.close()
    assert one.problems == []


def test_photograph_is_chosen_and_explained(page: Watched, photo: Path, unscored: Built) -> None:
    before = sorted(unscored.root.rglob("*"))
    page.open("/attention/trial/demo/br_npa_low_res/0").get_by_role("link", name="Explain your own photograph").click()
    page.page.set_input_files("#file", str(photo))
    page.wait(READY)
    assert page.page.locator("#status").inner_text() == "my <b>bird.jpg is explained; it was not stored."
    assert page.page.locator("#top li").count() == 2
    assert page.page.locator("#legend .of").inner_text() == "saliency, 1x1 (1 cells)"
    assert page.page.locator("#facts").inner_text().count("200 × 300 px") == 1
    page.wait(PAINTED)
    page.page.keyboard.press("]")
    assert page.page.locator("#strip [aria-checked=true]").get_attribute("data-map") == "map0"
    assert sorted(unscored.root.rglob("*")) == before


def test_photograph_is_dropped_on_a_phone(browser: Any, running: RunningServer, photo: Path) -> None:
    one = Watched(browser, base_of(running), PHONE)
    one.open(EXPLAIN)
    one.page.evaluate("""async () => {
      const drawn = document.createElement('canvas');
      const blob = await new Promise((done) => drawn.toBlob(done));
      const carried = new DataTransfer();
      carried.items.add(new File([blob], 'dropped.png', { type: 'image/png' }));
      document.getElementById('drop').dispatchEvent(new DragEvent('drop', { dataTransfer: carried }));
    }""")
    one.wait(READY)
    assert "dropped.png is explained" in one.page.locator("#status").inner_text()
    assert one.overflow_px() == 0
    one.context.close()
    assert one.problems == []


def test_what_is_refused_is_said_on_the_page(browser: Any, running: RunningServer, tmp_path: Path) -> None:
    one = Watched(browser, base_of(running))
    one.open(EXPLAIN)
    (tmp_path / "IMG_1.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    one.page.set_input_files("#file", str(tmp_path / "IMG_1.heic"))
    one.wait("document.getElementById('status').classList.contains('error')")
    assert one.page.locator("#status").inner_text().startswith("IMG_1.heic is HEIC, which is not read")
    assert one.page.locator("#result").is_hidden()
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate(33 * 2**20)
    one.page.set_input_files("#file", str(tmp_path / "large.jpg"))
    one.wait("document.getElementById('status').textContent.includes('33 MB, at most 32 are read')")
    one.context.close()
    assert all("415" in problem for problem in one.problems)


def test_kept_photograph_is_named(browser: Any, unscored: Built, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_app = server.build_app
    monkeypatch.setattr(server, "build_app", lambda *given, **named: build_app(*given, **{**named, "allow_edit": True}))
    with serving(unscored) as editing:
        one = Watched(browser, base_of(editing))
        one.open(EXPLAIN).locator("#keep").check()
        one.page.set_input_files("#file", str(photo))
        one.wait(READY)
        folder = Path(one.page.locator("#status").inner_text().rpartition("kept in ")[2])
        one.context.close()
        assert one.problems == []
    assert (folder / "photo.jpg").read_bytes() == photo.read_bytes()
    assert folder.is_relative_to(unscored.layout.trial(0).directory)


def test_image_without_scores_is_scored_by_its_page(page: Watched, unscored: Built) -> None:
    page.open(f"{IMAGE}?split=val")
    page.wait(READY)
    assert page.page.locator("#scores").is_hidden()
    page.page.get_by_role("button", name="Score this image").click()
    page.page.locator("#scores").wait_for()
    assert "energy in mask" in page.page.locator("#scores-list").inner_text()
    assert page.page.locator("#score-now").inner_text() == "Scored now, and not stored."
    assert not find_study("br_npa_low_res", unscored.root).trial(0).has_scores("val")
    page.page.reload()
    page.wait(READY)
    assert page.page.locator("#scores").is_hidden()
