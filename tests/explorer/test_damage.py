"""No damaged database or file of a results folder ends a command or a page in a raw exception."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.report.page import build_report
from attnsearch.results.reader import find_experiments
from attnsearch.store.layout import StudyLayout
from tests.benchmarks.damage_fuzz import fuzz
from tests.explorer.built import Built
from tests.explorer.built_reid import build_reid
from tests.explorer.damage import copy_of, harm_results, opened
from tests.explorer.every_reader import page_faults

HOST = {"Host": "localhost"}
REID = "here/seek"
RETRIEVAL_PAGES = (
    *(f"/attention/{page}/{REID}/0" for page in ("trial", "retrieval", "api/grid", "api/queries")),
    *(f"/attention/{page}/{REID}/0/1" for page in ("query", "image", "api/query", "api/image")),
    *(f"/attention/{page}/{REID}/0/0/6" for page in ("pair", "api/pair")),
    *(f"/attention/api/queries/{REID}/0?{words}" for words in ("camera_of=missed&gallery_camera=0", "order=cosine")),
    *(f"/attention/study/{REID}", f"/attention/query-trials/{REID}", f"/attention/api/query/{REID}/0/0?map=saliency"),
    *(f"/attention/split-image/{REID}/0/val/0", f"/attention/api/pair/{REID}/1/2/12"),
)


def ask(root: Path, address: str) -> tuple[int, str]:
    with Client(build_app(find_experiments(root))[0]).get(address, headers=HOST) as answer:
        return answer.status_code, answer.data.decode(errors="replace")


@pytest.mark.parametrize(("kind", "seed"), [("databases", 2), ("files", 3)])
def test_no_page_on_damaged_results_fails_without_a_reason(built: Built, tmp_path: Path, kind: str, seed: int) -> None:
    layout = replace(built.layout, root=copy_of(built.root, tmp_path / "results"))
    assert harm_results(kind, seed, layout)
    assert page_faults(layout.root) == []


@pytest.mark.parametrize("seed", range(3))
def test_no_page_on_damaged_galleries_fails_without_a_reason(tmp_path: Path, seed: int) -> None:
    layout = build_reid(tmp_path).layout
    assert harm_results("files", seed, layout)
    assert page_faults(layout.root, RETRIEVAL_PAGES) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["databases", "files"])
def test_no_reader_of_damaged_results_ends_in_a_raw_exception(tmp_path: Path, kind: str) -> None:
    tally = fuzz(kind, range(100, 103), tmp_path)
    assert (tally.n_damaged, tally.faults) == (3, [])


@pytest.fixture
def broken_value(copied: Built) -> StudyLayout:
    """A study of which one value of one trial is no number."""
    with opened(copied.layout.database) as database:
        where = "WHERE key = 'val/accuracy' AND trial_id = 2"
        assert database.execute(f"UPDATE trial_user_attributes SET value_json = '\"much\"' {where}").rowcount == 1
    return copied.layout


def test_damaged_database_is_one_line_in_the_list_and_on_every_page(broken_value: StudyLayout) -> None:
    said = "val/accuracy of trial 1 must be a number, got"
    for address in ("", "study/here/hunt", "trial/here/hunt/0"):
        code, text = ask(broken_value.root, f"/attention/{address}")
        assert said in text
        assert code == (503 if address else 200)


def test_what_optuna_dashboard_cannot_show_is_explained(copied: Built) -> None:
    """Its own answer would be `internal server error`, with a traceback on the terminal."""
    with opened(copied.layout.database) as database:
        assert database.execute("UPDATE trial_params SET distribution_json = '{'").rowcount > 0
    code, text = ask(copied.root, "/api/studies/1")
    assert code == 503
    assert "hypSearch.db cannot be read (JSONDecodeError" in text
    assert "internal server error" not in text


def test_report_of_damaged_parts_names_them_and_shows_the_rest(copied: Built) -> None:
    layout = copied.layout
    layout.test_evaluations.write_bytes(b"\xff\xfe")
    for number in range(3):
        layout.trial(number).archive("val").images.write_text("row\n0\n", encoding="utf-8")
    html = build_report(copied.root).html
    assert "here/hunt/test_evaluations.csv cannot be read" in html
    assert "images_val.csv is not the index of an archive" in html
    assert "0.8" in html  # the accuracies of the trials


def test_damaged_small_copy_leaves_only_the_pictures_out(copied: Built) -> None:
    for path in copied.layout.thumbnails.rglob("*.jpg"):
        path.write_bytes(b"damaged")
    html = build_report(copied.root).html
    assert "is not an image" in html
    assert "data:image/jpeg" not in html


@pytest.mark.parametrize("content", [b"[", b"\xff"])
def test_damaged_description_of_an_archive_is_a_page(copied: Built, content: bytes) -> None:
    copied.layout.trial(0).archive("val").about.write_bytes(content)
    for address in ("trial/here/hunt/0", "image/here/hunt/0/0", "api/grid/here/hunt/0"):
        code, text = ask(copied.root, f"/attention/{address}")
        assert code == 503
        assert "archive_val.json cannot be read" in text


def test_plain_run_whose_epochs_lack_the_kept_one_is_named(copied: Built) -> None:
    target = copied.layout.experiment_dir / "alone" / "trials" / "00000"
    shutil.copytree(copied.layout.trial(1).directory, target)
    lines = (target / "epochs.csv").read_text(encoding="utf-8").splitlines()
    (target / "epochs.csv").write_text("\n".join(lines[:-1]) + "\n", encoding="utf-8")
    code, text = ask(copied.root, "/attention/study/here/alone")
    assert (code, "epochs.csv lacks epoch 3" in text) == (503, True)


def test_folder_in_place_of_a_file_and_a_link_to_itself_are_named(copied: Built) -> None:
    index = copied.layout.trial(0).archive("val").images
    index.unlink()
    index.mkdir()
    copy = next(copied.layout.thumbnails.rglob("*.jpg"))
    copy.unlink()
    copy.symlink_to(copy)
    assert "images_val.csv: Is a directory" in ask(copied.root, "/attention/trial/here/hunt/0")[1]
    assert ask(copied.root, "/attention/picture/here/hunt/1/val/0?px=256")[0] == 200  # from the data set
