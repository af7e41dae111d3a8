"""A study with known maps, asked in-process and through a real server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import RunningServer, build_app
from attnsearch.results.reader import find_experiments
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import Watched, base_of
from tests.explorer.built import Built, build, serving

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Three trials with maps of six images, on square crops of the middle."""
    return build(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="session")
def client(built: Built) -> Client:
    """Asks the whole app without a socket; `Host` must be given by `base_url`."""
    app, _ = build_app(find_experiments(built.root))
    return Client(app)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `copied` copies: `results`, whose settings name a link to the images, and the images."""
    folder = tmp_path_factory.mktemp("template")
    build(folder)
    (folder / "pictures").rename(folder / "images")
    return folder


@pytest.fixture
def copied(template: Path, tmp_path: Path) -> Built:
    """Results and images of a test's own, which it may change."""
    data_root = shutil.copytree(template / "images", tmp_path / "pictures")
    root = shutil.copytree(template / "results", tmp_path / "results")
    named = template / "pictures"  # the settings name the images through a link
    named.unlink(missing_ok=True)
    named.symlink_to(data_root)
    return Built(root, data_root, StudyLayout(root, "here", "hunt"))


@pytest.fixture(scope="session")
def served(built: Built) -> Iterator[RunningServer]:
    """A server in a thread, on a free port."""
    with serving(built) as one:
        yield one


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The Chromium of the system, else the one that Playwright installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install '.[test]'")
    with playwright.sync_playwright() as starter:
        path = next((found for name in NAMES if (found := shutil.which(name))), starter.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("Chromium is missing, the explorer was not tested in a browser: apt-get install chromium")
        one = starter.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def watched(browser: Any, served: RunningServer) -> Iterator[Watched]:
    """A page of the shared server, on which nothing may go wrong."""
    one = Watched(browser, base_of(served))
    yield one
    one.context.close()
    assert one.problems == []
