"""Which map explains a match? Scores of each family's own map, of other maps and of floors, on synthetic individuals.

    PYTHONPATH=. python tests/benchmarks/match_maps.py --folder FOLDER [--families cnn,br_npa,…] [--queries 128]

Each family is trained as the demo of its study does (128 x 64 px, 48 training identities), and its test queries are
explained by the cosine with their nearest match. FOLDER keeps the checkpoints, so that a second run only scores.
Printed are means with 95 % bootstrap intervals over the queries. `untrained` maps are those of the same model under
random weights, scored for the trained one.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment
from attnsearch.data.loader import DataSource, open_data
from attnsearch.data.tables import places_of
from attnsearch.evaluation.baselines import OCCLUSION
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.metrics.statistics import mean_interval
from attnsearch.models import build_model
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.tasks.base import build_task
from attnsearch.training.trainer import fit
from tests.tiny import RecordingContext

OTHER_MODEL = ("model.stride_stage4=1", "model.backbone=resnet18", "model.width=0.25", "model.weights=none")
FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "cnn": ("cnn_market1501", ()),
    "br_npa": ("br_npa_market1501", ()),
    "b_cnn": ("cnn_market1501", ("model.name=b_cnn", "train.epochs=40", *OTHER_MODEL)),
    "loupe": ("loupe_market1501", ()),
    "plain": ("loupe_market1501", ("model.name=plain", "model.last_stride=1", *OTHER_MODEL[1:])),
    "dcal": ("dcal_market1501", ()),
}
"""Family -> the experiment whose demo it is trained as, and changed settings."""
COLUMNS = ("relevance_gain", "ap_relevance_gain", "energy_in_mask")
BASELINES = ("parts", OCCLUSION, "gradcam", "centre", "random")


def opened(config: ExperimentConfig, files: TrialLayout, data: DataSource) -> Evaluation:
    """A checkpoint with an archive of the test images."""
    evaluation = Evaluation.open(files.best, data, config=config)
    metrics = evaluation.run("test", archive=files.archive("test"))
    print(f"{files.directory}: test mAP {metrics['test/mAP']:.3f}, rank-1 {metrics['test/rank1']:.3f}", flush=True)
    return evaluation


def trained(config: ExperimentConfig, files: TrialLayout, data: DataSource) -> Evaluation:
    """The best checkpoint of a family, trained unless it is there."""
    if not files.best.exists():
        files.directory.mkdir(parents=True, exist_ok=True)
        start = time.process_time()
        fit(config, RecordingContext(files.directory), data=data)
        print(f"{files.directory}: trained in {time.process_time() - start:.0f} processor seconds", flush=True)
    return opened(config, files, data)


def untrained(of_trained: Evaluation, files: TrialLayout) -> Evaluation:
    """The same model under random weights."""
    torch.manual_seed(7)
    evaluation = Evaluation.open(of_trained.checkpoint.path, of_trained.data, config=of_trained.config)
    heads = build_task(of_trained.config.task).heads(len(of_trained.class_names))
    evaluation.model.load_state_dict(build_model(of_trained.config.model, heads).state_dict())
    files.directory.mkdir(exist_ok=True)
    evaluation.run("test", archive=files.archive("test"))
    return evaluation


def occluded(evaluation: Evaluation, files: TrialLayout, ids: tuple[str, ...], settings: ScoreSettings) -> np.ndarray:
    """Maps (N, h, w) of all archived images; those of the named queries are occlusions of the model's own cosine."""
    archived = read_archive(files.archive("test"))
    assert archived.saliency is not None
    maps = np.zeros_like(archived.saliency)
    rows, places = places_of(ids, evaluation.table("test").image_ids), places_of(ids, archived.image_ids)
    target = evaluation.task.archived_target(archived, places, choice=settings.target)
    scorer, grid = SaliencyScorer(evaluation, settings), (maps.shape[1], maps.shape[2])
    for start in range(0, len(rows), 16):
        chunk = slice(start, start + 16)
        batch = evaluation.loader("test").batch(rows[chunk], with_masks=False)
        maps[places[chunk]] = scorer.baseline(OCCLUSION, batch, target.take(chunk), grid).cpu().numpy()
    return maps


def with_maps(source: TrialLayout, copy: TrialLayout, maps: np.ndarray) -> TrialLayout:
    """A copy of an archive with other saliency maps (N, h, w)."""
    copy.directory.mkdir(exist_ok=True)
    for one, other in zip(source.archive("test").all, copy.archive("test").all, strict=True):
        if one.exists():
            shutil.copy(one, other)
    np.save(copy.archive("test").saliency, maps)
    return copy


def tables(evaluation: Evaluation, files: TrialLayout, n_queries: int) -> Iterator[tuple[str, ScoreTable]]:
    """The scores of each map by its name."""
    settings = ScoreSettings(families=("faithfulness", "localisation"), n_images=n_queries, target="label")
    own = evaluation.score(files.archive("test"), files.scores("test"), settings=settings)
    yield "own", own
    extra = ("gradient_rollout",) if evaluation.config.model.name == "dcal" else ("pair",)
    for name in (*BASELINES, *extra):
        yield name, evaluation.baselines(files.archive("test"), [name], settings=settings)[name]
    random_files = TrialLayout(files.directory / "untrained")
    random_model = untrained(evaluation, random_files)
    floors = {
        "untrained, own": np.load(random_files.archive("test").saliency),
        "untrained, occlusion": occluded(random_model, random_files, tuple(own.image_ids), settings),
    }
    for number, (name, maps) in enumerate(floors.items()):
        layout = with_maps(files, TrialLayout(files.directory / f"floor_{number}"), maps)
        yield name, evaluation.score(layout.archive("test"), layout.scores("test"), settings=settings)


def row_of(family: str, name: str, table: ScoreTable) -> str:
    """One line of the table of the page."""
    values = table.defined_values()
    intervals = [mean_interval(values[key]) for key in COLUMNS]
    cells = [f"{one.mean:.2f} ({one.low:.2f} to {one.high:.2f})" for one in intervals]
    return f"| `{family}` | {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--families", default=",".join(FAMILIES))
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for family in arguments.families.split(","):
        experiment, changed = FAMILIES[family]
        overrides = (*changed, f"runtime.n_threads={arguments.threads}", "runtime.device=cpu")
        config = load_experiment(experiment, profile="demo", overrides=overrides)
        files, data = TrialLayout(arguments.folder / family), open_data(config.data)
        evaluation = trained(config, files, data)
        for name, table in tables(evaluation, files, arguments.queries):
            print(row_of(family, name, table), flush=True)


if __name__ == "__main__":
    main()
