"""What stands on stdout: the lines of the verbs alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from attnsearch.cli import list as listing
from attnsearch.cli import main
from attnsearch.cli._console import libraries_to_stderr, print_json, print_line, print_table


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
