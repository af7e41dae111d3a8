"""The film strip as pages get it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from attnsearch.store.film import FilmImage, write_film_frame, write_film_images
from tests.explorer.built import Built

FILM = "/attention/api/film/here/hunt/0"
IMAGES = [
    FilmImage("val/gull/0.jpg", "gull", (64, 96), (16.0, 0.0, 80.0, 64.0)),
    FilmImage("val/nowhere.jpg", "tern", (10, 10), (0.0, 0.0, 10.0, 10.0)),
]


@pytest.fixture
def filmed(copied: Built) -> tuple[Client, Path]:
    """Three frames of trial 0, each twice as bright as the one before, and the folder of the trial."""
    trial = copied.layout.trial(0)
    write_film_images(trial, IMAGES)
    for epoch in (1, 2, 3):
        write_film_frame(trial, epoch, np.array([[[0, 1]], [[0.5, 0.25]]], dtype=np.float32) * 2**epoch)
    return Client(build_app(find_experiments(copied.root))[0]), trial.directory


def ask(client: Client, path: str) -> Any:
    answer = client.get(path)
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text)


def test_frames_are_levels_of_their_own_maximum(filmed: tuple[Client, Path]) -> None:
    found = ask(filmed[0], FILM)
    assert [(frame["epoch"], frame["high"], frame["h"], frame["w"]) for frame in found["frames"]] == [
        (1, 2.0, 1, 2),
        (2, 4.0, 1, 2),
        (3, 8.0, 1, 2),
    ]
    assert list(base64.b64decode(found["frames"][0]["cells"])) == [0, 255, 128, 64]
    assert [image["source"] for image in found["images"]] == ["copy", None]
    assert found["images"][0]["box"] == [16.0, 0.0, 80.0, 64.0]


def test_a_poll_gets_only_new_frames(filmed: tuple[Client, Path]) -> None:
    assert [frame["epoch"] for frame in ask(filmed[0], f"{FILM}?after=2")["frames"]] == [3]
    assert len(ask(filmed[0], f"{FILM}?after=x")["frames"]) == 3


def test_a_trial_without_a_film_has_an_empty_one(filmed: tuple[Client, Path]) -> None:
    assert ask(filmed[0], "/attention/api/film/here/hunt/1") == {"images": [], "frames": []}


def test_an_undefined_map_is_dark(filmed: tuple[Client, Path]) -> None:
    np.save(filmed[1] / "film" / "1.npy", np.full((2, 1, 2), np.nan, dtype=np.float16))
    frame = ask(filmed[0], FILM)["frames"][0]
    assert (frame["high"], list(base64.b64decode(frame["cells"]))) == (0.0, [0, 0, 0, 0])


@pytest.mark.parametrize(("path", "code"), [("0", 200), ("1", 404), ("2", 404)])
def test_photographs_are_those_of_the_film(filmed: tuple[Client, Path], path: str, code: int) -> None:
    assert filmed[0].get(f"/attention/film-picture/here/hunt/0/{path}?px=256").status_code == code


def test_damage_is_named(filmed: tuple[Client, Path]) -> None:
    (filmed[1] / "film" / "2.npy").write_bytes(b"")
    answer = filmed[0].get(FILM)
    assert (answer.status_code, "2.npy" in answer.text) == (503, True)
    assert filmed[0].get("/attention/api/film/here/hunt/9").status_code == 404
