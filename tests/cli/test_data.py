"""A data set on the command line: a folder, a config, or settings alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnsearch.cli.app import main
from attnsearch.cli.data import data_settings
from attnsearch.errors import ConfigError
from tests.data.conftest import write_image
from tests.data.test_reid_sets import DUKE, MARKET, write_named


def test_settings_alone_describe_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "birds.csv").write_text("path,label,split\n")
    data = data_settings("data.name=csv", [f"data.root={tmp_path}/birds.csv"])
    assert (data.name, data.model_dump()["root"]) == ("csv", f"{tmp_path}/birds.csv")
    with pytest.raises(ConfigError, match="data: needs a 'name'"):
        data_settings("data.root=birds", [])


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert data_settings(str(folder), []).name == "folder"


def test_a_folder_of_identities_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_named(tmp_path / "Market-1501-v15.09.15", MARKET)
    assert main(["data", "check", "."]) == 0
    shown = capsys.readouterr().out
    assert "market1501: smallest / median / largest, val held out of train" in shown
    assert "queries without a match: 1" in shown
    assert "5 identities of train (published: 751)" in shown
    assert main(["data", "check", ".", "--json"]) == 0
    numbers, *problems = map(json.loads, capsys.readouterr().out.splitlines())
    assert numbers["parts"]["gallery"] == {
        **{"identities": 4, "images": 5, "images_per_identity": [1, 1.0, 2], "identities_of_one_image": 2},
        **{"cameras": 3, "images_per_identity_and_camera": [1, 1.0, 1], "identities_of_one_camera": 2},
    }
    assert numbers["queries_without_a_match"] == 1
    assert problems[0]["kind"] == "count"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data.name=market1501 data.root=none", "none does not exist"),
        ("data.name=market1501 data.root=duke", "names not beginning like 0002_c1s1_000451_03.jpg"),
        ("data.name=reid_folder data.root=duke data.camera_pattern=(", "must be a regular expression, got '('"),
        ("data.name=msmt17 data.root=duke", "none of these holds list_train.txt"),
    ],
)
def test_what_cannot_be_read_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_named(tmp_path / "duke", DUKE)
    assert main(["data", "check", *settings.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_card_is_shown_and_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "clothes"
    for number in range(22):
        write_image(root / ("hat" if number < 12 else "shoe") / f"{number}.jpg")
    page = tmp_path / "card.html"
    assert main(["data", "check", str(root), "--html", str(page)]) == 0
    shown = capsys.readouterr().out
    assert "\ntrain            16        2  shoe 7    hat 9" in shown
    assert "has no splits: each class is split 70/10/20" in shown
    assert "validation has 2 images: one image is 50 points of accuracy" in shown
    assert shown.splitlines()[-1] == f"written: {page}"
    assert "data:image/jpeg" in page.read_text()
    assert main(["data", "check", str(root), "--json"]) == 0
    card, *problems = map(json.loads, capsys.readouterr().out.splitlines())
    assert (card["kind"], card["n_images"], card["splits"]["test"]["n_images"]) == ("card", 22, 4)
    assert [problem["kind"] for problem in problems] == ["split", "few_images"]


def test_a_page_needs_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(tmp_path / "none"), "--html", str(tmp_path / "card.html")]) == 2
    assert "only data sets of classes whose images can be read have a card" in capsys.readouterr().err
