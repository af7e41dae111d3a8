"""One HTML file about all studies of an experiment; it loads nothing else, so it can be mailed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.evaluation.compare import (
    MetricMean,
    PairedDifference,
    ScoredTrial,
    check_comparable,
    compare,
    metrics_of,
)
from attnsearch.evaluation.ranking import matrix_of, query_table, scores_of
from attnsearch.files import atomic_write
from attnsearch.metrics.classification import confusion_matrix, most_confused
from attnsearch.metrics.registry import better_direction, is_raw, metric_of, score_metrics, title_of
from attnsearch.progress import duration
from attnsearch.report import charts
from attnsearch.report.facts import StudyFacts, commands, read_facts
from attnsearch.report.sheets import RankSheets, Sheet, rank_sheets, sample_sheets
from attnsearch.results.reader import Results, load_results
from attnsearch.results.uncertainty import with_error
from attnsearch.search.trials import TrialRow
from attnsearch.store.study_files import describe_environment
from attnsearch.types import Retrieval, Split

Row = TypeVar("Row", MetricMean, PairedDifference)
T = TypeVar("T")
MAX_TRIALS = 20
MAX_PAIRS = 10
MAX_DISTANCES = 200_000_000
"""Between queries and gallery, above which a camera matrix takes minutes; Market-1501 has 54 million."""
MAX_CLASSES = 40
"""Classes above which a confusion matrix is not drawn: its cells would be smaller than its letters."""


@dataclass
class Report:
    """The page, and its charts by name for PDF."""

    title: str
    html: str
    figures: dict[str, Figure] = field(default_factory=dict)


def build_report(folder: Path, *, storage: str | None = None) -> Report:
    """Reads a results folder, or one experiment in it, and writes nothing.

    Args:
        storage: as `reader_url`.
    Raises:
        StoreError: no such folder, or nothing was run in it.
    """
    results = load_results(folder, storage=storage)
    page = _Page()
    facts = page.read(results)
    title = ", ".join(results.experiments)
    values = {
        "title": title,
        "leading": leading_metrics(facts) or ["accuracy"],
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": describe_environment(),
        "raw": [metric.name for metric in score_metrics() if metric.is_raw],
        "summary": [summary_row(one) for one in facts],
        "studies": [page.study(one) for one in facts],
        "experiments": [
            page.experiment(name, [one for one in facts if one.layout.experiment == name])
            for name in results.experiments
        ],
        "commands": [command for one in facts for command in commands(one)],
    }
    errors = [error.replace(f"{folder.absolute()}/", "") for error in page.errors]
    return Report(title, _template().render(values, errors=errors), page.figures)


def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("attnsearch.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": four_digits,
        "p": p_value,
        "signed": signed,
        "duration": duration,
        "meaning": meaning_of,
        "title": title_of,
        "with_error": with_error,
    }
    return environment.get_template("page.html")


class _Page:
    """Makes the sections of the page and collects charts and errors meanwhile."""

    def __init__(self) -> None:
        self.figures: dict[str, Figure] = {}
        self.errors: list[str] = []

    def read(self, results: Results) -> list[StudyFacts]:
        """The facts of all studies that can be read."""
        facts: list[StudyFacts] = []
        for study in results:
            try:
                facts.append(read_facts(study))
            except AttnSearchError as error:
                self.errors.append(f"{study.name}: {error}")
        self.errors += [error for one in facts for error in one.errors]
        return facts

    def chart(self, name: str, title: str, draw: Callable[..., Figure], *arguments: Any) -> Markup:
        """Draws a chart, keeps it by its name, and returns it as SVG."""
        self.figures[name] = charts.styled(draw, *arguments)
        return Markup(charts.to_svg(self.figures[name], name, title))

    def study(self, facts: StudyFacts) -> dict[str, Any]:
        """One study: its best settings, trials, curves, importances and confusions."""
        key, name = f"{facts.layout.experiment}-{facts.name}", facts.name
        curves = importance = history = None
        if facts.epochs:
            curves = self.chart(f"curves-{key}", f"Learning curves of {name}", charts.draw_learning_curves, facts)
        if facts.importances:
            title = f"Importance of the hyperparameters of {name}"
            importance = self.chart(f"importance-{key}", title, charts.draw_importances, facts.importances)
        if facts.selection is not None and facts.selection.history and len(facts.selection.history.trials) > 1:
            title = f"What {name} reached after each trial"
            history = self.chart(f"history-{key}", title, charts.draw_history, facts.selection.history)
        return {
            "facts": facts,
            "id": key,
            "states": facts.states(),
            "settings": best_settings(facts),
            "trials": trial_table(facts),
            "curves": curves,
            "importance": importance,
            "history": history,
            **self._confusion(facts, key),
            **self._galleries(facts, key),
        }

    def _galleries(self, facts: StudyFacts, key: str) -> dict[str, Any]:
        """Of re-identification: the camera matrix and ranked galleries."""
        retrieval = facts.retrieval
        if retrieval is None:
            return {"cameras": None, "lacks_cameras": False, "ranks": RankSheets()}
        matrix, cameras = camera_matrix_of(retrieval), None
        if matrix is not None:
            split = "" if facts.archive is None else f" ({facts.archive.split})"
            title = f"mAP of {facts.name} by cameras{split}"
            cameras = self.chart(f"cameras-{key}", title, charts.draw_cameras, matrix, retrieval.camera_names)
        lacks_cameras = cameras is None and retrieval.cameras is not None
        ranks = self._drawn(lambda: rank_sheets(facts), RankSheets())
        return {"cameras": cameras, "lacks_cameras": lacks_cameras, "ranks": ranks}

    def _confusion(self, facts: StudyFacts, key: str) -> dict[str, Any]:
        archive = facts.archive
        if archive is None or facts.is_retrieval:
            return {"pairs": [], "confusion": None}
        names = archive.class_names
        matrix = confusion_matrix(archive.labels, archive.predictions, len(names))
        pairs = [(names[one.first], names[one.second], one) for one in most_confused(matrix, n_pairs=MAX_PAIRS)]
        chart = None
        if len(names) <= MAX_CLASSES:
            title = f"Confusion matrix of {facts.name}"
            chart = self.chart(f"confusion-{key}", title, charts.draw_confusion, matrix, names)
        return {"pairs": pairs, "confusion": chart, "split": archive.split, "n_images": len(archive.image_ids)}

    def experiment(self, name: str, facts: Sequence[StudyFacts]) -> dict[str, Any]:
        """The studies of an experiment together: Pareto fronts, faithfulness, sample images."""
        leading = leading_metrics(facts)
        scored = [one for one in facts if one.scores]
        what = "queries" if scored and all(one.is_retrieval for one in scored) else "images"
        return {
            "name": name,
            "leading": leading,
            "fronts": [front for metric in leading for front in self._fronts(name, metric, facts)],
            "faithfulness": {**self._compared("faithfulness", name, scored_alike(facts)), "what": what},
            "retrieval": self._retrieval(name, facts),
            "has_classes": not all(one.is_retrieval for one in facts),
            "sheets": self._drawn(lambda: sample_sheets(facts), list[Sheet]()),
        }

    def _fronts(self, name: str, leading: str, facts: Sequence[StudyFacts]) -> list[dict[str, Any]]:
        """Trade-offs of the metric that some of the studies are compared by first, and whether a line is in them."""
        y_key, ending = f"val/{leading}", "" if leading == "accuracy" else f"-{leading}"
        facts = [one for one in facts if one.leading == leading]
        trials = [trial for one in facts for trial in one.rows.complete]
        return [
            {
                "chart": self.chart(f"front-{name}-{x_key[4:]}{ending}", f"{y_key} against {x_key}", charts.draw_front,
                                    facts, x_key, y_key),
                "has_line": len(charts.pareto_front(facts, x_key, y_key)) > 1,
            }
            for x_key in ("val/relevance_gain", "val/sparsity")
            if sum({x_key, y_key} <= trial.metrics.keys() for trial in trials) > 1
        ]  # fmt: skip

    def _retrieval(self, name: str, facts: Sequence[StudyFacts]) -> dict[str, Any]:
        """Scores of ranked galleries by metric, their differences between studies, and the CMC curves of the same."""
        entries, by_name = ranked_alike(facts), {one.name: one for one in facts}
        compared = self._compared("retrieval", name, entries)
        if not compared["levels"]:
            return compared
        names, split = compared["names"], compared["about"]["split"]
        floors = floor_rows([by_name[name] for name in names])
        ranked = {one.name: one.retrieval for one in facts if one.retrieval is not None}
        curves = {name: scores_of(ranked[name]).cmc for name in names}
        cmc = self.chart(f"cmc-{name}", f"CMC curves of {split}", charts.draw_cmc, curves)
        others = ranked.keys() - {entry.name for entry in entries}
        notes = [
            *compared["notes"],
            *(f"{other}: not ranked on {split}, and left out here" for other in sorted(others)),
        ]
        return {**compared, "floors": floors, "cmc": cmc, "notes": notes}

    def _drawn(self, draw: Callable[[], T], otherwise: T) -> T:
        try:
            return draw()
        except AttnSearchError as error:  # a small copy that is damaged
            self.errors.append(str(error))
            return otherwise

    def _compared(self, what: str, name: str, entries: Sequence[ScoredTrial]) -> dict[str, Any]:
        """Means of scores by metric, and differences between the studies where they were measured alike."""
        if not entries:
            return {"levels": {}}
        notes: list[str] = []
        if len(entries) > 1:
            try:
                notes = check_comparable(entries)
            except ConfigError as error:
                entries, notes = entries[:1], [str(error)]
        comparison = compare(entries, metrics_of(entries, ()))
        levels = _by_metric(comparison.levels)
        chart = None  # of one study it would show nothing that its table does not
        if len(entries) > 1:
            chart = self.chart(f"{what}-{name}", f"Means and intervals of {what}", charts.draw_levels, levels)
        return {
            "levels": levels,
            "pairs": _by_metric([pair for pair in comparison.pairs if not is_raw(pair.metric)]),
            "notes": notes,
            "names": [entry.name for entry in entries],
            "chart": chart,
            "about": entries[0].table.about,
            "floors": {},
        }


def _by_metric(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Metric -> its rows, in their order."""
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        by_metric.setdefault(row.metric, []).append(row)
    return by_metric


def scored_alike(facts: Sequence[StudyFacts]) -> list[ScoredTrial]:
    """The scores of each study on one split: test if all that were scored have them there, else validation."""
    scored = [one for one in facts if one.scores]
    split: Split = "test" if all("test" in one.scores for one in scored) else "val"
    return [ScoredTrial(one.name, one.scores[split]) for one in scored if split in one.scores]


def leading_metrics(facts: Sequence[StudyFacts]) -> list[str]:
    """What the studies are compared by first: accuracy, mAP or both."""
    return list(dict.fromkeys(one.leading for one in facts))


def ranked_alike(facts: Sequence[StudyFacts]) -> list[ScoredTrial]:
    """The queries of each study of re-identification on one split: test where any has it, else validation."""
    ranked = [(one.name, one.archive, one.retrieval) for one in facts]
    split: Split = (
        "test" if any(archive and retrieval and archive.split == "test" for _, archive, retrieval in ranked) else "val"
    )
    return [
        ScoredTrial(name, query_table(retrieval, split=split, epoch=archive.epoch))
        for name, archive, retrieval in ranked
        if archive is not None and retrieval is not None and archive.split == split
    ]


def floor_rows(facts: Sequence[StudyFacts]) -> dict[str, list[float | None]]:
    """What needs no trained model: its name -> its value in each study, None where it was not measured."""
    names = dict.fromkeys(name for one in facts for name in one.floors)
    return {name: [one.floors.get(name) for one in facts] for name in names}


def camera_matrix_of(retrieval: Retrieval) -> NDArray[np.float64] | None:
    """As `matrix_of`; None also where retention removed the features, distances are too many, or torch is missing."""
    n_queries = len(retrieval.first_match)
    n_distances = n_queries * (len(retrieval.image_ids) - n_queries)
    if not retrieval.features.shape[1] or n_distances > MAX_DISTANCES:
        return None
    try:
        return matrix_of(retrieval)
    except ImportError:
        return None


def summary_row(facts: StudyFacts) -> dict[str, Any]:
    """One line of the summary table."""
    best = facts.best
    values = {} if best is None else dict(zip(facts.rows.objectives, best.values, strict=False))
    return {
        "facts": facts,
        "quality": facts.reader.summary().quality,
        "model": "" if facts.config is None else facts.config.model.name,
        "n_done": sum(trial.state in ("complete", "pruned") for trial in facts.rows.trials),
        "n_paused": facts.states().get("paused", 0),
        "n_failed": sum(trial.state == "fail" for trial in facts.rows.trials),
        "values": values,
        "errors": {} if best is None else facts.value_errors.get(best.number, {}),
        "val": {} if best is None else {key.removeprefix("val/"): value for key, value in best.metrics.items()},
        "time": duration(sum(trial.seconds for trial in facts.rows.trials)),
    }


def best_settings(facts: StudyFacts) -> list[tuple[str, str]]:
    """The hyperparameters of the best trial, after the settings that name its model and data."""
    if facts.best is None or facts.config is None:
        return []
    config = facts.config
    fixed = {"model.name": config.model.name, "model.backbone": getattr(config.model, "backbone", None)}
    fixed |= {"data.name": config.data.name, "data.image_size_px": config.data.image_size_px}
    fixed |= {"train.epochs": config.train.epochs, "train.batch_size": config.train.batch_size, "seed": config.seed}
    settings = {**{key: value for key, value in fixed.items() if value is not None}, **facts.best.params}
    return [(key, four_digits(value) if isinstance(value, float) else str(value)) for key, value in settings.items()]


def trial_table(facts: StudyFacts) -> dict[str, Any]:
    """The best trials first, then those that are paused or pruned; those that failed or wait come last."""
    keys = list(dict.fromkeys(key for trial in facts.rows.trials for key in trial.params))
    sign = -1 if next(iter(facts.rows.objectives.values()), "maximize") == "maximize" else 1

    def order(trial: TrialRow) -> tuple[bool, bool, float, int]:
        value = sign * trial.values[0] if trial.values else 0.0
        return (trial.state != "complete", not trial.values, value, trial.number)

    ranked = sorted(facts.rows.trials, key=order)
    return {
        "keys": keys,
        "short": [key.rpartition(".")[2] for key in keys],
        "rows": ranked[:MAX_TRIALS],
        "n_left_out": max(0, len(ranked) - MAX_TRIALS),
    }


def four_digits(value: float | None) -> str:
    """A number with four digits; `–` where it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def meaning_of(key: str) -> str:
    """What a metric is, in a line, and which way is better; empty for one that is not registered."""
    metric = metric_of(key)
    return "" if metric is None else f"{metric.summary}; {better_direction(key)} is better"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return "–" if not math.isfinite(value) else f"{value:+.3f}"


def p_value(value: float) -> str:
    """A p-value with three decimals, `< 0.001` where it is smaller."""
    return "–" if not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def write_page(report: Report, path: Path) -> None:
    """Writes the page, whole or not at all."""
    atomic_write(path, report.html)


def save_figures(report: Report, folder: Path) -> list[Path]:
    """Writes every chart as PDF."""
    paths = []
    for name, figure in report.figures.items():
        paths.append(folder / f"{name}.pdf")
        charts.save_pdf(figure, paths[-1])
    return paths
