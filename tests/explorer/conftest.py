"""A study with known maps, asked in-process and through a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from werkzeug.test import Client

from attnsearch.explorer.library import find_experiments
from attnsearch.explorer.server import Served, build_app
from tests.explorer.built import Built, build, serving


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Three trials with maps of six images, on square crops of the middle."""
    return build(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="session")
def client(built: Built) -> Client:
    """Asks the whole app without a socket; `Host` must be given by `base_url`."""
    app, _ = build_app(find_experiments(built.root))
    return Client(app)


@pytest.fixture
def copied(tmp_path: Path) -> Built:
    """Results of a test's own, which it may change."""
    return build(tmp_path)


@pytest.fixture(scope="session")
def served(built: Built) -> Iterator[Served]:
    """A server in a thread, on a free port."""
    with serving(built) as one:
        yield one
