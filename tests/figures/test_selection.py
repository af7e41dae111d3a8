"""Which images are drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose, images_at
from attnsearch.store.image_scores import ScoreTable
from tests.matches import ranked_split

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


def test_images_are_ordered_by_their_own_gain() -> None:
    """An area divided by a drop of at least 0.1, and not what the column holds."""
    terms = {
        "relevance_gain.area": np.array([0.4, 0.3, 0.05, 0.09]),
        "relevance_gain.untouched": np.array([0.9, 0.5, 0.2, 0.99]),
        "relevance_gain.filled": np.array([0.1, 0.2, 0.15, 0.09]),
    }
    table = replace(scores(), values={"relevance_gain": np.array([0.1, 0.2, 0.3, 0.4])}, terms=terms)
    ordered = choose(KNOWN, ImageSelection(most_faithful=4), table)
    assert ordered == ["1.jpg", "0.jpg", "3.jpg"]  # gains 1, 0.5 and 0.1; image 2 drops by 0.05


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


def test_queries_are_chosen_by_their_precision() -> None:
    index = ImageIndex.of_queries(ranked_split())
    assert (index.image_ids, index.true) == (["0.jpg", "1.jpg"], ["0005", "0007"])
    assert index.predicted == ["0000", "0007"]  # of the nearest gallery image that is not removed
    assert index.precision == pytest.approx([5 / 12, 5 / 6])
    assert choose(index, ImageSelection(worst=1), None) == ["0.jpg"]
    assert choose(index, ImageSelection(worst=9), None) == ["0.jpg", "1.jpg"]
    assert choose(index, ImageSelection(worst=1, classes=["0007"]), None) == ["1.jpg"]


def test_queries_without_a_match_are_not_the_worst() -> None:
    index = ImageIndex(IDS[:3], list("abc"), list("abc"), [float("nan"), 0.5, 0.2])
    assert choose(index, ImageSelection(worst=3), None) == ["2.jpg", "1.jpg"]


def test_chance_depends_on_the_seed_alone() -> None:
    many = ImageIndex([str(row) for row in range(48)], ["a"] * 48)
    draws = [choose(many, ImageSelection(random=5, seed=seed), None) for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) == 5
    assert choose(many, ImageSelection(random=7), None)[:5] == draws[0]


def test_classes_have_no_precision() -> None:
    with pytest.raises(ConfigError, match="--worst needs the average precision of queries"):
        chosen(worst=1)
