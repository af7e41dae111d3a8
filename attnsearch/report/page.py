"""One HTML file that tells of all studies of an experiment; it needs no network, so that a person can mail it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from attnsearch.errors import AttnSearchError, ConfigError
from attnsearch.evaluation.compare import Comparison, ScoredTrial, check_comparable, compare, metrics_of
from attnsearch.files import atomic_write
from attnsearch.metrics.classification import confusion_matrix, most_confused
from attnsearch.metrics.registry import is_raw, score_metrics, title_of
from attnsearch.report import charts
from attnsearch.report.facts import StudyFacts, read_facts
from attnsearch.results.reader import load_results
from attnsearch.search.trials import TrialRow
from attnsearch.store.study_files import describe_environment
from attnsearch.types import Split

MAX_TRIALS = 20
MAX_PAIRS = 10
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
    studies = [read_facts(study) for study in results]
    facts = [study for study in studies if isinstance(study, StudyFacts)]
    errors = [study for study in studies if isinstance(study, str)] + [text for one in facts for text in one.errors]
    experiments = results.experiments
    title = ", ".join(experiments)
    page = _Page(title)
    values = {
        "title": title,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": describe_environment(),
        "raw": [metric.name for metric in score_metrics() if metric.is_raw],
        "summary": [summary_row(one) for one in facts],
        "studies": [page.study(one) for one in facts],
        "experiments": [
            page.experiment(name, [f for f in facts if f.layout.experiment == name]) for name in experiments
        ],
        "commands": [command for one in facts for command in commands(one)],
    }
    values["errors"] = [error.replace(f"{folder.absolute()}/", "") for error in [*errors, *page.errors]]
    environment = Environment(
        loader=PackageLoader("attnsearch.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": four_digits, "p": p_value, "signed": signed, "title": title_of}
    html = environment.get_template("page.html").render(values)
    return Report(title, html, page.figures)


class _Page:
    """Collects charts while the sections are made."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: dict[str, Figure] = {}
        self.errors: list[str] = []

    def chart(self, name: str, title: str, figure: Figure) -> Markup:
        self.figures[name] = figure
        return Markup(charts.to_svg(figure, name, title))

    def study(self, facts: StudyFacts) -> dict[str, Any]:
        """One study: its best settings, trials, curves, importances and confusions."""
        key = f"{facts.layout.experiment}-{facts.name}"
        curves = shares = None
        if facts.epochs:
            curves = self.chart(
                f"curves-{key}", f"Learning curves of {facts.name}", charts.styled(charts.draw_learning_curves, facts)
            )
        if facts.importances:
            figure = charts.styled(charts.draw_importances, facts.importances)
            shares = self.chart(f"importance-{key}", f"Importance of the hyperparameters of {facts.name}", figure)
        return {
            "facts": facts,
            "id": key,
            "states": facts.states(),
            "settings": best_settings(facts),
            "trials": trial_table(facts),
            "curves": curves,
            "importance": shares,
            **self._confusion(facts, key),
        }

    def _confusion(self, facts: StudyFacts, key: str) -> dict[str, Any]:
        archive = facts.archive
        if archive is None:
            return {"pairs": [], "confusion": None, "split": "", "n_images": 0}
        matrix = confusion_matrix(archive.labels, archive.predictions, len(archive.class_names))
        names = archive.class_names
        pairs = [(names[one.first], names[one.second], one) for one in most_confused(matrix, n_pairs=MAX_PAIRS)]
        drawn = None
        if len(names) <= MAX_CLASSES:
            figure = charts.styled(charts.draw_confusion, matrix, names)
            drawn = self.chart(f"confusion-{key}", f"Confusion matrix of {facts.name}", figure)
        return {"pairs": pairs, "confusion": drawn, "split": archive.split, "n_images": len(archive.image_ids)}

    def experiment(self, name: str, facts: Sequence[StudyFacts]) -> dict[str, Any]:
        """What the studies of an experiment say together: front, faithfulness, images."""
        fronts = []
        for x_key in ("val/relevance_gain", "val/sparsity"):
            both = [t for one in facts for t in one.rows.trials if {x_key, "val/accuracy"} <= t.metrics.keys()]
            if len([t for t in both if t.state == "complete"]) > 1:
                figure = charts.styled(charts.draw_front, facts, x_key, "val/accuracy")
                chart = f"front-{name}-{x_key.partition('/')[2]}"
                fronts.append(self.chart(chart, f"val/accuracy against {x_key}", figure))
        return {
            "name": name,
            "fronts": fronts,
            "faithfulness": self._faithfulness(name, facts),
            "sheets": self._sheets(facts),
        }

    def _sheets(self, facts: Sequence[StudyFacts]) -> list[charts.Sheet]:
        try:
            return charts.sample_sheets(facts)
        except AttnSearchError as error:  # a small copy that is damaged
            self.errors.append(str(error))
            return []

    def _faithfulness(self, name: str, facts: Sequence[StudyFacts]) -> dict[str, Any]:
        entries = scored_alike(facts)
        if not entries:
            return {"levels": {}, "pairs": {}, "notes": [], "names": [], "chart": None, "about": {}}
        notes: list[str] = []
        comparison = Comparison((), (), {}, {})
        try:
            notes = check_comparable(entries) if len(entries) > 1 else []
            comparison = compare(entries, metrics_of(entries, ()))
        except ConfigError as error:
            notes = [str(error)]
            entries = entries[:1]
            comparison = compare(entries, metrics_of(entries, ()))
        pairs: dict[str, list[Any]] = {}
        for pair in comparison.pairs:
            if not is_raw(pair.metric):
                pairs.setdefault(pair.metric, []).append(pair)
        levels: dict[str, list[Any]] = {}
        for level in comparison.levels:
            levels.setdefault(level.metric, []).append(level)
        shown = {key: [(one.name, one.mean, one.low, one.high) for one in rows] for key, rows in levels.items()}
        figure = charts.styled(charts.draw_levels, shown)
        return {
            "levels": levels,
            "pairs": pairs,
            "notes": notes,
            "names": [entry.name for entry in entries],
            "chart": self.chart(f"faithfulness-{name}", "Means and intervals of the scores", figure),
            "about": entries[0].table.about,
        }


def scored_alike(facts: Sequence[StudyFacts]) -> list[ScoredTrial]:
    """The scores of each study on one split: test if all that were scored have them there, else validation."""
    scored = [one for one in facts if one.scores]
    split: Split = "test" if all("test" in one.scores for one in scored) else "val"
    return [ScoredTrial(one.name, one.scores[split]) for one in scored if split in one.scores]


def summary_row(facts: StudyFacts) -> dict[str, Any]:
    """One line of the summary table."""
    best = facts.best
    values = {} if best is None else dict(zip(facts.rows.objectives, best.values, strict=False))
    return {
        "facts": facts,
        "model": "" if facts.config is None else facts.config.model.name,
        "n_done": sum(trial.state in ("complete", "pruned") for trial in facts.rows.trials),
        "n_failed": sum(trial.state == "fail" for trial in facts.rows.trials),
        "values": values,
        "val_accuracy": math.nan if best is None else best.metrics.get("val/accuracy", math.nan),
        "val_sparsity": math.nan if best is None else best.metrics.get("val/sparsity", math.nan),
        "test_accuracy": facts.test.get("accuracy", math.nan),
        "hours": f"{sum(trial.seconds for trial in facts.rows.trials) / 3600:.1f}",
    }


def best_settings(facts: StudyFacts) -> list[tuple[str, str]]:
    """What was searched, as it was found, and what tells a reader which model this is."""
    if facts.best is None or facts.config is None:
        return []
    config = facts.config
    fixed = {"model.name": config.model.name, "model.backbone": getattr(config.model, "backbone", None)}
    fixed |= {"data.name": config.data.name, "data.image_size_px": config.data.image_size_px}
    fixed |= {"train.epochs": config.train.epochs, "train.batch_size": config.train.batch_size, "seed": config.seed}
    found = {**{key: value for key, value in fixed.items() if value is not None}, **facts.best.params}
    return [(key, four_digits(value) if isinstance(value, float) else str(value)) for key, value in found.items()]


def trial_table(facts: StudyFacts) -> dict[str, Any]:
    """The best trials first; those that failed or wait come last."""
    keys = list(dict.fromkeys(key for trial in facts.rows.trials for key in trial.params))
    sign = -1 if next(iter(facts.rows.objectives.values()), "maximize") == "maximize" else 1

    def order(trial: TrialRow) -> tuple[bool, float, int]:
        return (trial.state != "complete", sign * trial.values[0] if trial.values else 0.0, trial.number)

    ranked = sorted(facts.rows.trials, key=order)
    return {
        "keys": keys,
        "short": [key.rpartition(".")[2] for key in keys],
        "rows": ranked[:MAX_TRIALS],
        "n_left_out": max(0, len(ranked) - MAX_TRIALS),
    }


def commands(facts: StudyFacts) -> list[tuple[str, str]]:
    """What each number can be made again with, run beside a folder `results` that holds this experiment."""
    if facts.best is None:
        return []
    layout = replace(facts.layout, root=Path("results"))
    number_ = facts.best.number
    config = layout.trial(number_).config
    lines = [] if facts.is_run else [("the search", f"attnsearch search {layout.study_yaml}")]
    lines.append(("its best trial", f"attnsearch train {config} name={facts.name}_again"))
    if not facts.is_run:
        evaluate = f"attnsearch evaluate {facts.title} --trial {number_} --split"
        lines.append(("val numbers", f"{evaluate} val"))
        lines += [("test numbers", f"{evaluate} test")] if facts.test else []
    if facts.archive is not None:
        split = facts.archive.split
        visualize = f"attnsearch visualize {facts.title}:{number_} --split {split} --per-class 1"
        lines.append(("images", visualize))
    return [(f"{facts.name}: {what}", command) for what, command in lines]


def four_digits(value: float | None) -> str:
    """Four digits; `–` where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return "–" if not math.isfinite(value) else f"{value:+.3f}"


def p_value(value: float) -> str:
    """`< 0.001` below that."""
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
