"""What the best trial of a study is worth: accuracy, faithfulness and localisation, each beside its floors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from attnsearch.errors import AttnSearchError
from attnsearch.files import stamp_of
from attnsearch.metrics.registry import find_metric
from attnsearch.store.floors import MeasuredFloors, read_floors
from attnsearch.store.image_scores import ScoreTable, best_scores, read_scores

if TYPE_CHECKING:
    from attnsearch.results.trial import TrialReader

ANSWERS = ("accuracy", "mAP", "mAP_group", "mAP_open")
"""Metrics of answers, of which a trial has one, and those of maps of which the first that was measured is reported."""
GAINS = ("relevance_gain",)
ENERGY = ("energy_in_mask", "energy_in_box")
POINTING = ("pointing_hit", "pointing_in_box", "pointing_at_part")
SHOWN_FLOORS = {
    **dict.fromkeys(GAINS, ("random", "centre")),
    **dict.fromkeys(ENERGY, ("flat map", "untrained")),
    **dict.fromkeys(POINTING, ("fixed cell", "untrained")),
}
"""Metric -> the floors that it is reported beside; of the others all."""
NAMES = {"accuracy": "accuracy", **dict.fromkeys(POINTING, "pointing game")}
HIGH_FLOOR = 0.5
"""A floor from which on a metric with a maximum of 1 says little."""
NOT_SCORED = "maps       not scored"
_Z = 1.959964


@dataclass(frozen=True)
class Quality:
    """One number of a trial on validation, with its 95 % interval and its floors.

    Attributes:
        metric: its name without the split.
        low, high: NaN where the interval is not known.
        test: the same of the published test split; None where there is none.
        floors: what is reached without information -> value.
    """

    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    test: float | None = None
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As people read it."""
        return NAMES.get(self.metric, self.metric.replace("_", " "))

    @property
    def floor(self) -> float:
        """The highest one; NaN without any."""
        return max(self.floors.values(), default=math.nan)

    @property
    def skill(self) -> float:
        """(value - floor) / (1 - floor), of the highest floor; NaN without any, or where the floor is 1."""
        return (self.value - self.floor) / (1 - self.floor) if self.floor < 1 else math.nan

    @property
    def verdict(self) -> str:
        """`at the floor`, or `weak` where the floor is high; empty where the value says more."""
        if not self.floors:
            return ""
        if (self.value if math.isnan(self.low) else self.low) <= self.floor:
            return "at the floor"
        return "weak" if self.floor >= HIGH_FLOOR else ""

    @property
    def fields(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {**vars(self), "floors": dict(self.floors), "skill": self.skill, "verdict": self.verdict}

    @property
    def interval(self) -> str:
        """` (0.973 to 0.997)`, or nothing."""
        return "" if math.isnan(self.low) else f" ({_number(self.low)} to {_number(self.high)})"

    @property
    def text(self) -> str:
        """Value, interval, test value, floors and verdict, in at most 61 characters."""
        test = "" if self.test is None else f", test {_number(self.test)}"
        floors = ", ".join(f"{name} {value:.2g}" for name, value in self.floors.items())
        parts = filter(None, [f"{_number(self.value)}{self.interval}{test}", floors, self.verdict])
        return "; ".join(parts)


def quality_of(trial: TrialReader) -> list[Quality]:
    """The answers, the faithfulness and the localisation of a trial, those of which something was measured.

    Raises:
        ConfigError, StoreError: the scores or the floors are damaged.
    """
    metrics, summary = trial.metrics, trial.score_summary("val")
    floors = floors_of(trial)
    found = [_answers(trial, metrics, floors)]
    for names in (GAINS, ENERGY, POINTING):
        name = next((one for one in names if not math.isnan(summary.get(f"val/{one}", math.nan))), None)
        if name is not None:
            found.append(_of_maps(trial, name, summary, _shown(name, floors)))
    return [one for one in found if one is not None]


def known_quality(trial: TrialReader) -> list[Quality]:
    """As `quality_of`; empty where files are damaged, so that the rest can be shown."""
    try:
        return quality_of(trial)
    except AttnSearchError:
        return []


def quality_lines(found: Iterable[Quality]) -> list[str]:
    """A line for each number, names first; the last one says where maps were not scored."""
    found = list(found)
    width = max((len(one.name) for one in found), default=0)
    lines = [f"{one.name:<{width}}  {one.text}" for one in found]
    return lines if any(one.metric not in ANSWERS for one in found) else [*lines, NOT_SCORED]


def floors_of(trial: TrialReader) -> MeasuredFloors | None:
    """The floors that were measured on the grid of a trial's maps; those of any grid where its maps are not scored."""
    measured = read_floors(trial.study.layout.floors_json)
    if best_scores(trial.files, "val") is None:
        return measured[0] if measured else None
    about = _scores(trial).about
    wanted = tuple(about["grid"]), about["version"]
    return next((one for one in measured if (one.grid, one.version) == wanted), None)


def _scores(trial: TrialReader) -> ScoreTable:
    """Those on most images."""
    paths = best_scores(trial.files, "val")
    assert paths is not None
    stamp = stamp_of(paths.about, paths.table, paths.curves)
    return trial.study.shared.scores.get(paths.about, stamp, lambda: read_scores(paths))


def _answers(trial: TrialReader, metrics: Mapping[str, float], floors: MeasuredFloors | None) -> Quality | None:
    name = next((one for one in ANSWERS if f"val/{one}" in metrics), None)
    if name is None:
        return None
    value, test = metrics[f"val/{name}"], metrics.get(f"test/{name}")
    if name == "accuracy":
        low, high = (math.nan, math.nan) if floors is None else wilson(value, floors.n_split)
        return Quality(name, value, low, high, test, _shown(name, floors))
    published = {key.partition("floor_")[2].removesuffix(f"_{name}"): one for key, one in trial.floors().items()}
    return Quality(name, value, test=test, floors=published)


def _of_maps(trial: TrialReader, name: str, summary: Mapping[str, float], floors: Mapping[str, float]) -> Quality:
    value = summary[f"val/{name}"]
    low, high = (summary.get(f"val/{name}_{end}", math.nan) for end in ("low", "high"))
    if find_metric(name).is_hit and not math.isnan(low):
        low, high = wilson(value, len(_scores(trial).image_ids))
    return Quality(name, value, low, high, floors=floors)


def _shown(metric: str, floors: MeasuredFloors | None) -> dict[str, float]:
    values = {} if floors is None else floors.values.get(metric, {})
    return {name: values[name] for name in SHOWN_FLOORS.get(metric, values) if name in values}


def wilson(rate: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate over n images.

    Source: Wilson 1927 (JASA 22), score interval.
    """
    middle = (rate + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(rate * (1 - rate) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def _number(value: float) -> str:
    return f"{value:.3f}" if value else "0"
