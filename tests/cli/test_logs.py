"""What the library logs, on stderr."""

from __future__ import annotations

import errno
import io
import logging
import sys

import pytest

from attnsearch.cli._console import logging_to_stderr


class FullDisk(io.StringIO):
    """The log of a worker whose disk is full."""

    refused = ""

    def write(self, text: str) -> int:
        self.refused += text
        raise OSError(errno.ENOSPC, "No space left on device")


def test_log_on_a_full_disk_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    log = FullDisk()
    monkeypatch.setattr(sys, "stderr", log)
    with logging_to_stderr():
        logging.getLogger("attnsearch.search").warning("trial 3 returns to the queue")
    assert "trial 3 returns to the queue" in log.refused


def test_log_is_lines_with_utc_times(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr():
        logging.getLogger("attnsearch.search").info("trial %d ended", 3)
    time, level, rest = capsys.readouterr().err.split(maxsplit=2)
    assert time.endswith("Z")
    assert (level, rest) == ("INFO", "trial 3 ended\n")
