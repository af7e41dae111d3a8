from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import ConfigError
from attnsearch.store import urls
from attnsearch.store.layout import StudyLayout
from attnsearch.store.urls import (
    connection_url,
    default_url,
    hide,
    near_names,
    network_file_system,
    parse_url,
    redact,
    shown,
    sqlite_path,
    sqlite_url,
)


def test_default_url_is_absolute_and_leads_back_to_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    layout = StudyLayout(Path("results"), "CUB", "br_npa")

    assert default_url(layout) == f"sqlite:///{tmp_path}/results/CUB/hypSearch.db"
    assert sqlite_path(default_url(layout)) == tmp_path / "results" / "CUB" / "hypSearch.db"


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "what?.db", "no#1.db", "é.db"])
def test_odd_file_names_survive_the_url(tmp_path: Path, name: str) -> None:
    assert sqlite_path(sqlite_url(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize(
    "url", ["sqlite:///file:/data/x%20y.db?mode=ro&uri=true", "sqlite:///file:///data/x y.db?uri=true"]
)
def test_uri_form_of_sqlite_is_understood(url: str) -> None:
    assert sqlite_path(url) == Path("/data/x y.db")


def test_server_url_has_no_file() -> None:
    assert sqlite_path("postgresql+psycopg://u:p@host/db") is None


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="in memory") as caught:
        sqlite_path(url)
    assert url in str(caught.value)


@pytest.mark.parametrize("url", ["results/CUB/hypSearch.db", "mysql://u:pw@host/db", "postgresql://u:pw@host:port/db"])
def test_what_is_no_usable_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^storage must") as caught:
        parse_url(url)
    assert redact(url) in str(caught.value)
    assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("postgresql://ann:s3cret@host/db", "postgresql://***:***@host/db"),
        ("postgresql://:s3cret@host/db", "postgresql://:***@host/db"),
        ("at postgresql://ann:s3@cr/et@host:5432/db now", "at postgresql://***:***@host:5432/db now"),
        ("postgresql://ann@host/db?password=s3cret&x=1", "postgresql://***@host/db?password=***&x=1"),
        ("connection host=h password=s3cret dbname=d", "connection host=h password=*** dbname=d"),
        ("postgresql:///db?user=ann&host=h", "postgresql:///db?user=***&host=h"),
        ("postgresql://$ANN:${WORD}@host/db", "postgresql://$ANN:${WORD}@host/db"),
        ("postgresql://ann_$A:s3$B@host/db", "postgresql://***:***@host/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("sqlite:////data/a:b@c.db", "sqlite:////data/a:b@c.db"),
    ],
)
def test_user_names_and_passwords_are_hidden_and_nothing_else(text: str, safe: str) -> None:
    assert redact(text) == safe


def test_messages_call_a_database_by_file_or_safe_url(tmp_path: Path) -> None:
    assert shown(sqlite_url(tmp_path / "a.db")) == str(tmp_path / "a.db")
    assert shown("postgresql://ann:pw@host/db") == "postgresql://***:***@host/db"


def test_near_names_are_sought_at_the_first_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "results" / "CUB").mkdir(parents=True)

    assert near_names(tmp_path / "results" / "CUP" / "x.db") == [str(tmp_path / "results" / "CUB" / "x.db")]
    assert near_names(tmp_path / "results" / "birds" / "x.db") == []


def test_innermost_mount_tells_a_network_disk_from_a_local_one(tmp_path: Path) -> None:
    share = tmp_path / "big share"
    scratch = share / "scratch"
    scratch.mkdir(parents=True)
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/x {escaped} nfs4 rw 0 0\n/dev/b {escaped}/scratch xfs rw 0 0\n")

    assert network_file_system(share / "new" / "x.db", mounts=mounts) == "nfs4"
    assert network_file_system(scratch / "x.db", mounts=mounts) is None
    assert network_file_system(tmp_path / "x.db", mounts=mounts) is None
    assert network_file_system(share, mounts=tmp_path / "none") is None


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_hidden", {})
    values = {"DB_USER": "ann", "DB_WORD": "s3cret-password", "DB_HOST": "db.lab", "DB_NAME": "trials", "DB_EMPTY": ""}
    values |= {"DB_URL": "postgresql://bob:pw@vault:5433/birds", "DB_ENV": "test"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("written", "text", "safe"),
    [
        ("postgresql://$DB_USER:$DB_WORD@$DB_HOST/$DB_NAME", 'user "ann" at db.lab', 'user "$DB_USER" at $DB_HOST'),
        ("postgresql://$DB_USER:$DB_WORD@host/$DB_NAME", 'database "trials"', 'database "$DB_NAME"'),
        ("postgresql://$DB_USER:$DB_WORD@host/db", "xs3cret-passwordx", "x$DB_WORDx"),
        ("postgresql://$DB_USER@host/db", "annual plan of ann", "annual plan of $DB_USER"),
        ("$DB_URL", 'role "bob" on vault:5433/birds', 'role "***" on ***:***/***'),
        ("$DB_URL", "at postgresql://bob:pw@vault:5433/birds", "at $DB_URL"),
        ("postgresql://u_$DB_ENV:x@h/trials_$DB_ENV", 'role "u_test" in trials_test', 'role "***" in trials_$DB_ENV'),
        ("postgresql://host/db?options=$DB_NAME$DB_EMPTY", "with trials", "with $DB_NAME"),
        ("postgresql://postgres:x@host/db", '"postgres" of [postgres]', '"***" of [postgres]'),
    ],
)  # fmt: skip
def test_what_a_variable_held_is_shown_by_its_name(secrets: None, written: str, text: str, safe: str) -> None:
    connection_url(written)
    assert hide(text) == safe


def test_url_is_shown_as_it_was_written(secrets: None) -> None:
    written = "postgresql://$DB_USER:$DB_WORD@$DB_HOST/$DB_NAME"
    assert connection_url(written) == "postgresql://ann:s3cret-password@db.lab/trials"
    assert shown(connection_url(written)) == written


def test_file_of_a_variable_is_shown_by_its_name(secrets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_FOLDER", "/data/ann")
    assert shown(connection_url("sqlite:///$DB_FOLDER/a.db")) == "$DB_FOLDER/a.db"


def test_url_without_its_credentials_is_refused(secrets: None) -> None:
    with pytest.raises(
        ConfigError, match=r"'postgresql://\*\*\*:\*\*\*@host/db' has lost its user name .* storage=URL"
    ):
        connection_url("postgresql://***:***@host/db")
