"""A run that was really trained and published, looked at on a machine without its data set."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments

WHERE = "demo/br_npa_low_res/0"


def test_copied_run_shows_pictures_and_maps_of_both_splits(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / "empty"))  # where the drawn pictures would be
    target = tmp_path / "results"
    shutil.copytree(finished_run, target)
    app, _ = build_app(find_experiments(target))
    client = Client(app)
    for split in ("val", "test"):
        page = json.loads(client.get(f"/attention/api/grid/{WHERE}?split={split}").text)
        assert page["total"] == 8
        assert {image["source"] for image in page["images"]} == {"copy"}
        assert all(image["map"]["cells"] for image in page["images"])
        assert client.get(f"/attention/picture/{WHERE}/{split}/0?px=256").mimetype == "image/jpeg"
    assert client.get(f"/attention/trial/{WHERE}").status_code == 200
    assert not list((tmp_path / "empty").glob("synthetic/*"))  # looking draws nothing
