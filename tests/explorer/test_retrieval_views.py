"""Pages and JSON of re-identification, and what the other pages say of such a study."""

from __future__ import annotations

import html
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from attnsearch.store.layout import StudyLayout
from tests.explorer.browsing import DESK, PHONE, Watched, base_of, violations
from tests.explorer.built import Built, build, serving, write_trial_scores
from tests.explorer.built_reid import CAMERAS, MAP_HW, MOVED, PLANTED, UNARCHIVED, build_reid, planted_saliency
from tests.explorer.test_views import ask, cells, page_values

STUDY = "here/seek"
IDS = [one.image_id(row) for row, one in enumerate(PLANTED)]
PAGES = (
    *(f"study/{STUDY}", f"trial/{STUDY}/0", f"retrieval/{STUDY}/0", f"query/{STUDY}/0/0", f"pair/{STUDY}/0/0/6"),
    *(f"query-trials/{STUDY}?image={IDS[0]}", f"image/{STUDY}/0/0"),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_reid(tmp_path_factory.mktemp("reid"))


@pytest.fixture(scope="module")
def client(built: Built) -> Client:
    return client_of(built)


@pytest.fixture
def copied(built: Built, tmp_path: Path) -> Built:
    """Results of a test's own, which it may change, without the data set."""
    root = shutil.copytree(built.root, tmp_path / "results")
    return Built(root, built.data_root, StudyLayout(root, "here", "seek"))


def client_of(built: Built) -> Client:
    return Client(build_app(find_experiments(built.root))[0])


def test_queries_come_with_their_first_hit_the_worst_first(client: Client) -> None:
    page = ask(client, f"queries/{STUDY}/0")
    assert [query["row"] for query in page["queries"]] == [0, 2, 1, 3]
    first, last = page["queries"][0], page["queries"][-1]
    assert (first["ap"], first["first_match"], first["identity"]) == (pytest.approx(0.45), 2, "0001")
    assert (first["camera"], first["n_matches"], first["n_removed"]) == ("1", 2, 1)
    assert (first["hit"]["row"], first["hit"]["match"], first["hit"]["distractor"]) == (5, False, True)
    assert (last["ap"], last["first_match"], last["camera"]) == (None, None, CAMERAS[2])
    assert (page["total"], page["matching"], page["valid"]) == (4, 4, 3)
    assert page["mean_ap"] == pytest.approx((0.45 + 5 / 6 + 9 / 14) / 3)
    assert page["rank1"] == pytest.approx(2 / 3)


def test_means_of_a_page_are_those_of_the_queries_that_fit(client: Client) -> None:
    assert ask(client, f"queries/{STUDY}/0?verdict=right")["mean_ap"] == pytest.approx((5 / 6 + 9 / 14) / 2)
    none = ask(client, f"queries/{STUDY}/0?verdict=unmatched")
    assert (none["matching"], none["valid"], none["mean_ap"], none["rank1"]) == (1, 0, None, None)


def test_gallery_of_a_query_has_frames_ranks_and_maps(client: Client) -> None:
    found = ask(client, f"query/{STUDY}/1/0?map=saliency")
    gallery = {image["row"]: image for image in found["gallery"]}
    assert [image["rank"] for image in found["gallery"]] == [None, *range(1, 10)]
    assert (gallery[4]["rank"], gallery[4]["match"], found["removed_as"]) == (None, False, "same camera")
    assert gallery[MOVED]["cosine"] == pytest.approx(np.cos(np.deg2rad(45)), abs=1e-6)
    np.testing.assert_array_equal(cells(gallery[5]["map"]), planted_saliency(1)[5])
    assert cells(found["query"]["map"]).shape == MAP_HW
    assert (gallery[UNARCHIVED]["map"], gallery[UNARCHIVED]["size"]) == (None, None)


def test_gallery_without_a_map_in_the_address_has_none(client: Client) -> None:
    found = ask(client, f"query/{STUDY}/0/0")
    assert {image["map"] for image in found["gallery"]} == {None}
    assert ask(client, f"query/{STUDY}/0/0?top=20")["n_gallery"] == 10


def test_query_knows_its_neighbours_in_the_list_it_was_opened_from(client: Client) -> None:
    found = ask(client, f"query/{STUDY}/0/2")
    assert (found["previous"], found["next"], found["place"], found["matching"]) == ("0", "1", 1, 4)
    found = ask(client, f"query/{STUDY}/0/2?verdict=right&down=1")
    assert (found["previous"], found["next"], found["place"], found["matching"]) == ("1", None, 1, 2)
    found = ask(client, f"query/{STUDY}/0/2?verdict=wrong")  # it is not in this list
    assert (found["previous"], found["next"], found["place"]) == (None, None, None)


def test_the_same_query_is_found_by_its_id_in_every_trial(client: Client) -> None:
    found = [ask(client, f"query/{STUDY}/{number}?image={IDS[0]}") for number in range(2)]
    assert [one["query"]["ap"] for one in found] == pytest.approx([0.45, 0.325])
    assert [one["query"]["first_match"] for one in found] == [2, 4]
    assert [[image["row"] for image in one["gallery"] if image["match"]] for one in found] == [[6, 8], [6, 8]]
    trials = page_values(client, f"query-trials/{STUDY}?image={IDS[0]}", "where")["trials"]
    assert [trial["number"] for trial in trials] == [0, 1]  # best first


def test_pair_has_the_maps_of_both_and_the_curves_of_the_query(copied: Built) -> None:
    write_trial_scores(copied.layout, 0, IDS[:2], {"relevance_gain": [0.25, 0.5]})
    found = ask(client_of(copied), f"pair/{STUDY}/0/0/6")
    np.testing.assert_array_equal(cells(found["query"]["maps"]["saliency"]), planted_saliency(0)[0])
    np.testing.assert_array_equal(cells(found["other"]["maps"]["map0"]), planted_saliency(0)[6])
    assert (found["other"]["rank"], found["other"]["match"]) == (2, True)
    assert found["other"]["cosine"] == pytest.approx(np.cos(np.deg2rad(20)), abs=1e-6)
    assert found["curves"]["deletion"] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    assert (found["scores"], found["curve_of"]) == ({"relevance_gain": 0.25}, "cosine to the first hit")
    assert (found["previous"], found["next"]) == ("5", "12")  # ranks 1 and 3


def test_pair_of_an_image_that_is_left_out_or_without_maps(client: Client) -> None:
    assert ask(client, f"pair/{STUDY}/0/0/4")["other"]["rank"] is None
    found = ask(client, f"pair/{STUDY}/0/0/{UNARCHIVED}")
    assert (found["other"]["rank"], set(found["other"]["maps"].values())) == (3, {None})


@pytest.mark.parametrize("row", [0, UNARCHIVED])
def test_images_of_the_split_are_served_archived_or_not(client: Client, row: int) -> None:
    path = f"/attention/split-image/{STUDY}/0/val/{row}?px=256"
    answer = client.get(path)
    assert answer.mimetype == "image/jpeg"
    assert client.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "api/query/here/seek/0/4",
        "api/query/here/seek/0/14",
        "api/query/here/seek/0/0?top=11",
        "api/query/here/seek/0/0?top=x",
        "api/query/here/seek/0/0?map=../../x",
        "api/query/here/seek/0/0?split=../val",
        "api/query/here/seek/0/0?split=test",
        "api/query/here/seek/0?image=../../../etc/passwd",
        "api/query/here/seek/0?image=",
        "api/queries/here/seek/0?order=secret",
        "api/queries/here/seek/0?page=x",
        "api/queries/here/seek/9",
        "api/pair/here/seek/0/0/1",
        "api/pair/here/seek/0/4/5",
        "api/pair/here/seek/0/0/99",
        "api/pair/here/seek/0/0/-1",
        "query/here/seek/0/4",
        "query/here/seek/0/..%2f0",
        "pair/here/seek/0/0/0",
        "retrieval/here/../0",
        "retrieval/here/nothing/0",
        "query-trials/here/..",
        "split-image/here/seek/0/val/14",
        "split-image/here/seek/0/..%2fval/0",
        "split-image/here/seek/0/val/0?px=../../etc/passwd",
    ],
)
def test_urls_lead_nowhere_else(client: Client, path: str) -> None:
    answer = client.get(f"/attention/{path}")
    assert answer.status_code == 404
    assert b"root:" not in answer.data
    assert b"Traceback" not in answer.data


def test_numbers_beyond_64_bits_are_refused(client: Client) -> None:
    for path in (f"api/query/{STUDY}/0/{10**19}", f"api/queries/{STUDY}/0?hard={10**19}", f"pair/{STUDY}/0/0/{2**63}"):
        assert client.get(f"/attention/{path}").status_code == 400


def test_hostile_image_id_opens_no_other_file(copied: Built) -> None:
    shutil.copy(copied.layout.thumbnail(IDS[5]), copied.root / "secret.jpg")
    paths = copied.layout.trial(0).archive("val")
    for path in (paths.images, paths.retrieval):
        path.write_text(path.read_text(encoding="utf-8").replace(IDS[5], "../../../secret"), encoding="utf-8")
    client = client_of(copied)
    assert ask(client, f"queries/{STUDY}/0")["queries"][0]["hit"]["source"] is None
    assert client.get(f"/attention/split-image/{STUDY}/0/val/5").status_code == 404


@pytest.mark.parametrize("path", PAGES)
def test_hostile_names_are_escaped_and_scripts_are_own(client: Client, path: str) -> None:
    answer = client.get(f"/attention/{path}")
    assert answer.status_code == 200
    assert CAMERAS[2] not in answer.text
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", PAGES)
def test_pages_speak_of_identities_and_not_of_classes(client: Client, path: str) -> None:
    text = re.sub(r"<[^>]*>", " ", client.get(f"/attention/{path}").text)
    assert "seek" in text
    assert not re.search(r"\bclass", text, re.IGNORECASE)


def test_study_of_re_identification_says_so_and_orders_its_metrics(client: Client) -> None:
    study = ask(client, f"study/{STUDY}")
    assert (study["is_retrieval"], study["monitor"]) == (True, "val/mAP")
    names = [key.removeprefix("val/") for key in study["metrics"]]
    assert [name for name in names if name in ("mAP", "rank1", "rank5", "rank10", "mINP")] == [
        *("mAP", "rank1", "rank5", "rank10", "mINP")
    ]


def test_grid_claims_nothing_of_gallery_images(client: Client) -> None:
    grid = ask(client, f"grid/{STUDY}/0")
    assert (grid["total"], grid["judged"], grid["correct"]) == (13, 3, 2)
    by_id = {image["id"]: image for image in grid["images"]}
    query, other, unmatched = by_id[IDS[0]], by_id[IDS[4]], by_id[IDS[3]]
    assert (query["role"], query["true"], query["predicted"], query["correct"]) == ("query", "0001", "0000", False)
    assert (other["role"], other["predicted"], other["correct"], other["confidence"]) == ("gallery", None, None, None)
    assert (unmatched["role"], unmatched["predicted"], unmatched["correct"]) == ("query", "0003", None)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        ("role=query", [0, 1, 2, 3]),
        ("verdict=wrong", [0]),
        ("verdict=right", [1, 2]),
        ("role=gallery&verdict=right", []),
        ("low=0.99", [1, 2]),  # cosines of 5 degrees
        ("role=query&high=0.6", [3]),
        ("role=query&predicted=0", [0]),
    ],
)
def test_filters_of_the_grid(client: Client, words: str, rows: list[int]) -> None:
    assert [image["split_row"] for image in ask(client, f"grid/{STUDY}/0?{words}")["images"]] == rows


def test_classification_has_no_ranked_galleries(tmp_path: Path) -> None:
    client = client_of(build(tmp_path, n_trials=1, n_per_class=1))
    answer = client.get("/attention/api/queries/here/hunt/0")
    assert answer.status_code == 404
    assert "its task is not re-identification" in answer.text
    assert ask(client, "study/here/hunt")["is_retrieval"] is False


def without_arrays(copied: Built, *names: str) -> Built:
    """The results after arrays of trial 0 were removed: those that are named, or all large ones."""
    paths = copied.layout.trial(0).archive("val")
    for path in [getattr(paths, name) for name in names] or paths.large:
        path.unlink(missing_ok=True)
    return copied


@pytest.mark.parametrize("removed", [(), ("features",), ("ranks",)])
def test_queries_are_listed_with_their_scores_where_features_or_ranks_were_removed(
    copied: Built, removed: tuple[str, ...]
) -> None:
    client = client_of(without_arrays(copied, *removed))
    answer = client.get(f"/attention/retrieval/{STUDY}/0")
    assert answer.status_code == 200
    text = html.unescape(answer.text)
    assert "retention removed features and ranks" in text
    assert (
        "`attnsearch train results/here/seek/trials/00000/config.yaml name=seek_again` trains the trial again" in text
    )
    assert str(copied.root) not in text
    assert page_values(client, f"retrieval/{STUDY}/0", "where")["has_ranks"] is False
    page = ask(client, f"queries/{STUDY}/0")
    assert [query["ap"] for query in page["queries"]] == [*map(pytest.approx, (0.45, 9 / 14, 5 / 6)), None]
    first = page["queries"][0]
    assert (first["row"], first["first_match"], first["identity"], first["camera"]) == (0, 2, "0001", "1")
    assert (first["n_matches"], first["hit"], first["source"]) == (2, None, "copy")
    assert (page["valid"], page["rank1"]) == (3, pytest.approx(2 / 3))
    assert client.get(f"/attention/split-image/{STUDY}/0/val/0?px=256").status_code == 200


def test_the_checkpoint_ranks_removed_galleries_again(copied: Built) -> None:
    copied.layout.trial(0).best.write_bytes(b"")
    text = client_of(without_arrays(copied)).get(f"/attention/retrieval/{STUDY}/0").text
    assert "`attnsearch retrieval here/seek --trial 0 --split val` writes them again" in text


def test_no_page_leads_to_a_gallery_that_was_removed(copied: Built) -> None:
    client = client_of(without_arrays(copied))
    for path in (f"query/{STUDY}/0/0", f"api/query/{STUDY}/0/0", f"pair/{STUDY}/0/0/6", f"api/pair/{STUDY}/0/0/6"):
        answer = client.get(f"/attention/{path}")
        assert answer.status_code == 404
        assert "retention removed features and ranks" in answer.text
    images = ask(client, f"grid/{STUDY}/0")["images"]
    assert not any("split_row" in image for image in images)
    assert [image["role"] for image in images] == ["query"] * 4 + ["gallery"] * 9
    assert "First hit" in client.get(f"/attention/trial/{STUDY}/0").text


def test_filters_of_the_list_need_no_ranks_but_for_the_camera_of_the_gallery(copied: Built) -> None:
    client = client_of(without_arrays(copied))
    for words, rows in (("verdict=wrong", [0]), ("query_camera=1", [2]), ("order=cosine", [0, 1, 2, 3])):
        assert [query["row"] for query in ask(client, f"queries/{STUDY}/0?{words}")["queries"]] == rows
    answer = client.get(f"/attention/api/queries/{STUDY}/0?gallery_camera=0")
    assert answer.status_code == 404
    assert "ranks of the gallery were removed" in answer.text


def test_galleries_are_shown_without_maps_where_those_alone_were_removed(copied: Built) -> None:
    client = client_of(without_arrays(copied, "maps", "saliency"))
    found = ask(client, f"query/{STUDY}/0/0?map=")
    assert [image["row"] for image in found["gallery"]][:3] == [4, 5, 6]
    assert {image["map"] for image in found["gallery"]} == {None}
    assert "attMaps_val.npy does not exist: retention removed it" in found["error"]
    assert ask(client, f"queries/{STUDY}/0")["queries"][0]["hit"]["row"] == 5


def test_new_rankings_are_seen_while_the_server_runs(copied: Built) -> None:
    client = client_of(copied)
    assert ask(client, f"queries/{STUDY}/0")["queries"][0]["ap"] == pytest.approx(0.45)
    source, target = (copied.layout.trial(number).archive("val") for number in (1, 0))
    for name in ("features", "ranks", "retrieval", "images"):
        new = Path(shutil.copy(getattr(source, name), getattr(target, name).with_suffix(".new")))
        new.replace(getattr(target, name))
    assert ask(client, f"queries/{STUDY}/0")["queries"][0]["ap"] == pytest.approx(0.325)


def test_trial_without_an_archive_has_a_page(copied: Built) -> None:
    shutil.rmtree(copied.layout.trial(1).directory)
    assert "no ranked galleries" in client_of(copied).get(f"/attention/retrieval/{STUDY}/1").text


def test_archived_image_that_is_in_no_ranking_is_damage(copied: Built) -> None:
    images = copied.layout.trial(0).archive("val").images
    images.write_text(images.read_text(encoding="utf-8").replace(IDS[5], "val/other.jpg"), encoding="utf-8")
    answer = client_of(copied).get(f"/attention/api/queries/{STUDY}/0")
    assert "in no ranking, such as 'val/other.jpg'" in answer.text


@pytest.fixture(scope="module")
def base(built: Built) -> Iterator[str]:
    """The address of a server in a thread; query 0 of trial 0 has curves."""
    write_trial_scores(built.layout, 0, IDS[:1], {"relevance_gain": [0.25]})
    with serving(built) as one:
        yield base_of(one)


@pytest.fixture
def watched(browser: Any, base: str) -> Iterator[Watched]:
    one = Watched(browser, base)
    yield one
    one.context.close()
    assert one.problems == []


def open_ready(watched: Watched, path: str) -> Any:
    page = watched.open(f"/attention/{path}")
    watched.wait("document.body.dataset.ready === '1'")
    return page


@pytest.mark.slow
def test_from_study_to_pair(watched: Watched) -> None:
    page = watched.open(f"/attention/study/{STUDY}")
    assert page.locator("#curve").input_value() == "val/mAP"
    page.get_by_role("button", name=re.compile("^trial 0: ")).click()
    page.get_by_text("first hit is a match in 67 % of 3 val queries with maps").wait_for()
    page.get_by_role("link", name="All queries").click()
    watched.wait("document.body.dataset.ready === '1'")
    assert page.locator("#table tbody tr").count() == 4
    page.locator("#verdict").select_option("wrong")
    page.get_by_text("1 of 4 queries, mAP 0.450, rank-1 0.000").wait_for()
    page.locator("a.query").first.click()
    page.get_by_text("2 of 2 matches among the 9 nearest of 10 gallery images").wait_for()
    assert "verdict=wrong" in page.url  # the list that it was opened from
    assert [page.locator(f"#gallery .{kind}").count() for kind in ("match", "wrong", "removed")] == [2, 7, 0]
    assert page.locator("#gallery .mark").all_inner_texts() == ["✗", "✓", "✗", "✗", "✓", "✗", "✗", "✗", "✗"]
    page.get_by_role("link", name=re.compile("^rank 2, match")).click()
    watched.wait("document.body.dataset.ready === '1'")
    assert page.locator("#title").inner_text() == "Query 0001 beside an image of 0001: a match"
    assert page.locator("svg.curve polyline").count() == 2
    page.get_by_role("link", name="Next gallery image").click()
    page.wait_for_url(re.compile(f"/pair/{STUDY}/0/0/{UNARCHIVED}"))
    page.get_by_text("its maps are not archived").wait_for()
    assert page.locator("#title").inner_text() == "Query 0001 beside an image of 0003: another identity"


@pytest.mark.slow
def test_left_out_images_and_maps_are_shown_on_request(watched: Watched) -> None:
    page = open_ready(watched, f"query/{STUDY}/0/0")
    assert page.locator("#gallery canvas:not([hidden])").count() == 0
    page.locator("#removed").check()
    assert page.locator("#gallery .tile").first.get_attribute("class") == "tile ranked removed"
    page.locator("#overlay").check()
    watched.wait("document.querySelectorAll('#gallery canvas:not([hidden])').length === 9")  # all but one are archived
    assert "removed=1" in page.url
    assert "opacity=75" in page.url
    page.keyboard.press("v")
    watched.wait("document.querySelectorAll('#gallery canvas:not([hidden])').length === 0")


@pytest.mark.slow
def test_keys_go_through_queries_and_to_other_trials(watched: Watched) -> None:
    page = open_ready(watched, f"query/{STUDY}/0/0")
    page.keyboard.press("n")
    page.wait_for_url(re.compile(f"/query/{STUDY}/0/2"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("p")
    page.wait_for_url(re.compile(f"/query/{STUDY}/0/0"))
    watched.wait("document.body.dataset.ready === '1'")
    page.keyboard.press("r")
    watched.wait("document.querySelectorAll('#gallery .removed').length === 1")
    page.keyboard.press("x")
    page.wait_for_url(re.compile("/query-trials/"))
    watched.wait("document.body.dataset.ready === '1'")
    assert [text.split(",")[0] for text in page.locator("#trials .panel > p").all_inner_texts()] == [
        *("AP 0.4500", "AP 0.3250")
    ]


@pytest.mark.slow
def test_list_is_ordered_by_its_columns(watched: Watched) -> None:
    page = open_ready(watched, f"retrieval/{STUDY}/0")
    page.get_by_role("button", name="identity", exact=True).click()
    page.get_by_role("button", name="identity", exact=True).click()
    watched.wait("document.querySelector('a.query').textContent.includes('0004')")
    assert "order=identity&down=1" in page.url
    page.go_back()
    watched.wait("document.querySelector('a.query').textContent.includes('0001')")


@pytest.mark.slow
def test_list_without_galleries_has_no_links_to_them(browser: Any, copied: Built) -> None:
    with serving(without_arrays(copied)) as server:
        one = Watched(browser, base_of(server))
        page = open_ready(one, f"retrieval/{STUDY}/0")
        assert page.locator("#table tbody tr").count() == 4
        assert page.locator("#table a").count() == page.locator("#gallery_camera").count() == 0
        assert "first hit" not in page.locator("#table thead").inner_text()
        page = open_ready(one, f"image/{STUDY}/0/0")
        assert page.get_by_role("link", name="ranked for this query").count() == 0
        one.context.close()
    assert one.problems == []


ROUND_HEADS = {
    f"retrieval/{STUDY}/0": "a.query .thumb",
    f"query/{STUDY}/0/0": "#gallery .thumb",
    f"query/{STUDY}/0/0?opacity=10": "#query-image canvas",
    f"pair/{STUDY}/0/0/6?opacity=0": "#other",
    f"query-trials/{STUDY}?image={IDS[0]}": "#trials .thumb",
    f"trial/{STUDY}/0?opacity=0": "#grid canvas",
    f"image/{STUDY}/0/0?opacity=0": "#canvas",
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [DESK, PHONE])
@pytest.mark.parametrize("path", ROUND_HEADS)
def test_tall_images_are_not_squashed(browser: Any, base: str, path: str, size: tuple[int, int]) -> None:
    """The head of the figure is a circle wherever it is shown."""
    one = Watched(browser, base, size)
    page = one.open(f"/attention/{path}")
    page.locator(ROUND_HEADS[path]).first.wait_for()
    page.wait_for_load_state("networkidle")
    shot = Image.open(io.BytesIO(page.locator(ROUND_HEADS[path]).first.screenshot())).convert("RGB")
    one.context.close()
    pixels = np.asarray(shot, dtype=np.int64)
    head = (pixels[..., 0] > 180) & (pixels[..., 1] < 90) & (pixels[..., 2] > 180)  # magenta
    rows, columns = np.flatnonzero(head.any(axis=1)), np.flatnonzero(head.any(axis=0))
    assert len(rows) > 5
    assert np.ptp(rows) / np.ptp(columns) == pytest.approx(1, abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_pages_can_be_read_by_everybody(watched: Watched, path: str) -> None:
    assert violations(watched.open(f"/attention/{path}")) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES)
def test_phone_width_needs_no_sideways_scrolling_and_no_class_is_named(browser: Any, base: str, path: str) -> None:
    one = Watched(browser, base, PHONE, density=2)
    page = one.open(f"/attention/{path}")
    assert one.overflow_px() == 0
    assert not re.search(r"\bclass", page.evaluate("document.body.innerText"), re.IGNORECASE)
    one.context.close()
    assert one.problems == []
