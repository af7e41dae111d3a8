"""What commands print: values, tables, errors, and what the library logs."""

from __future__ import annotations

import errno
import io
import json
import logging
import sys
from pathlib import Path

import pytest

from attnsearch.cli import list as listing
from attnsearch.cli import main
from attnsearch.cli._console import libraries_to_stderr, logging_to_stderr, print_json, print_line, print_table


def test_what_libraries_print_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with libraries_to_stderr():
        print("`Eva` has no attribute `q_bias`")
        print_json({"loss": float("nan")})
        print_table(("metric",), [("accuracy",)])
    print_line("afterwards")
    shown = capsys.readouterr()
    assert shown.err == "`Eva` has no attribute `q_bias`\n"
    assert [line.strip() for line in shown.out.split("\n") if line.strip("\u2500 ")] == [
        '{"loss": null}',
        "metric",
        "accuracy",
        "afterwards",
    ]


def test_json_lines_of_a_verb_stay_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def known_files() -> list[dict[str, str]]:
        print("a line of timm")
        return [{"name": "cnn", "kind": "config", "file": "cnn.yaml"}]

    monkeypatch.setattr(listing, "known_files", known_files)
    assert main(["list", "--results", str(tmp_path), "--json"]) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["name"] for line in shown.out.splitlines()] == ["cnn"]
    assert "a line of timm" in shown.err


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
