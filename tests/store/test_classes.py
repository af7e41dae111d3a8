from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.archive import read_classes, write_classes


def test_names_keep_their_order_and_spelling(tmp_path: Path) -> None:
    names = ("tern, common", "Müller's gull", '"x"', "001")
    write_classes(tmp_path / "classes.csv", names)

    assert read_classes(tmp_path / "classes.csv") == names
    assert (tmp_path / "classes.csv").read_text().startswith('label,class_name\n0,"tern, common"\n')


def test_missing_class_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"classes\.csv: No such file"):
        read_classes(tmp_path / "classes.csv")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"label\n0\n", b"label,class_name\n0\n"])
def test_damaged_class_map_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.csv").write_bytes(content)
    with pytest.raises(StoreError, match=r"classes\.csv cannot be read"):
        read_classes(tmp_path / "classes.csv")
