"""What `faithfulness --references` and `--sanity` do: floors and ceilings to read scores against."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from attnsearch.cli._console import number, print_json, print_line, print_table
from attnsearch.cli.faithfulness import ScoringTarget
from attnsearch.files import atomic_write

if TYPE_CHECKING:
    from attnsearch.config.experiment import ExperimentConfig
    from attnsearch.store.image_scores import ScoreTable

OWN = "own map"


def check_references(text: str | None) -> list[str]:
    """The references that a comma-separated list names.

    Raises:
        ConfigError: one is unknown.
    """
    from attnsearch.evaluation.baselines import refuse_unknown  # imports torch

    names = text.split(",") if text else []
    refuse_unknown(names)
    return names


def print_references(
    target: ScoringTarget, config: ExperimentConfig, own: ScoreTable, names: Sequence[str], *, as_json: bool
) -> None:
    """Scores reference maps beside the model's own one, prints them and writes `references_<split>.csv`.

    Raises:
        ConfigError: a reference that this model or data set cannot have.
    """
    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.evaluation import Evaluation

    kept = target.layout.trial(target.number).kept
    with Evaluation.open(kept, open_data(config.data), config=config) as evaluation:
        found = {OWN: own, **evaluation.baselines(target.archive, names)}
    means = {name: table.means() for name, table in found.items()}
    path = target.layout.trial(target.number).references_csv(target.split)
    atomic_write(path, _to_csv(found))
    if as_json:
        for name, values in means.items():
            print_json({"map": name, "scores": values, "n_undefined": found[name].n_undefined()})
        return
    rows = [(metric, *(_shown(table, metric) for table in found.values())) for metric in means[OWN]]
    print_table(("score", *means), rows, title="beside maps that know nothing, and post-hoc maps of the same model")
    print_line(f"written: {path}")


def _shown(table: ScoreTable, metric: str) -> str:
    """The mean, and how many images it leaves out."""
    n_undefined = table.n_undefined().get(metric, 0)
    mean = number(table.means().get(metric))
    return f"{mean} ({n_undefined} undefined)" if n_undefined and mean != number(None) else mean


def _to_csv(found: Mapping[str, ScoreTable]) -> str:
    """A row per map; metrics that some map lacks on some images have a second column with their number."""
    metrics = list(found[OWN].means())
    counts = {name: table.n_undefined() for name, table in found.items()}
    counted = [metric for metric in metrics if any(metric in one for one in counts.values())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["map", *metrics, *(f"{metric}_undefined" for metric in counted)])
    for name, table in found.items():
        means = table.means()
        cells = (means.get(metric, float("nan")) for metric in metrics)
        numbers = (counts[name].get(metric, 0) for metric in counted)
        writer.writerow([name, *("" if value != value else repr(float(value)) for value in cells), *numbers])
    return text.getvalue()


def print_sanity(target: ScoringTarget, config: ExperimentConfig, table: ScoreTable, *, as_json: bool) -> None:
    """How similar the maps of the scored images stay while the weights are drawn anew, from the top down."""
    import numpy as np

    from attnsearch.data.loader import open_data  # these import torch
    from attnsearch.evaluation.evaluation import Evaluation

    kept = target.layout.trial(target.number).kept
    with Evaluation.open(kept, open_data(config.data), config=config) as evaluation:
        steps = evaluation.sanity(target.split, table.image_ids)
    rows = []
    for step in steps:
        defined = step.similarity[~np.isnan(step.similarity)]
        mean = float(defined.mean()) if len(defined) else float("nan")
        rows.append((", ".join(step.parts), mean, len(step.similarity) - len(defined)))
    if as_json:
        for parts, mean, n_undefined in rows:
            print_json({"redrawn": parts, "similarity": mean, "n_undefined": n_undefined})
        return
    cells = [(parts, number(mean), str(n_undefined or "")) for parts, mean, n_undefined in rows]
    title = "maps while weights are drawn anew, each step on top of those before; 1 is an unchanged order of the cells"
    print_table(("drawn anew", "rank correlation", "undefined"), cells, title=title)
