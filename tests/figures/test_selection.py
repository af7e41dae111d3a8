"""Which images are drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose, images_at
from attnsearch.store.image_scores import ScoreTable

IDS = [f"{row}.jpg" for row in range(8)]
KNOWN = ImageIndex(IDS, list("aaaabbcc"), list("abbabaac"))  # wrong: 1 and 2 (a as b), 5 (b as a), 6 (c as a)


def scores(metric: str = "relevance_gain") -> ScoreTable:
    values = {metric: np.array([0.3, np.nan, 0.9, 0.1])}
    return ScoreTable(tuple(IDS[:4]), values, np.zeros((4, 0, 0), np.float32), (), (), {"digest": ""})


def chosen(**wanted: object) -> list[int]:
    return [IDS.index(one) for one in choose(KNOWN, ImageSelection(**wanted), scores())]  # type: ignore[arg-type]


def test_most_confused_pair_gives_its_errors() -> None:
    assert chosen(confused=9) == [1, 2, 5]


def test_so_many_of_each_class() -> None:
    assert chosen(per_class=2) == [0, 2, 4, 5, 6, 7]


def test_one_class_gives_all_of_it() -> None:
    assert chosen(classes=["b"]) == [4, 5]


def test_most_and_least_faithful_leave_out_undefined_scores() -> None:
    assert chosen(most_faithful=1, least_faithful=1) == [2, 3]
    assert chosen(most_faithful=3, least_faithful=3) == [2, 0, 3]


def test_a_score_where_less_is_better_is_turned_around() -> None:
    assert choose(KNOWN, ImageSelection(most_faithful=1, by="deletion"), scores("deletion")) == ["3.jpg"]


def test_nothing_asked_for_is_spread_over_the_split() -> None:
    many = ImageIndex([str(row) for row in range(48)], ["a"] * 48)
    assert choose(many, ImageSelection(), None) == [str(row) for row in range(0, 48, 4)]


@pytest.mark.parametrize(
    ("wanted", "named"),
    [({"classes": ["bb"]}, "'bb'"), ({"most_faithful": 1, "by": "relevance"}, "did you mean 'relevance_gain'")],
)
def test_unknown_names_are_refused(wanted: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        chosen(**wanted)


def test_images_that_were_not_scored_are_refused() -> None:
    with pytest.raises(ConfigError, match="attnsearch faithfulness"):
        choose(KNOWN, ImageSelection(least_faithful=1), None)


def test_a_folder_gives_its_pictures_by_name(tmp_path: Path) -> None:
    for name in ("b.JPG", "a/c.png", "notes.txt", "._b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in images_at(tmp_path)] == ["c.png", "b.JPG"]
