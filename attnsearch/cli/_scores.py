"""How the command `faithfulness` shows scores of maps: means with standard errors, by class, beside other maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnsearch.cli._console import number, print_json, print_line, print_table, print_written
from attnsearch.metrics.registry import higher_is_better
from attnsearch.results.uncertainty import with_error

if TYPE_CHECKING:
    from attnsearch.results.full_scores import ClassScores, ScoringTarget
    from attnsearch.store.image_scores import ScoreTable

MAX_CLASSES = 20
"""Of which the relevance gain is printed; all are in the JSON."""


def print_scores(target: ScoringTarget, table: ScoreTable, files: Sequence[str], *, as_json: bool) -> None:
    """The means with their standard errors and settings, also apart for right and wrong answers, and by class."""
    from attnsearch.results.full_scores import is_right_answer, resembled_note, score_notes, scores_by_class

    is_right, classes = is_right_answer(target, table), scores_by_class(target, table)
    apart = {"right": table.among(is_right), "wrong": table.among(~is_right)}
    if as_json:
        print_json(score_fields(target, table, apart) | {"by_class": list(map(vars, classes))})
        return
    print_means(target, table, apart)
    print_classes(classes)
    undefined = [f"{name} is undefined: {reason}" for name, reason in table.undefined_gains().items()]
    resembled = filter(None, [resembled_note(classes)])
    for note in (*undefined, *resembled, *score_notes(table, target.trial.config)):
        print_line(f"note: {note}")
    print_line(f"one row per image: {target.scores.table}")
    print_written(*(target.layout.experiment_dir / name for name in files))


def score_fields(target: ScoringTarget, table: ScoreTable, apart: Mapping[str, ScoreTable]) -> dict[str, Any]:
    """The means and what they are of, for machines.

    Args:
        apart: `right` and `wrong` -> the table of the images with such an answer.
    """
    return {
        **{"study": target.layout.study, "trial": target.number, "split": target.split},
        **{"n_images": len(table.image_ids), "scores": table.means(), "standard_errors": table.standard_errors()},
        **{"n_undefined": table.n_undefined(), "mean_drops": {name: table.mean_drop(name) for name in table.gains()}},
        **{"n_right": len(apart["right"].image_ids), "n_correct": table.about.get("n_correct")},
        **{f"scores_{answer}": one.means() for answer, one in apart.items()},
        **{f"standard_errors_{answer}": one.standard_errors() for answer, one in apart.items()},
        **{key: table.about[key] for key in ("version", "settings", "grid", "checkpoint")},
        **{"temperature": table.about.get("temperature"), "floors": table.about.get("floors", {})},
        "reasons": {**table.reasons, **table.undefined_gains()},
    }


def print_means(target: ScoringTarget, table: ScoreTable, apart: Mapping[str, ScoreTable]) -> None:
    """The table of means; an arrow tells whether higher or lower is better, undefined values are counted.

    Args:
        apart: as `score_fields`.
    """
    rows, columns = table.about["grid"]
    title = (
        f"{target.layout.study}, trial {target.number}, {len(table.image_ids)} {target.split} images, maps of "
        f"{rows}x{columns} cells, {len(table.fractions) - 1} steps, fill {table.about['settings']['fill']}, metrics of "
        f"version {table.about['version']}; mean ± standard error"
    )
    wrong = apart["wrong"].means()
    lines = [
        (name, "↑" if higher_is_better(f"val/{name}") else "↓", _shown(table, name), _mean(apart["right"], name),
         number(wrong.get(name)))
        for name in table.means()
    ]  # fmt: skip
    n_right, n_wrong = (len(one.image_ids) for one in apart.values())
    print_table(("score", "", "mean", f"right: {n_right}", f"wrong: {n_wrong}"), lines, title=title)


def print_classes(classes: Sequence[ClassScores]) -> None:
    """The relevance gain by class, the classes that survive the removal of all cells first; nothing without classes."""
    shown = sorted(classes, key=lambda one: -one.filled)[:MAX_CLASSES]
    lines = [
        (one.name, str(one.n_images), number(one.untouched), number(one.filled), with_error(one.gain, one.error))
        for one in shown
    ]
    if lines:
        left_out = f", the first {len(shown)} of {len(classes)}" if len(shown) < len(classes) else ""
        title = f"relevance gain by the class that is followed{left_out}"
        print_table(("class", "images", "confidence", "when fully masked", "relevance gain"), lines, title=title)


def _mean(table: ScoreTable, metric: str) -> str:
    """The mean with its standard error."""
    mean = table.means().get(metric)
    return number(None) if mean is None else with_error(mean, table.standard_errors().get(metric))


def _reason(table: ScoreTable, metric: str) -> str:
    """In a word or two why no image has a metric; empty where that is not known."""
    return table.reasons.get(metric, "").partition(":")[0]


def print_baselines(tables: Mapping[str, ScoreTable], path: Path, *, as_json: bool) -> None:
    """The means of baseline maps beside those of the model's own one, which comes first."""
    if as_json:
        for name, table in tables.items():
            errors = {"standard_errors": table.standard_errors(), "n_undefined": table.n_undefined()}
            print_json({"map": name, "scores": table.means(), **errors})
        return
    metrics = next(iter(tables.values())).means()
    rows = [(metric, *(_shown(table, metric) for table in tables.values())) for metric in metrics]
    print_table(("score", *tables), rows, title="beside maps that know nothing, and post-hoc maps of the same model")
    print_written(path)


def _shown(table: ScoreTable, metric: str) -> str:
    """The mean with its standard error and how many images it leaves out, or why no image has it."""
    n_undefined = table.n_undefined().get(metric, 0)
    if n_undefined == len(table.image_ids):
        return _reason(table, metric) or "undefined"
    return f"{_mean(table, metric)} ({n_undefined} undefined)" if n_undefined else _mean(table, metric)
