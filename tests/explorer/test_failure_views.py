"""Lists of failures, pairs and classes as pages and JSON; images, pairs and lists have addresses of their own."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from tests.explorer.built import CLASSES, Built, draw_pictures, write_trial_scores

FAILURES, CLASSES_JSON = "/attention/api/failures/here/hunt/0", "/attention/api/classes/here/hunt/0"


def ask(client: Client, path: str) -> Any:
    answer = client.get(path, base_url="http://localhost")
    assert answer.status_code == 200, answer.text
    return answer.json


def finding(values: Any, kind: str) -> Any:
    return next(one for one in values["findings"] if one["kind"] == kind)


def rows_of(values: Any) -> list[int]:
    return [image["row"] for image in values["images"]]


def test_lists_of_a_trial(client: Client) -> None:
    """Odd images are wrong, and the confidence climbs from image to image."""
    values = ask(client, FAILURES)
    assert (values["judged"], values["wrong"], values["map"]) == (6, 3, "saliency")
    assert rows_of(finding(values, "confident")) == [5, 3, 1]
    assert "attnsearch faithfulness hunt --trial 0" in finding(values, "faithful")["text"]
    assert "Nothing tells where the object is" in finding(values, "reason")["text"]
    assert values["compared"] == ["hunt:1", "hunt:2"]
    assert finding(values, "disagree")["total"] == 0  # all trials predict the same
    (pair,) = values["pairs"]
    assert pair["names"] == list(CLASSES)
    assert (pair["n"], pair["there"], pair["back"], pair["rate"]) == (3, 1, 2, 0.5)
    assert rows_of(pair) == [5, 3, 1]
    assert pair["images"][0]["map"]["h"] == 4


def test_scores_order_two_lists(copied: Built) -> None:
    ids = draw_pictures(copied.data_root)
    gains = {"area": [0.4, 0.1, 0.3, 0.2, 0.1, 0.5], "untouched": [0.9] * 6, "filled": [0.4] * 6}
    columns = {**{f"relevance_gain.{term}": values for term, values in gains.items()},
               "energy_in_mask": [0.3, 0, 0.1, 0, 0.2, 0], "pointing_hit": [1, 1, 1, 0, 0, 1]}  # fmt: skip
    write_trial_scores(copied.layout, 0, ids, columns)
    app, _ = build_app(find_experiments(copied.root))
    values = ask(Client(app), FAILURES)
    reason = finding(values, "reason")
    assert rows_of(reason) == [4, 2, 0]
    first, _, then = reason["text"].partition("; ")
    assert first == "1 correct image has its most salient cell beside the object"
    assert then == "then the correct ones with the least energy in mask."
    assert reason["images"][0]["note"] == "energy in mask 0.2"
    faithful = finding(values, "faithful")
    assert rows_of(faithful)[-1] == 5
    assert faithful["text"].endswith("of 6 scored images.")
    one = next(row for row in ask(Client(app), CLASSES_JSON)["classes"] if row["label"] == 0)
    assert (one["gain"], one["scored"]) == (pytest.approx(0.8 / 1.5), 3)
    write_trial_scores(copied.layout, 0, ids, {**columns, "pointing_hit": [0] * 6})
    assert rows_of(finding(ask(Client(app), FAILURES), "reason")) == [2, 4, 0]  # the files were read again


def test_a_list_and_a_pair_have_addresses(client: Client) -> None:
    one = ask(client, f"{FAILURES}?kind=confident")
    assert [found["kind"] for found in one["findings"]] == ["confident"]
    assert (one["pairs"], one["findings"][0]["pages"]) == ([], 1)
    pair = ask(client, f"{FAILURES}?kind=pair&first=0&second=1")["findings"][0]
    assert pair["title"] == f"{CLASSES[0]} and {CLASSES[1]}"
    assert rows_of(pair) == [5, 3, 1]


@pytest.mark.parametrize("query", ["kind=nothing", "kind=pair", "kind=pair&first=0&second=9", "kind=pair&first=x"])
def test_addresses_that_name_nothing_are_refused(client: Client, query: str) -> None:
    answer = client.get(f"{FAILURES}?{query}", base_url="http://localhost")
    assert answer.status_code == 404
    assert "must be" in answer.json["error"]


def test_other_trials_are_chosen_by_the_address(client: Client) -> None:
    values = ask(client, f"{FAILURES}?t=hunt:2&t=hunt:9&t=nothing:0&t=hunt:2")
    assert values["compared"] == ["hunt:2"]
    assert [text.partition(":")[0] for text in values["problems"]] == ["hunt", "nothing"]


def test_classes_and_one_of_them(client: Client) -> None:
    values = ask(client, CLASSES_JSON)
    first, second = values["classes"]
    assert (first["name"], first["n"], first["predicted"], first["scored"]) == (CLASSES[0], 3, 4, 0)
    assert first["accuracy"] == pytest.approx(2 / 3)
    assert first["precision"] == pytest.approx(0.5)
    assert first["gain"] is None
    assert second["confused"] == [{"name": CLASSES[0], "label": 0, "n": 2}]
    answer = client.get(CLASSES_JSON, query_string={"class": CLASSES[1]}, base_url="http://localhost").json
    assert rows_of(answer["detail"]["missed"]) == [5, 3]
    assert rows_of(answer["detail"]["taken"]) == [1]
    assert rows_of(answer["detail"]["correct"]) == [4]
    assert (answer["detail"]["mean"]["h"], answer["detail"]["mean"]["w"]) == (4, 5)
    assert client.get(f"{CLASSES_JSON}?class=nothing", base_url="http://localhost").status_code == 404


def test_pages_are_linked_from_the_trial_and_the_study(client: Client) -> None:
    trial = client.get("/attention/trial/here/hunt/0", base_url="http://localhost").text
    study = client.get("/attention/study/here/hunt", base_url="http://localhost").text
    for page in ("failures", "classes", "explain"):
        path = f"/attention/{page}/here/hunt/0"
        assert path in trial
        assert client.get(path, base_url="http://localhost").status_code == 200
    assert "/attention/failures/here/hunt/" in study
    assert "/attention/explain/here/hunt/" in study
    for page in ("failures", "classes", "explain"):
        assert client.get(f"/attention/{page}/here/hunt/77", base_url="http://localhost").status_code == 404


def test_re_identification_lists_queries(people_runs: Any) -> None:
    app, _ = build_app(find_experiments(people_runs))
    values = ask(Client(app), "/attention/api/failures/people/dcal_people/0")
    assert values["judged"] > 0
    found = finding(values, "confident")
    assert all(image["role"] == "query" and image["correct"] is False for image in found["images"])
    assert found["total"] == values["wrong"]
