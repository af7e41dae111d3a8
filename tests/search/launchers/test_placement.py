"""What all schedulers are told: the command of a worker, and that its database must be a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import ConfigError
from attnsearch.search.launchers.placement import require_server, worker_words
from attnsearch.store.layout import StudyLayout

LAYOUT = StudyLayout(Path("/shared/a b"), "CUB", "birds")


def test_command_means_the_same_in_every_folder() -> None:
    words = worker_words(LAYOUT, overrides=["data.root=/data"], plugins=["mine.py", "package.part"])
    head = ["-m", "attnsearch", "worker", "/shared/a b/CUB/birds", "data.root=/data"]
    assert words == [*head, "--plugin", f"{Path.cwd()}/mine.py", "--plugin", "package.part"]


def test_server_is_taken_as_it_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "a-secret-of-the-test")
    assert require_server("postgresql://me:$WORD@host/birds") == "postgresql://me:$WORD@host/birds"


@pytest.mark.parametrize("storage", [None, "sqlite:////shared/hypSearch.db"])
def test_file_is_refused(storage: str | None) -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        require_server(storage)


def test_refusal_shows_no_password() -> None:
    with pytest.raises(ConfigError) as refused:
        require_server("mysql://me:a-secret-of-the-test@host/birds")
    assert "a-secret-of-the-test" not in str(refused.value)
