"""Which database a command opens, who sets it, and what its messages show of it."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import make_url

from attnsearch.cli import main
from attnsearch.cli._console import records_redacted, report_unexpected
from attnsearch.config.load import load_study, with_storage
from attnsearch.store import urls
from attnsearch.store.urls import connection_url, sqlite_url
from attnsearch.types import URL_VARIABLE
from tests.conftest import TINY
from tests.explorer.built import Built, build
from tests.postgres import PostgresServer

STUDY = "name: hunt\nbase: cnn\nstorage: sqlite:///of_the_file.db\n"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Results with two studies: `hunt`, whose trials are in a database elsewhere, and `lost`, of whom nobody knows."""
    built = build(tmp_path_factory.mktemp("storage"), n_with_maps=0)
    built.layout.database.rename(built.root / "moved.db")
    text = built.layout.study_yaml.read_text(encoding="utf-8").replace("storage: null", "storage: sqlite:///moved.db")
    for name in ("hunt", "lost"):
        file = built.layout.shared.study(name).study_yaml
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return built


@pytest.fixture(autouse=True)
def in_results(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.root)
    monkeypatch.setattr(urls, "_hidden", {})
    monkeypatch.delenv(URL_VARIABLE, raising=False)


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, str]]:
    assert main(["list", "--results", ".", "--json", *words]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["study"]: row for row in rows if "study" in row}


def test_study_that_is_elsewhere_is_one_line_that_says_how_to_read_it(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys)
    said = "study 'hunt' keeps its trials in another database; give it with --storage URL or ATTNSEARCH_STORAGE_URL"
    assert rows["hunt"]["error"] == said
    assert main(["list", "--results", "."]) == 0
    assert f"\nhere/hunt: {said}\n" in capsys.readouterr().out
    assert main(["show", "hunt", "--results", "."]) == 1
    assert capsys.readouterr().err == f"error: {said}\n"


def test_named_database_is_read_and_a_study_it_lacks_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = listed(capsys, "--storage", sqlite_url(Path("moved.db")))
    assert (rows["hunt"]["trials"], rows["hunt"]["error"]) == ("3/3", None)
    assert "'lost' is not in its database" in rows["lost"]["error"]


def test_environment_names_a_database_and_the_command_line_wins(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOVED", "moved")
    monkeypatch.setenv(URL_VARIABLE, "sqlite:///$MOVED.db")
    assert listed(capsys)["hunt"]["trials"] == "3/3"
    assert "nothing.db" in listed(capsys, "--storage", "sqlite:///nothing.db")["hunt"]["error"]


def test_server_that_is_away_is_one_line_a_study_and_asked_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "secretive")
    rows = listed(capsys, "--storage", "postgresql://$WHO:hush@127.0.0.1:1/x")
    assert set(rows) == {"hunt", "lost"}
    for row in rows.values():
        assert "postgresql://$WHO:***@127.0.0.1:1/x" in row["error"]
        assert not {"secretive", "hush"} & set(row["error"].replace('"', " ").split())


def test_what_is_no_url_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--results", ".", "--storage", "mysql://me:hush@host/x"]) == 2
    assert "got 'mysql://***:***@host/x'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "value"),
    [("NAME", "stranger"), ("WORD", "wrong-word"), ("WHERE", "nowhere_at_all"), ("HOST", "no.invalid")],
)
def test_driver_quotes_no_value_of_a_variable(
    part: str,
    value: str,
    postgres_server: PostgresServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"NAME": "tester", "WORD": postgres_server.password, "WHERE": "postgres", "HOST": "127.0.0.1"}
    for name, text in {**known, part: value}.items():
        monkeypatch.setenv(name, text)
    url = f"postgresql://$NAME:$WORD@$HOST:{postgres_server.port}/$WHERE"
    error = listed(capsys, "--storage", url)["hunt"]["error"]
    assert url in error
    assert value not in error
    assert part in ("WORD", "HOST") or f'"${part}"' in error


@pytest.mark.parametrize(
    ("said", "overrides", "storage"),
    [
        (None, [], "sqlite:///of_the_file.db"),
        ("sqlite:///said.db", [], "sqlite:///said.db"),
        ("sqlite:///said.db", ["storage=sqlite:///override.db"], "sqlite:///override.db"),
    ],
)
def test_start_takes_the_override_then_what_was_said_then_the_file(
    said: str | None, overrides: list[str], storage: str, tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    loaded = load_study(str(file), profile="demo", overrides=overrides)
    assert with_storage(loaded, said, overrides).study.storage == storage


def test_logs_and_tracebacks_hold_no_value_of_a_variable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WHO", "secretive")
    connection_url("postgresql://$WHO@host/x")
    try:
        raise RuntimeError('role "secretive" of another library')
    except RuntimeError as error:
        with records_redacted():
            logging.getLogger("sqlalchemy.pool").exception("lost %s", "secretive", exc_info=sys.exc_info())
        report_unexpected(error, 1)
    line = capsys.readouterr().err
    log = Path(line.split()[-1])
    assert 'role "$WHO" of another library' in caplog.text
    assert "secretive" not in caplog.text + line + log.read_text()
    log.unlink()


@pytest.mark.slow
def test_search_on_a_server_of_variables_leaves_their_values_nowhere(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers expand the URL again, its folder holds the names alone, and readers are told the URL."""
    monkeypatch.chdir(tmp_path)
    parsed = make_url(postgres_url)
    values = {"NAME": str(parsed.username), "WORD": str(parsed.password), "WHERE": str(parsed.database)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    url = f"postgresql://$NAME:$WORD@127.0.0.1:{parsed.port}/$WHERE"
    words = ["search", "br_npa_low_res", "--profile", "demo", *TINY, "train.epochs=1", "n_trials=1", "--storage", url]
    command = [sys.executable, "-m", "attnsearch", *words]  # a process of its own closes what it opened on the server
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"attnsearch dashboard results/demo --storage '{url}'" in done.stdout
    assert main(["show", "br_npa_low_res", "--storage", url]) == 0
    assert f"storage: {url}" in Path("results/demo/br_npa_low_res/study.yaml").read_text()
    files = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    for value in values.values():
        assert not [text for text in (done.stdout, done.stderr, *files) if re.search(rf"\b{value}\b", text)]
    assert not Path("results/demo/hypSearch.db").exists()
    assert main(["show", "br_npa_low_res"]) == 1
