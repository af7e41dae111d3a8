"""optuna-dashboard beside the explorer: the experiment that a cookie names."""

from __future__ import annotations

import json
import shutil

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from tests.explorer.built import Built


@pytest.fixture
def two(copied: Built) -> Client:
    """Of the experiments `here` and `there`, which have the same studies."""
    other = copied.root / "there"
    shutil.copytree(copied.root / "here", other)
    return Client(build_app(find_experiments(copied.root))[0])


def shown(client: Client) -> str:
    """The experiment in the note of the first study."""
    return str(json.loads(client.get("/api/studies/1").text)["note"]["body"])


def test_the_cookie_names_the_experiment(two: Client) -> None:
    for name in ("here", "there", "here"):
        answer = two.get(f"/attention/optuna/{name}")
        assert (answer.status_code, answer.headers["Location"]) == (302, "/dashboard")
        assert "HttpOnly" in answer.headers["Set-Cookie"]
        assert "SameSite=Strict" in answer.headers["Set-Cookie"]
        two.set_cookie("attnsearch_experiment", name)
        assert len(json.loads(two.get("/api/studies").text)["study_summaries"]) == 1


def test_pages_link_to_their_own_experiment(two: Client) -> None:
    for name in ("here", "there"):
        assert f'href="/attention/optuna/{name}"' in two.get(f"/attention/study/{name}/hunt").text
    assert 'href="/dashboard"' in two.get("/attention/").text


@pytest.mark.parametrize("name", ["nowhere", "..%2F..", "%00"])
def test_an_unknown_experiment_is_refused_and_sets_no_cookie(two: Client, name: str) -> None:
    answer = two.get(f"/attention/optuna/{name}")
    assert answer.status_code == 404
    assert "Set-Cookie" not in answer.headers


def test_a_cookie_that_names_nothing_shows_the_first_one(two: Client) -> None:
    two.set_cookie("attnsearch_experiment", "..%2Fetc")
    assert two.get("/api/studies").status_code == 200


def test_what_only_the_package_reads_is_not_shown(two: Client) -> None:
    study = json.loads(two.get("/api/studies/1").text)
    keys = {column["key"] for column in study["union_user_attrs"]}
    assert "val/loss" in keys
    assert not {key for key in keys if key.startswith("attnsearch_")} | keys & {"scores", "ended_at"}
