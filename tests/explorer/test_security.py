"""Who may ask the server, and for what."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from werkzeug.test import Client

from attnsearch.explorer.security import COOKIE, LOOPBACK, Guard, new_token
from attnsearch.explorer.server import build_app
from attnsearch.results.reader import find_experiments
from attnsearch.search.handle import open_database
from attnsearch.store.urls import default_url
from tests.explorer.built import Built

TOKEN = "a-token-of-this-test"


def inner(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    headers = [("Content-Type", "text/plain"), ("Access-Control-Allow-Origin", "*")]
    start_response("200 OK", headers)
    return [b"inside"]


def guarded(**settings: Any) -> Client:
    return Client(Guard(inner, hosts=LOOPBACK, **settings), use_cookies=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.1:1"])
def test_own_names_are_answered(host: str) -> None:
    assert guarded().get("/", headers={"Host": host}).text == "inside"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "10.0.0.1",
        "a b",
        "@localhost",
    ],
)
def test_foreign_host_is_refused(host: str) -> None:
    """A page under another name that points here (DNS rebinding) must not read anything."""
    answer = guarded().get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "inside" not in answer.text


def test_missing_host_is_refused() -> None:
    assert guarded().get("/", environ_overrides={"HTTP_HOST": ""}).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_reading_by_default(method: str) -> None:
    answer = guarded().open("/", method=method, headers={"Origin": "http://localhost"})
    assert answer.status_code == 405
    assert "--allow-edit" in answer.text


def test_head_is_reading() -> None:
    assert guarded().head("/").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://localhost:9999", ""])
def test_change_from_another_page_is_refused(origin: str) -> None:
    answer = guarded(allow_edit=True).post("/", headers={"Host": "localhost", "Origin": origin})
    assert (answer.status_code, answer.text) == (403, "changes must come from a page of this server\n")


def test_change_without_origin_is_refused() -> None:
    assert guarded(allow_edit=True).post("/", headers={"Host": "localhost"}).status_code == 403


def test_change_from_own_page_passes() -> None:
    headers = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    assert guarded(allow_edit=True).post("/", headers=headers).text == "inside"


ASKING = ["/attention/explain/here/hunt/0", "/attention/score/here/hunt/0/val/gull/0.jpg"]


@pytest.mark.parametrize("path", ASKING)
def test_what_changes_nothing_may_be_asked_by_own_pages(path: str) -> None:
    headers = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    assert guarded().post(path, headers=headers).text == "inside"
    assert guarded().put(path, headers=headers).status_code == 405
    assert guarded(token=TOKEN).post(path, headers=headers).status_code == 403


@pytest.mark.parametrize("path", ASKING)
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", None])
def test_no_other_page_may_ask(path: str, origin: str | None) -> None:
    headers = {"Host": "localhost"} | ({} if origin is None else {"Origin": origin})
    answer = guarded().post(path, headers=headers)
    assert (answer.status_code, answer.json) == (403, {"error": "changes must come from a page of this server"})
    assert guarded().post(path, headers={"Host": "evil.example", "Origin": "http://evil.example"}).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        *("/attention/explain/here/hunt", "/attention/explain/here/hunt/0/x", "/attention/score/here/hunt/0"),
        *("/api/studies", "/x/attention/explain/a/b/0"),
    ],
)
def test_no_other_path_may_be_asked(path: str) -> None:
    assert guarded().post(path, headers={"Origin": "http://localhost"}).status_code == 405


def test_token_is_asked_for_then_kept_in_a_cookie() -> None:
    asking = guarded(token=TOKEN)
    assert asking.get("/attention/").status_code == 403
    assert asking.get("/attention/?token=wrong").status_code == 403
    answer = asking.get(f"/attention/?token={TOKEN}&page=2")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/attention/?page=2"
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert "SameSite=Strict" in answer.headers["Set-Cookie"]
    assert asking.get("/attention/?page=2").text == "inside"
    again = asking.get(f"/attention/?page=2&token={TOKEN}")  # an address that is copied now must not carry it
    assert again.headers["Location"] == "/attention/?page=2"


def test_token_redirect_stays_on_this_server() -> None:
    answer = guarded(token=TOKEN).get(
        "/", query_string={"token": TOKEN}, environ_overrides={"PATH_INFO": "//evil.example/"}
    )
    assert answer.headers["Location"] == "/evil.example/"


def test_wrong_or_broken_cookie_is_refused() -> None:
    for cookie in (f"{COOKIE}=wrong", "a=b; ;;=", f"{COOKIE}=ü"):
        assert guarded(token=TOKEN).get("/", environ_overrides={"HTTP_COOKIE": cookie}).status_code == 403


def test_address_is_a_host_only_with_a_token() -> None:
    answer = guarded(token=TOKEN).get(f"/?token={TOKEN}", headers={"Host": "192.168.1.7:8080"})
    assert answer.status_code == 303


def test_answers_cannot_be_read_by_other_pages() -> None:
    headers = guarded().get("/").headers
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


def test_tokens_are_long_and_differ() -> None:
    assert len({new_token() for _ in range(10)}) == 10
    assert len(new_token()) >= 32


@pytest.mark.parametrize(
    "address",
    [
        f"/attention/api/epochs/a/b?trials=1,{2**63}",
        f"/attention/api/grid/a/b/{10**19}",
        f"/attention/api/grid/a/b/1?low=-{10**30}",
        f"/attention/api/compare/a?t=hunt:{'9' * 5000}",
        f"/api/studies/{2**63}",
    ],
)
def test_numbers_beyond_64_bits_are_refused(address: str) -> None:
    answer = guarded().get(address)
    assert answer.status_code == 400
    assert "64 bits, got one of" in answer.text


@pytest.mark.parametrize("address", [f"/api/studies/{2**63 - 1}", f"/?image={'0' * 30}7&t=a:1", f"/?q={'9' * 30}.jpg"])
def test_other_digits_pass(address: str) -> None:
    assert guarded().get(address).text == "inside"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"method": "POST"}, 405),
        ({"headers": {"Host": "evil.example"}}, 403),
        ({"query_string": {"page": 2**64}}, 400),
    ],
)
def test_scripts_are_refused_in_json(request_: dict[str, Any], status: int) -> None:
    answer = guarded().open("/attention/api/study/a/b", **request_)
    assert answer.status_code == status
    assert list(answer.get_json()) == ["error"]


LOCAL = {"Host": "localhost", "Origin": "http://localhost"}


def attach(built: Built, text: str) -> str:
    """A page attached to the study; its id."""
    built.layout.artifacts.mkdir()
    database = open_database(default_url(built.layout))
    study = optuna.load_study(study_name="hunt", storage=database.storage)
    page = built.root / "page.html"
    page.write_text(text, encoding="utf-8")
    store = FileSystemArtifactStore(str(built.layout.artifacts))
    one = upload_artifact(artifact_store=store, file_path=str(page), study_or_trial=study, storage=database.storage)
    database.close()
    return one


def test_artifacts_are_served_and_never_run_as_pages(copied: Built) -> None:
    """An HTML file attached to a trial would else run its scripts as a page of this server."""
    one = attach(copied, "<script>alert(1)</script>")
    app, _ = build_app(find_experiments(copied.root))
    answer = Client(app).get(f"/artifacts/1/{one}", headers=LOCAL)
    answer.close()
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_artifact_that_is_a_link_is_not_followed_out_of_the_folder(copied: Built) -> None:
    one = attach(copied, "secret of this machine")
    target = copied.layout.artifacts / one
    outside = target.rename(copied.root / "outside")
    target.symlink_to(outside)
    app, _ = build_app(find_experiments(copied.root))
    answer = Client(app).get(f"/artifacts/1/{one}", headers=LOCAL)
    assert answer.status_code == 404
    assert b"secret of this machine" not in answer.data


def test_folder_of_artifacts_that_is_a_link_is_not_followed_out_of_the_experiment(copied: Built) -> None:
    one = attach(copied, "secret of this machine")
    copied.layout.artifacts.rename(copied.root / "outside")
    copied.layout.artifacts.symlink_to(copied.root / "outside")
    app, _ = build_app(find_experiments(copied.root))
    answer = Client(app).get(f"/artifacts/1/{one}", headers=LOCAL)
    assert answer.status_code == 404
    assert b"secret of this machine" not in answer.data


@pytest.mark.parametrize("path", ["..%2fhypSearch.db", "%2e%2e%2fhypSearch.db", "%2fetc%2fpasswd", "1/..%2f..%2fx"])
def test_artifact_paths_lead_nowhere_else(copied: Built, path: str) -> None:
    attach(copied, "a")
    app, _ = build_app(find_experiments(copied.root))
    answer = Client(app).get(f"/artifacts/1/{path}", headers=LOCAL)
    assert answer.status_code == 404
    assert b"root:" not in answer.data
    assert b"SQLite" not in answer.data


def test_nothing_can_be_changed_by_default(copied: Built) -> None:
    app, _ = build_app(find_experiments(copied.root))
    asking = Client(app)
    assert asking.delete("/api/studies/1", headers=LOCAL).status_code == 405
    assert asking.put("/api/studies/1/note", json={"body": "x", "version": 2}, headers=LOCAL).status_code == 405
    assert len(json.loads(asking.get("/api/studies").text)["study_summaries"]) == 1


def test_a_note_can_be_written_with_allow_edit_and_wins_over_the_settings(copied: Built) -> None:
    app, _ = build_app(find_experiments(copied.root), allow_edit=True)
    asking = Client(app)
    trial_id = json.loads(asking.get("/api/studies/1").text)["trials"][0]["trial_id"]
    path = f"/api/studies/1/{trial_id}/note"
    foreign = {"Host": "localhost", "Origin": "http://evil.example"}
    assert asking.put(path, json={"body": "mine", "version": 2}, headers=foreign).status_code == 403
    assert asking.put(path, json={"body": "mine", "version": 2}, headers=LOCAL).status_code == 204
    assert json.loads(asking.get("/api/studies/1").text)["trials"][0]["note"]["body"] == "mine"


def test_foreign_host_reaches_neither_app(client: Client) -> None:
    for path in ("/", "/api/studies", "/attention/", "/attention/static/page.js"):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
