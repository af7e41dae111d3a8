"""Photographs are explained and single images scored, for pages of the server only; nothing is stored."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from attnsearch.explorer import model_views
from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments, find_study
from tests.explorer.test_photographs import bomb, encoded

EXPLAIN = "/attention/explain/demo/br_npa_low_res/0"
SCORE = "/attention/score/demo/br_npa_low_res/0"
OWN = {"Origin": "http://localhost"}


def client_of(root: Path, **settings: bool) -> Client:
    app, _ = build_app(find_experiments(root), **settings)
    return Client(app)


@pytest.fixture(scope="module")
def run_client(finished_run: Path) -> Client:
    return client_of(finished_run)


@pytest.fixture(scope="module")
def photo() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return encoded(Image.fromarray(pixels))


def files_below(root: Path) -> dict[Path, int]:
    """All files with their times, but SQLite's own, which readers touch."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {path: path.stat().st_mtime_ns for path in files}


def test_photograph_is_explained_as_in_python(
    run_client: Client, finished_run: Path, photo: bytes, tmp_path: Path
) -> None:
    before = files_below(finished_run)
    answer = run_client.post(f"{EXPLAIN}?name=a.png", data=photo, headers=OWN)
    assert answer.status_code == 200
    (tmp_path / "a.png").write_bytes(photo)
    own = find_study("br_npa_low_res", finished_run).trial(0).model().explain(tmp_path / "a.png")
    saliency = answer.json["maps"]["saliency"]
    cells = np.frombuffer(base64.b64decode(saliency["cells"]), dtype="<f4").reshape(saliency["h"], saliency["w"])
    assert own.saliency is not None
    np.testing.assert_allclose(cells, own.saliency, rtol=1e-5)
    assert [one["name"] for one in answer.json["top"]] == own.top()["class"].tolist()
    assert [one["probability"] for one in answer.json["top"]] == pytest.approx(
        own.top()["probability"].tolist(), rel=1e-5
    )
    assert len(answer.json["maps"]) == 2 + len(own.maps)
    assert (answer.json["name"], answer.json["kept"], answer.json["size"]) == ("a.png", None, [40, 60])
    assert files_below(finished_run) == before


def test_model_of_re_identification_explains_without_classes(people_runs: Path, photo: bytes) -> None:
    client = client_of(people_runs)
    path = "/attention/explain/people/cnn_people/0"
    answer = client.post(path, data=photo, headers=OWN)
    assert answer.status_code == 200, answer.text
    assert answer.json["top"] == []
    assert "saliency" in answer.json["maps"]
    assert "predicts no class" in client.get(path).text


def test_model_that_needs_cameras_says_so(people_runs: Path, photo: bytes) -> None:
    answer = client_of(people_runs).post("/attention/explain/people/dcal_people/0", data=photo, headers=OWN)
    assert answer.status_code == 404
    assert "the model tells 3 cameras apart" in answer.json["error"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 400, "nothing was sent; choose a photograph"),
        (b"hello", 415, "a.png: is not an image"),
        (b"\0\0\0\x18ftypheic\0\0", 415, "a.png is HEIC, which is not read"),
        (bomb(), 415, "a.png: has 8001 x 8001 pixels, more than the 64 million that are decoded"),
    ],
)
def test_what_is_refused_is_said_in_a_sentence(run_client: Client, content: bytes, status: int, said: str) -> None:
    answer = run_client.post(f"{EXPLAIN}?name=/home/me/a.png", data=content, headers=OWN)
    assert answer.status_code == status
    assert answer.json["error"].startswith(said)


def test_large_bodies_are_not_read(run_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_views, "MAX_BYTES", 10 * 2**20)
    answer = run_client.post(f"{EXPLAIN}?name=a.png", data=b"x" * (11 * 2**20), headers=OWN)
    assert (answer.status_code, answer.json["error"]) == (413, "a.png has more than the 10 MB that are read")


def test_large_bodies_of_unknown_length_are_not_read(run_client: Client) -> None:
    stream = io.BytesIO(b"x" * (model_views.MAX_BYTES + 1))
    chunked = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = run_client.post(EXPLAIN, input_stream=stream, headers=OWN, environ_overrides=chunked)
    assert answer.status_code == 413


def test_pages_from_elsewhere_are_refused(run_client: Client, photo: bytes) -> None:
    for headers in ({}, {"Origin": "http://evil.example"}):
        assert run_client.post(EXPLAIN, data=photo, headers=headers).status_code == 403
        assert run_client.post(f"{SCORE}/a", headers=headers).status_code == 403


def test_nothing_is_kept_unless_the_server_may(
    run_client: Client, finished_run: Path, photo: bytes, tmp_path: Path
) -> None:
    answer = run_client.post(f"{EXPLAIN}?keep=1", data=photo, headers=OWN)
    assert answer.status_code == 403
    assert "--allow-edit" in answer.json["error"]
    assert 'id="keep"' not in run_client.get(EXPLAIN).text
    copied = Path(shutil.copytree(finished_run, tmp_path / "results"))
    editing = client_of(copied, allow_edit=True)
    assert 'id="keep"' in editing.get(EXPLAIN).text
    assert editing.post(EXPLAIN, data=photo, headers=OWN).json["kept"] is None
    kept = Path(editing.post(f"{EXPLAIN}?keep=1&name=a.png", data=photo, headers=OWN).json["kept"])
    assert (kept / "photo.png").read_bytes() == photo
    assert kept.is_relative_to(copied / "demo")


def test_trial_without_weights_says_how_to_get_them(client: Client) -> None:
    path = "/attention/explain/here/hunt/0"
    assert "retention removed it" in client.get(path, base_url="http://localhost").text
    answer = client.post(path, data=b"x", headers=OWN, base_url="http://localhost")
    assert answer.status_code == 404
    assert "trains it again" in answer.json["error"]


def test_image_without_scores_is_scored(finished_run: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(finished_run, tmp_path / "results"))
    trial = find_study("br_npa_low_res", copied).trial(0)
    table = trial.score_table("val")
    trial.files.scores("val").about.unlink()
    client, image_id = client_of(copied), table.image_ids[2]
    before = files_below(copied)
    answer = client.post(f"{SCORE}/{image_id}?split=val", headers=OWN)
    assert answer.status_code == 200, answer.text
    measured = answer.json["scores"]
    assert measured["untouched_score"] == pytest.approx(table.values["untouched_score"][2], rel=1e-3)
    assert measured["energy_in_mask"] == pytest.approx(table.values["energy_in_mask"][2], rel=1e-3)
    assert answer.json["metrics"]["energy_in_mask"]["better"] == "maximize"
    assert files_below(copied) == before


def test_image_that_is_not_archived_is_named(run_client: Client) -> None:
    answer = run_client.post(f"{SCORE}/no/such.jpg", headers=OWN)
    assert answer.status_code == 404
    assert "has no image 'no/such.jpg'" in answer.json["error"]
