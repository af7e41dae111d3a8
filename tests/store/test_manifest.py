"""The manifest of what is published."""

from __future__ import annotations

import json
from typing import Any

import pytest

from attnsearch.errors import StoreError
from attnsearch.store.layout import StudyLayout
from attnsearch.store.manifest import read_manifest

SETS = [{"trial": 1, "epoch": 3, "folder": "."}]


def write(layout: StudyLayout, **changes: Any) -> None:
    layout.study_dir.mkdir(parents=True, exist_ok=True)
    about = {"format": 1, "study": "hunt", "sets": SETS, "files": ["a.csv"], **changes}
    layout.published_json.write_text(json.dumps(about), encoding="utf-8")


def test_manifest_is_read_and_none_where_there_is_none(layout: StudyLayout) -> None:
    assert read_manifest(layout) is None
    write(layout)
    found = read_manifest(layout)
    assert found is not None
    assert (found["sets"], found["files"]) == (SETS, ["a.csv"])


@pytest.mark.parametrize(
    "changes",
    [
        {"sets": []},
        {"sets": 3},
        {"sets": [None]},
        {"sets": [{**SETS[0], "trial": "1"}]},
        {"sets": [{**SETS[0], "folder": "../.."}]},
        {"files": ["/etc/passwd"]},
        {"files": None},
    ],
)
def test_damaged_manifest_is_named_with_its_fix(layout: StudyLayout, changes: dict[str, Any]) -> None:
    write(layout, **changes)
    with pytest.raises(StoreError, match=r"published\.json cannot be read \((sets|files).*\), delete it; .*search"):
        read_manifest(layout)
