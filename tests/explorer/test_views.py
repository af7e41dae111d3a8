"""Pages and JSON: what they hold, what they refuse, how long they take."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from werkzeug.test import Client

from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from attnsearch.search.handle import open_database
from attnsearch.store.urls import default_url
from tests.explorer.built import CLASSES, HOT, MAP_HW, Built, build, planted_maps, write_trial_scores
from tests.search.studies import build_halving

STUDY = "here/hunt"
RUN = "demo/br_npa_low_res/0"


def ask(client: Client, path: str, code: int = 200) -> Any:
    answer = client.get(f"/attention/api/{path}")
    assert answer.status_code == code, answer.text
    return json.loads(answer.text)


def cells(sent: dict[str, Any]) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(sent["cells"]), dtype="<f4")
    return values.reshape(sent["h"], sent["w"])


def page_values(client: Client, path: str, element: str) -> Any:
    """The JSON that a page holds for its script."""
    text = client.get(f"/attention/{path}").text
    return json.loads(text.split(f'id="{element}">')[1].split("</script>")[0])


def test_list_of_studies_holds_the_study(client: Client) -> None:
    (row,) = page_values(client, "", "studies")
    assert (row["experiment"], row["study"], row["n_trials"], row["error"]) == ("here", "hunt", 3, None)
    assert row["best"] == 2  # all three are on the front, and accuracy climbs with the number


def test_study_holds_objectives_settings_and_which_trials_have_maps(client: Client) -> None:
    study = page_values(client, f"study/{STUDY}", "values")
    assert study == ask(client, f"study/{STUDY}")
    assert list(study["objectives"].items()) == [("val/accuracy", "maximize"), ("val/sparsity", "minimize")]
    assert [trial["number"] for trial in study["trials"]] == [0, 1, 2]
    assert [trial["maps"] for trial in study["trials"]] == [True, True, True]
    assert study["trials"][1]["params"]["train.optimizer.name"] == "sgd"


def test_epochs_of_chosen_trials_come_from_the_database(client: Client) -> None:
    found = ask(client, f"epochs/{STUDY}?trials=0,2,99")
    assert sorted(found) == ["0", "2"]
    assert found["2"]["epoch"] == [1, 2, 3]
    assert found["2"]["val/accuracy"] == pytest.approx([0.42, 0.52, 0.62])


def test_epochs_pass_over_words_that_are_no_numbers(client: Client) -> None:
    assert ask(client, f"epochs/{STUDY}?trials=²,-1,x,") == {}


def test_detail_sends_every_map_exactly(client: Client) -> None:
    image = ask(client, f"image/{STUDY}/1/0")
    planted = planted_maps(6, 1)
    assert list(image["maps"]) == ["saliency", "map0", "map1", "norm", "weighted0", "weighted1"]
    np.testing.assert_array_equal(cells(image["maps"]["map1"]), planted["maps"][0, 1])
    np.testing.assert_array_equal(cells(image["maps"]["saliency"]), planted["saliency"][0])
    assert np.unravel_index(cells(image["maps"]["map0"]).argmax(), MAP_HW) == HOT


def test_compare_gives_the_same_image_of_each_trial_and_says_what_is_missing(client: Client) -> None:
    words = "image=val/tern/1.jpg&t=hunt:0&t=hunt:2&t=hunt:9&t=other:0&t=hunt:x&map=map0"
    found = ask(client, f"compare/here?{words}")
    assert [cells(one["map"]).max() for one in found["trials"][:2]] == [1, 3]
    assert ["error" in one for one in found["trials"]] == [False, False, True, True, True]
    assert (found["previous"], found["next"]) == ("val/tern/0.jpg", "val/tern/2.jpg")


def test_compare_without_an_image_begins_with_the_first_one(client: Client) -> None:
    found = ask(client, "compare/here?t=hunt:1")
    assert (found["image"], found["previous"], found["next"]) == ("val/gull/0.jpg", None, "val/gull/1.jpg")


def test_hostile_class_name_is_escaped_in_pages(client: Client) -> None:
    text = client.get(f"/attention/trial/{STUDY}/0").text
    assert CLASSES[1] not in text
    assert "&lt;b&gt;tern&lt;/b&gt;" in text


def test_pages_forbid_what_does_not_come_from_the_server(client: Client) -> None:
    policy = client.get("/attention/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "study/here/..",
        "study/../hunt",
        "study/here/%2e%2e%2f%2e%2e",
        "study/here/..%2f..%2fetc",
        "picture/here/hunt/0/..%2f..%2fval/0",
        "picture/here/hunt/0/..%5cval/0",
        "picture/here/hunt/0/%2fetc%2fpasswd/0",
        "picture/here/hunt/0/val/0?px=../../etc/passwd",
        "picture/here/hunt/0/val/-1",
        "picture/here/hunt/0/val/999",
        "picture/here/hunt/9000000000000000000/val/0",
        "static/../views.py",
        "static/%2e%2e/views.py",
        "api/image/here/hunt/0/0?split=../val",
        "api/grid/here/hunt/0?map=../../x",
        "api/grid/here/hunt/0?page=x",
        "api/grid/here/hunt/0?order=secret",
        "trial/here/artifacts/0",
        "compare/..",
    ],
)
def test_urls_lead_nowhere_else(client: Client, path: str) -> None:
    answer = client.get(f"/attention/{path}")
    assert answer.status_code == 404
    assert b"root:" not in answer.data
    assert b"from __future__" not in answer.data


def test_hostile_image_id_of_an_archive_opens_no_other_file(copied: Built) -> None:
    """The index is data: an id that climbs out of the folder of copies finds nothing."""
    secret = copied.root / "secret.jpg"
    shutil.copy(copied.layout.thumbnail("val/gull/0.jpg"), secret)
    index = copied.layout.trial(0).archive("val").images
    text = index.read_text(encoding="utf-8")
    index.write_text(text.replace("val/gull/0.jpg", "../../../secret"), encoding="utf-8")
    client = _client_of(copied)
    assert ask(client, f"grid/{STUDY}/0")["images"][0]["source"] is None
    assert client.get(f"/attention/picture/{STUDY}/0/val/0").status_code == 404


def test_link_in_the_folder_of_copies_is_not_followed_out_of_it(copied: Built, tmp_path: Path) -> None:
    shutil.rmtree(copied.data_root)
    copy = copied.layout.thumbnail("val/gull/0.jpg")
    outside = tmp_path / "outside.jpg"
    copy.rename(outside)
    copy.symlink_to(outside)
    assert _client_of(copied).get(f"/attention/picture/{STUDY}/0/val/0").status_code == 404


def test_picture_is_not_sent_again(client: Client) -> None:
    path = f"/attention/picture/{STUDY}/0/val/0?px=256"
    first = client.get(path)
    assert first.mimetype == "image/jpeg"
    assert client.get(path, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304


def test_json_is_not_sent_again_while_nothing_changed(client: Client) -> None:
    path = f"/attention/api/study/{STUDY}"
    etag = client.get(path).headers["ETag"]
    assert client.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_copied_results_work_without_the_data_set(copied: Built, tmp_path: Path) -> None:
    shutil.rmtree(copied.data_root)
    target = tmp_path / "elsewhere" / "results"
    shutil.copytree(copied.root, target)
    app, _ = build_app(find_experiments(target))
    client = Client(app)
    page = ask(client, f"grid/{STUDY}/0")
    assert {image["source"] for image in page["images"]} == {"copy"}
    assert ask(client, f"image/{STUDY}/0/0")["original"] is False
    assert client.get(f"/attention/picture/{STUDY}/0/val/0?px=512").status_code == 200
    assert client.get(f"/attention/picture/{STUDY}/0/val/0?px=0").status_code == 404


def test_read_only_folder_can_be_looked_at(copied: Built) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.root.rglob("*") if path.is_file()}
    client = _client_of(copied)
    for path in ("", f"study/{STUDY}", f"trial/{STUDY}/0", f"image/{STUDY}/0/0", f"api/grid/{STUDY}/0"):
        assert client.get(f"/attention/{path}").status_code == 200
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_trial_without_arrays_says_that_retention_removed_them(copied: Built) -> None:
    copied.layout.trial(0).archive("val").maps.unlink()
    client = _client_of(copied)
    text = client.get(f"/attention/trial/{STUDY}/0").text
    assert "retention removed it" in text
    assert str(copied.root) not in text
    assert ask(client, f"grid/{STUDY}/0")["images"][0]["map"] is None


def test_trial_without_maps_has_a_page(copied: Built) -> None:
    shutil.rmtree(copied.layout.trial(2).directory)
    client = _client_of(copied)
    assert "has no maps" in client.get(f"/attention/trial/{STUDY}/2").text
    assert ask(client, f"study/{STUDY}")["trials"][2]["maps"] is False


def test_new_maps_are_seen_while_the_server_runs(copied: Built) -> None:
    client = _client_of(copied)
    assert cells(ask(client, f"image/{STUDY}/0/0")["maps"]["saliency"]).max() == 1
    source, target = copied.layout.trial(2).directory, copied.layout.trial(0).directory
    for name in ("saliency_val.npy", "attMaps_val.npy", "norm_val.npy", "images_val.csv"):
        new = Path(shutil.copy(source / name, target / f"{name}.new"))
        new.replace(target / name)
    assert cells(ask(client, f"image/{STUDY}/0/0")["maps"]["saliency"]).max() == 3


def test_scores_filter_and_order_the_grid(copied: Built) -> None:
    ids = [image["id"] for image in ask(_client_of(copied), f"grid/{STUDY}/0")["images"]]
    nan = float("nan")
    columns = {"deletion": [0.1, 0.5, nan, 0.3, 0.2, 0.4], "pointing_hit": [1, 1, 0, 1, 1, 1]}
    write_trial_scores(copied.layout, 0, ids, columns)
    client = _client_of(copied)
    rows = [image["row"] for image in ask(client, f"grid/{STUDY}/0?order=deletion&down=1")["images"]]
    assert rows == [1, 5, 3, 4, 0, 2]  # the undefined one last
    rows = [image["row"] for image in ask(client, f"grid/{STUDY}/0?metric=deletion&least=0.2&most=0.4")["images"]]
    assert rows == [3, 4, 5]
    rows = [image["row"] for image in ask(client, f"grid/{STUDY}/0?verdict=misplaced")["images"]]
    assert rows == [2]  # even rows are right
    detail = ask(client, f"image/{STUDY}/0/2")
    assert detail["scores"] == {"deletion": None, "pointing_hit": 0.0}
    assert detail["curves"]["deletion"] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])
    assert detail["fractions"] == [0, 0.25, 0.5, 0.75, 1]
    page = client.get(f"/attention/trial/{STUDY}/0").text
    assert "Means of 6 val images" in page
    assert "<dt>deletion ↓</dt><dd>0.300 ± 0.071</dd>" in page  # sqrt(0.1 / 4 / 5)


@pytest.mark.slow
def test_first_page_of_200_trials_and_a_full_grid_are_served(tmp_path: Path) -> None:
    """How quickly is measured by `tests/benchmarks/explorer.py`."""
    many = build(tmp_path, n_trials=200, n_with_maps=1, n_per_class=30)
    client = _client_of(many)
    assert len(json.loads(client.get(f"/attention/api/study/{STUDY}").text)["trials"]) == 200
    assert client.get(f"/attention/study/{STUDY}").status_code == 200
    page = ask(client, f"grid/{STUDY}/0")
    assert len(page["images"]) == 48
    for image in page["images"]:
        assert client.get(f"/attention/picture/{STUDY}/0/val/{image['row']}?px=256").status_code == 200


def _client_of(built: Built) -> Client:
    app, _ = build_app(find_experiments(built.root))
    return Client(app)


def test_trial_that_ends_while_the_server_runs_is_seen(copied: Built) -> None:
    app, _ = build_app(find_experiments(copied.root))
    asking = Client(app)
    path = "/attention/api/study/here/hunt"
    assert len(json.loads(asking.get(path).text)["trials"]) == 3
    database = open_database(default_url(copied.layout))
    study = optuna.load_study(study_name="hunt", storage=database.storage)
    trial = study.ask()
    assert [one["state"] for one in json.loads(asking.get(path).text)["trials"]][3:] == ["running"]
    study.tell(trial, [0.9, 0.1])
    database.close()
    assert [one["state"] for one in json.loads(asking.get(path).text)["trials"]][3:] == ["complete"]


def test_copied_run_shows_images_and_maps_of_both_splits(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / "empty"))  # where synthetic images would be
    target = tmp_path / "results"
    shutil.copytree(finished_run, target)
    app, _ = build_app(find_experiments(target))
    client = Client(app)
    for split in ("val", "test"):
        page = json.loads(client.get(f"/attention/api/grid/{RUN}?split={split}").text)
        assert page["total"] == 8
        assert {image["source"] for image in page["images"]} == {"copy"}
        assert all(image["map"]["cells"] for image in page["images"])
        assert client.get(f"/attention/picture/{RUN}/{split}/0?px=256").mimetype == "image/jpeg"
    assert client.get(f"/attention/trial/{RUN}").status_code == 200
    assert not list((tmp_path / "empty").glob("synthetic/*"))  # looking draws nothing


def test_paused_trials_are_told_with_their_place_and_the_rungs_of_their_bracket(tmp_path: Path) -> None:
    build_halving(tmp_path)
    app, _ = build_app(find_experiments(tmp_path))
    client = Client(app)
    assert [row["n_paused"] for row in page_values(client, "", "studies")] == [1]
    study = page_values(client, f"study/{STUDY}", "values")
    assert [(trial["state"], trial["values"], trial["standing"]) for trial in study["trials"]] == [
        ("paused", {"val/accuracy": 0.5}, "at epoch 1, rung 1, place 2 of 3"),
        ("complete", {"val/accuracy": 0.8}, None),
        ("pruned", {"val/accuracy": 0.25}, "at epoch 1, rung 1, place 3 of 3"),
    ]
    rung = {"epoch": 1, "n_in": 3, "n_expected": 4, "n_decided": 1, "n_continue": 2, "is_noise": False}
    assert study["brackets"][0] == {
        "number": 1, "n_started": 3, "n_trials": 4, "rungs": [rung], "n_complete": 1, "n_finish": 2
    }  # fmt: skip
    assert [bracket["n_started"] for bracket in study["brackets"]] == [3, 0]
    text = " ".join(client.get(f"/attention/trial/{STUDY}/0").text.split())
    assert '<span class="badge paused">paused</span>' in text
    assert "Paused at epoch 1, rung 1, place 2 of 3. It continues from there if it stays in the better half." in text
    assert "Pruned at epoch 1, rung 1, place 3 of 3.</p>" in client.get(f"/attention/trial/{STUDY}/2").text
