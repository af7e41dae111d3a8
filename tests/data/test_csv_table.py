"""Data sets in a CSV file."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from attnsearch.config.data import CsvData
from attnsearch.data import build_tables
from attnsearch.data.csv_table import write_table
from attnsearch.errors import DataError
from tests.data.conftest import write_image

ROWS = [
    *[(f"images/{label}_{number}.jpg", label, "train") for label in ("wren", "crow") for number in range(3)],
    *[(f"images/{label}_t.jpg", label, "test") for label in ("wren", "crow")],
]


def written(folder: Path, rows: list[tuple[str, ...]], head: str = "path,label,split") -> CsvData:
    for name, *_ in ROWS:
        write_image(folder / name)
    file = folder / "birds.csv"
    file.write_text("\n".join([head, *(",".join(row) for row in rows)]) + "\n")
    return CsvData(root=str(file))


def test_rows_become_tables_and_validation_is_held_out(tmp_path: Path) -> None:
    tables = build_tables(written(tmp_path, ROWS))
    assert tables.class_names == ("crow", "wren")
    assert (len(tables.train), len(tables.val)) == (4, 2)
    assert tables.of("test").image_ids == ("images/crow_t.jpg", "images/wren_t.jpg")
    assert tables.of("test").paths[0] == tmp_path / "images/crow_t.jpg"
    assert tables.of("test").mask_paths is None


def test_a_column_of_masks_is_read(tmp_path: Path) -> None:
    tables = build_tables(written(tmp_path, [(*row, row[0]) for row in ROWS], head="path,label,split,mask"))
    assert tables.train.mask_paths == tables.train.paths


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (ROWS, "path,label,part", r"birds.csv:1: has no column split; it needs path, label, split"),
        ([("a.jpg", "", "train")], "path,label,split", r"birds.csv:2: needs a path and a label, got 'a.jpg' and ''"),
        ([("a.jpg", "a", "dev")], "path,label,split", r"birds.csv:2: split must be train, val or test, got 'dev'"),
        ([*ROWS, ROWS[0]], "path,label,split", r"lists 1 images twice, such as images/wren_0.jpg"),
        ([*ROWS, ("gone.jpg", "crow", "train")], "path,label,split", r"1 of 9 listed files do not exist"),
        ([*ROWS, ("images/owl.jpg", "owl", "test")], "path,label,split", r"must hold the same classes"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(
    tmp_path: Path, rows: list[tuple[str, ...]], head: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        build_tables(written(tmp_path, rows, head))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.csv: cannot be read: .*it must be a CSV file"):
        build_tables(CsvData(root=str(tmp_path / "absent.csv")))


def test_a_frame_is_written_so_that_it_is_read_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, ROWS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study").mkdir()
    write_table(pd.DataFrame(ROWS, columns=["path", "label", "split"]), tmp_path / "study" / "data.csv")
    monkeypatch.chdir("/")
    tables = build_tables(CsvData(root=str(tmp_path / "study" / "data.csv")))
    assert tables.of("test").paths[0] == tmp_path / "images/crow_t.jpg"
    assert tables.of("test").image_ids[0] == f"{tmp_path}/images/crow_t.jpg".removeprefix("/")
    with pytest.raises(DataError, match="the table has no column label, split"):
        write_table(pd.DataFrame({"path": []}), tmp_path / "data.csv")
