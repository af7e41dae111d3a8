"""Does the published saliency lie on the planted parts? Hit rate of a study's best trial on test, beside three floors.

    attnsearch search br_npa_low_res --profile demo
    python tests/benchmarks/localisation.py results/demo br_npa_low_res

A hit: the most salient cell of the map (the first one of equals) touches the mask of the discriminative parts. All
floors are on the grid of the map: a cell chosen at random, the best *fixed* cell, and the same network without training
(mean over seeds). The best fixed cell of a 12 x 12 grid is printed as a property of the images.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from attnsearch.config.data import SyntheticData
from attnsearch.config.load import load_experiment
from attnsearch.data.loader import BatchLoader, DataSource, open_data
from attnsearch.models import build_model
from attnsearch.store.archive import read_archive
from attnsearch.store.layout import ExperimentLayout
from attnsearch.tasks.classification import LinearHeads

Masks = NDArray[np.bool_]


def read_masks(data: DataSource, *, batch_size: int = 64) -> tuple[Masks, torch.Tensor]:
    """Part masks (N, S, S) and images (N, 3, S, S) of the test split, as the model sees them."""
    loader = BatchLoader(
        data,
        "test",
        batch_size=batch_size,
        device="cpu",
        with_masks=True,
    )
    batches = list(loader.epoch(1))
    masks = [batch.part_masks for batch in batches if batch.part_masks is not None]
    return torch.cat(masks).numpy(), torch.cat([batch.images for batch in batches])


def touched(masks: Masks, height: int, width: int) -> Masks:
    """(N, height, width): whether any pixel of a cell lies on a part; cells cut the image as evenly as they can."""
    side = masks.shape[1]
    rows, columns = (np.arange(n + 1) * side // n for n in (height, width))
    cells = [
        [masks[:, rows[i] : rows[i + 1], columns[j] : columns[j + 1]].any(axis=(1, 2)) for j in range(width)]
        for i in range(height)
    ]
    return np.array(cells).transpose(2, 0, 1)


def hits(saliency: NDArray[np.float32], masks: Masks) -> NDArray[np.bool_]:
    """Per image, whether the most salient cell touches a part."""
    n_images, height, width = saliency.shape
    chosen = saliency.reshape(n_images, -1).argmax(axis=1)
    found: NDArray[np.bool_] = touched(masks, height, width).reshape(n_images, -1)[np.arange(n_images), chosen]
    return found


def best_fixed_cell(masks: Masks, height: int, width: int) -> float:
    """The largest fraction of images in which one and the same cell touches a part."""
    return float(touched(masks, height, width).mean(axis=0).max())


def wilson(rate: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a rate over n images."""
    z = 1.96
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), middle + half


def untrained(config_path: Path, images: torch.Tensor, masks: Masks, *, n_seeds: int) -> list[float]:
    """Hit rate of the same network before training, for several seeds."""
    from attnsearch.types import Batch

    config = load_experiment(str(config_path))
    assert isinstance(config.data, SyntheticData)
    n_classes = config.data.n_classes
    rates = []
    for seed in range(n_seeds):
        torch.manual_seed(seed)
        model = build_model(config.model, LinearHeads(n_classes)).eval()
        labels = torch.zeros(len(images), dtype=torch.int64)
        batch = Batch(images, labels, tuple(map(str, range(len(images)))), labels)
        with torch.no_grad():
            output = model(batch, maps=())
        rates.append(float(hits(model.saliency(output, labels).numpy(), masks).mean()))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path, help="such as results/demo")
    parser.add_argument("study")
    parser.add_argument("--untrained-seeds", type=int, default=10)
    arguments = parser.parse_args()
    layout = ExperimentLayout.at(arguments.experiment).study(arguments.study)
    chosen = json.loads(layout.published_json.read_text())["sets"][0]
    config_path = layout.trial(chosen["trial"]).config
    data = open_data(load_experiment(str(config_path)).data)
    masks, images = read_masks(data)
    archive = read_archive(layout.published(chosen["epoch"]).archive("test"))
    assert archive.saliency is not None
    rate = float(hits(np.asarray(archive.saliency), masks).mean())
    low, high = wilson(rate, len(masks))
    floors = untrained(config_path, images, masks, n_seeds=arguments.untrained_seeds)
    print(f"{arguments.study}, trial {chosen['trial']}, {len(masks)} test images, map {archive.saliency.shape[1:]}")
    grid = archive.saliency.shape[1:]
    print(f"hit rate             {rate:.3f}  (95 % {low:.3f} to {high:.3f})")
    print(f"cell at random       {touched(masks, *grid).mean():.3f}")
    print(f"best fixed cell      {best_fixed_cell(masks, *grid):.3f}")
    print(f"untrained net        {np.mean(floors):.3f}  ({min(floors):.3f} to {max(floors):.3f}, {len(floors)} seeds)")
    print(f"best of 12 x 12      {best_fixed_cell(masks, 12, 12):.3f}  (parts cover {masks.mean():.3f} of the area)")


if __name__ == "__main__":
    main()
