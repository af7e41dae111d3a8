"""Which map explains a match? Scores of each family's own map and of baselines, on queries of synthetic individuals.

    python tests/benchmarks/match_maps.py --folder FOLDER [--families cnn,br_npa,…] [--queries 96]

Each family is trained on `individuals` (64 of them, 128 x 64 px) and its test queries are explained against their
nearest match. FOLDER keeps the checkpoints, so that a second run only scores. Printed are means with 95 % bootstrap
intervals over the queries. `untrained` is the family's own map under random weights, scored for the trained model.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.loader import DataSource, open_data
from attnsearch.evaluation.compare import mean_intervals
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.models import build_model
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import TrialLayout
from attnsearch.tasks.base import build_task
from attnsearch.training.trainer import fit

RESNET = {"backbone": "resnet18", "width": 0.25}
VIT = {"backbone": "deit_tiny_patch16_224", "width": 2 / 3, "depth": 4, "stem": "conv", "position_grid": [8, 4]}
FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "cnn": ({**RESNET, "stride_stage4": 1}, 30),
    "plain": ({**RESNET, "last_stride": 1}, 12),
    "br_npa": ({**RESNET, "stride_stage4": 1}, 12),
    "b_cnn": ({**RESNET, "stride_stage4": 1}, 30),
    "loupe": ({**RESNET, "last_stride": 1}, 12),
    "dcal": ({**VIT, "top_k_ratio": 0.3}, 24),
}
"""Family -> settings of its model, and epochs."""
COLUMNS = ("relevance_gain", "ap_relevance_gain", "energy_in_mask")
BASELINES = ("parts", "occlusion", "gradcam", "centre", "random")


@dataclass
class Context:
    """A trial that nothing stops."""

    directory: Path
    number: int = 0
    attempt: int = 1
    seed: int = 1

    def check(self) -> None: ...

    def record(self, records: list[Any]) -> None: ...

    def report(self, value: float, epoch: int) -> None: ...

    def should_prune(self) -> bool:
        return False


def config_of(family: str, n_threads: int) -> ExperimentConfig:
    """How a family is trained."""
    model, epochs = FAMILIES[family]
    is_vit = family == "dcal"
    settings = {
        "name": family,
        "data": {"name": "individuals", "pad_px": 5, "erase": 0.5},
        "model": {"name": family, **model},
        "task": {"name": "reid"},
        "monitor": "val/mAP",
        "train": {
            **{"epochs": epochs, "batch_size": 64, "precision": "fp32", "label_smoothing": 0.1},
            "optimizer": {"name": "adamw", "lr": 1.5e-3 if is_vit else 3e-3, "weight_decay": 0.05},
            "schedule": {"name": "cosine", "warmup_epochs": 2 if is_vit else 0},
        },
        "runtime": {"device": "cpu", "n_threads": n_threads},
    }
    return ExperimentConfig.model_validate_json(json.dumps(settings))


def trained(config: ExperimentConfig, files: TrialLayout, data: DataSource) -> Evaluation:
    """The best checkpoint of a family, trained unless it is there, with an archive of the test images."""
    if not files.best.exists():
        files.directory.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        fit(config, Context(files.directory), data=data)
        print(f"{config.name}: trained in {time.process_time() - start:.0f} processor seconds", flush=True)
    evaluation = Evaluation.open(files.best, data, config=config)
    metrics = evaluation.run("test", archive=files.archive("test"))
    print(f"{config.name}: test mAP {metrics['test/mAP']:.3f}, rank-1 {metrics['test/rank1']:.3f}", flush=True)
    return evaluation


def untrained_layout(evaluation: Evaluation, files: TrialLayout) -> TrialLayout:
    """A copy of the archive with the saliency of the same model under random weights."""
    torch.manual_seed(7)
    heads = build_task(evaluation.config.task).heads(len(evaluation.class_names))
    model = build_model(evaluation.config.model, heads).eval()
    with torch.no_grad():
        maps = [model.saliency(model(batch, maps=()), batch.labels) for batch in evaluation.batches("test")]
    other = TrialLayout(files.directory / "untrained")
    other.directory.mkdir(exist_ok=True)
    pairs = zip(files.archive("test").all, other.archive("test").all, strict=True)
    for source, copy in ((source, copy) for source, copy in pairs if source.exists()):
        shutil.copy(source, copy)
    np.save(other.archive("test").saliency, torch.cat(maps).float().numpy())
    return other


def tables(evaluation: Evaluation, files: TrialLayout, n_queries: int) -> Iterator[tuple[str, ScoreTable]]:
    """The scores of each map by its name."""
    settings = ScoreSettings(families=("faithfulness", "localisation"), n_images=n_queries, target="label")
    for name, layout in (("own map", files), ("untrained", untrained_layout(evaluation, files))):
        yield name, evaluation.score(layout.archive("test"), layout.scores("test"), settings=settings)
    extra = ("gradient_rollout",) if evaluation.config.model.name == "dcal" else ("pair",)
    for name in (*BASELINES, *extra):
        yield name, evaluation.baselines(files.archive("test"), [name], settings=settings)[name]


def row_of(family: str, name: str, table: ScoreTable) -> str:
    """One line of the table of the page."""
    intervals = mean_intervals(table)
    cells = [f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})" for one in (intervals[key] for key in COLUMNS)]
    return f"| `{family}` | {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--queries", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for family in arguments.families.split(","):
        config = config_of(family, arguments.threads)
        files, data = TrialLayout(arguments.folder / family), open_data(config.data)
        evaluation = trained(config, files, data)
        for name, table in tables(evaluation, files, arguments.queries):
            print(row_of(family, name, table), flush=True)


if __name__ == "__main__":
    main()
