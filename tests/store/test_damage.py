"""Damaged content becomes one line that names file and fix."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import DataError, StoreError
from attnsearch.store.damage import (
    MAX_REASON,
    Content,
    content_errors,
    open_array,
    read_json,
    reason_of,
)


class Named(Content):
    name: str


ERRORS = (KeyError("a"), RecursionError("deep"), AssertionError(), UnicodeError("b"), OverflowError())


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_a_parser_raises_names_file_and_fix(tmp_path: Path, error: Exception) -> None:
    said = rf"a\.csv cannot be read \({type(error).__name__}: .*\), make it again$"
    with pytest.raises(StoreError, match=said), content_errors(tmp_path / "a.csv", "make it again"):
        raise error


def test_own_errors_pass_and_those_of_the_disk_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(DataError, match=r"^mine$"), content_errors(path, "make it again"):
        raise DataError("mine")
    with pytest.raises(StoreError, match=r"a: No such file or directory; check"), content_errors(path, "make it again"):
        path.read_text()


def test_reason_is_one_short_printable_line_of_the_first_cause() -> None:
    error = ValueError("above")
    error.__cause__ = ValueError("a\x1b[31m" + "9" * 5000 + "\nmore")
    assert reason_of(error) == "a?[31m" + "9" * (MAX_REASON - 6) + "…"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "EOF while parsing"),
        (b"[" * 50_000, "recursion limit exceeded"),
        (b'{"format": 1, "name": 3}', "name: Input should be a valid string"),
        (b'{"format": 1}', "name: Field required"),
        (b'{"format": 1, "name": "\\ud800"}', "hex escape"),
        (b'{"format": 1, "name": "\xff"}', "Invalid JSON"),
        (b'{"name": "a"}', "format: Field required"),
    ],
)
def test_damaged_json_is_named_with_its_fault(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(StoreError, match=rf"a\.json cannot be read \(.*{reason}.*\), make it again$"):
        read_json(tmp_path / "a.json", Named, version=1, fix="make it again")


def test_json_of_another_format_is_named_before_its_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"a\.json has the format 2, this version reads 1, update"):
        read_json(tmp_path / "a.json", Named, version=1, fix="make it again")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9999999)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_or",
        "[" * 9000,
        "'" + "a" * 60_000,
    ],
)
def test_damaged_header_of_an_array_is_named(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(8))
    with pytest.raises(StoreError, match=r"a\.npy is not a whole \.npy file \(.*\), make it again$"):
        open_array(path, "make it again")


def test_whole_array_is_mapped_read_only(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3.0))
    found = open_array(tmp_path / "a.npy", "make it again")
    assert found.tolist() == [0, 1, 2]
    assert not found.flags.writeable
