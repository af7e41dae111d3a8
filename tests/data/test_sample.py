"""Some images of a data set, for trials that are only measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch.data import sample
from attnsearch.data.sample import Counts, cut_tables, open_some
from attnsearch.data.tables import DataTables, ImageTable
from attnsearch.types import Split


def table(split: Split, per_class: int, **values: Any) -> ImageTable:
    """Three classes; the images of each are listed together."""
    names, n_images = ("a", "b", "c"), 3 * per_class
    ids = tuple(f"{split}/{number}" for number in range(n_images))
    labels = np.repeat(np.arange(3), per_class)
    return ImageTable(split, names, ids, tuple(map(Path, ids)), labels, **values)


def tables(**values: Any) -> DataTables:
    train, val, test = table("train", 8, **values), table("val", 4), table("test", 2)
    return DataTables(Path("/data"), train.class_names, train, val, test, "hash")


def test_every_class_keeps_its_fraction() -> None:
    cut = cut_tables(tables(), Counts(12, 6, 100))
    assert [len(one) for one in cut.present()] == [12, 6, 6]
    assert np.bincount(cut.train.labels).tolist() == [4, 4, 4]
    assert (cut.class_names, cut.val_hash) == (("a", "b", "c"), "hash")


def test_a_split_that_is_missing_stays_missing() -> None:
    whole = tables()
    assert (
        cut_tables(DataTables(whole.root, whole.class_names, whole.train, whole.val, None, ""), Counts(1, 1, 1)).test
        is None
    )


def test_identities_stay_whole() -> None:
    """A batch needs several images of each identity."""
    cut = cut_tables(tables(match_rule="camera"), Counts(9, 4, 4))
    assert np.bincount(cut.train.labels).tolist() == [8, 8]
    assert cut.train.class_names == ("a", "b")
    assert len(cut_tables(tables(match_rule="camera"), Counts(1, 4, 4, identities=3)).train) == 24


@pytest.mark.parametrize("is_there", [True, False])
def test_images_are_decoded_elsewhere_unless_they_are_there(
    is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTNSEARCH_CACHE", "/usual")
    seen: list[tuple[int, str]] = []

    class Settings:
        cached = None

    def play(cfg: object, *, tables: DataTables) -> str:
        seen.append((len(tables.train), os.environ["ATTNSEARCH_CACHE"]))
        return "source"

    monkeypatch.setattr(sample, "is_cached", lambda tables, resizing: is_there)
    monkeypatch.setattr(sample, "open_data", play)
    assert open_some(Settings(), tables(), Counts(3, 3, 3), cache=tmp_path) == "source"  # type: ignore[arg-type,comparison-overlap]
    assert seen == [(24, "/usual") if is_there else (3, str(tmp_path))]
    assert os.environ["ATTNSEARCH_CACHE"] == str(tmp_path)
