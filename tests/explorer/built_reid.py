"""Results of re-identification made on the spot: tall images, and galleries of which every rank is known.

Embeddings are directions in a plane, so that a distance is an angle and a cosine that of it. In degrees:

    query                angle   gallery by distance (identity, camera; * match, - removed)
    0  0001, camera 1      0     5 0001 c1 -, 10 0000 c2, 20 0001 c2 *, 30 0003 c3, 40 0002 c2, 50 0001 c3 *, ...
    1  0002, camera 1     90     2 0002 c1 -, 5 0002 c3 *, 40 0001 c3, 50 0002 c2 *, ...
    2  0003, camera 2    180     5 0003 c1 *, 85, 88, 91, 130, 140, 150 0003 c3 *, ...
    3  0004, camera 3    270     1 0004 c3 -, 60 0003 c3, ...

Average precisions: (1/2 + 2/5) / 2 = 0.45, (1 + 2/3) / 2 = 0.8333, (1 + 2/7) / 2 = 0.6429; query 3 has no match. In
trial t the image at 20 degrees stands at 20 + 25 t: in trial 1 query 0 has its matches at ranks 4 and 5, and 0.325.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, resolved_study
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer
from attnsearch.data.tables import ImageTable
from attnsearch.store.archive import ArchiveWriter
from attnsearch.store.layout import StudyLayout
from attnsearch.store.trial_layout import ArchivePaths
from attnsearch.tasks.retrieval import rank_split
from attnsearch.types import AttentionArchive, EpochRecord, Retrieval, Split
from tests.explorer.built import SPACE, Built, fill_database, write_copies

SIZE_HW, MAP_HW = (128, 64), (8, 4)
CAMERAS = ("1", "2", "<i>3</i>")
"""The last name is hostile: it must be shown as it is written."""
COLOURS = {"0001": "crimson", "0002": "royalblue", "0003": "darkorange", "0004": "seagreen", "0000": "gray"}
FLOORS = ("gainsboro", "wheat", "lightsteelblue")


@dataclass(frozen=True)
class Planted:
    """One image: identity, position of its camera, direction of its embedding in degrees."""

    identity: str
    camera: int
    angle: float
    is_query: bool = False

    def image_id(self, row: int) -> str:
        return f"val/{self.identity}_c{self.camera + 1}_{row:02d}.jpg"


PLANTED = (
    *(Planted("0001", 0, 0, True), Planted("0002", 0, 90, True), Planted("0003", 1, 180, True)),
    *(Planted("0004", 2, 270, True), Planted("0001", 0, 5), Planted("0000", 1, 10), Planted("0001", 1, 20)),
    *(Planted("0002", 1, 40), Planted("0001", 2, 50), Planted("0002", 0, 92), Planted("0002", 2, 95)),
    *(Planted("0003", 0, 185), Planted("0003", 2, 330), Planted("0004", 2, 271)),
)
MOVED, UNARCHIVED = 6, 12
"""Rows of the image that stands elsewhere in each trial, and of the one whose maps are not archived."""


def loaded_reid(data_root: Path, **study: Any) -> LoadedStudy:
    """The settings of the study; keyword arguments are fields of it."""
    experiment = {
        "name": "seek",
        "experiment": "here",
        "data": {"name": "reid_folder", "root": str(data_root), "image_size_px": list(SIZE_HW), "crop_ratio": 1.0},
        "task": {"name": "reid"},
        "model": {"name": "br_npa", "backbone": "resnet10t", "width": 0.25},
        "train": {"epochs": 3, "batch_size": 8},
        "monitor": "val/mAP",
    }
    objectives = {"val/mAP": "maximize", "val/sparsity": "minimize"}
    values = {"name": "seek", "base": experiment, "space": SPACE, "n_trials": 4, "objectives": objectives, **study}
    values.setdefault("monitor", "val/mAP")
    return LoadedStudy(validate(StudyConfig, Layer(values)), validate(ExperimentConfig, Layer(experiment)))


def build_reid(folder: Path, *, n_trials: int = 2) -> Built:
    """Writes a study of re-identification with the ranked galleries above."""
    data_root, root = folder / "pictures", folder / "results"
    table = planted_table(data_root)
    draw_individuals(data_root)
    settings = loaded_reid(data_root, n_trials=max(1, n_trials))
    layout = StudyLayout(root, "here", "seek")
    layout.study_dir.mkdir(parents=True)
    layout.study_yaml.write_text(resolved_study(settings), encoding="utf-8")
    archived = [row for row in range(len(PLANTED)) if row != UNARCHIVED]
    rankings = [rank_split(table, planted_features(number), distance="euclidean") for number in range(n_trials)]
    fill_database(
        layout,
        settings,
        n_trials,
        3,
        values_of=lambda number: trial_values(rankings[number][1]),
        records_of=lambda number, n_epochs: epoch_records(rankings[number][1], n_epochs),
    )
    for number, (retrieval, _) in enumerate(rankings):
        write_rankings(layout.trial(number).archive("val"), retrieval, rows=archived, saliency=planted_saliency(number))
    write_copies(layout, data_root, table.image_ids)
    return Built(root, data_root, layout)


def planted_table(root: Path) -> ImageTable:
    """The split of the images above."""
    names = tuple(sorted(COLOURS))
    ids = tuple(one.image_id(row) for row, one in enumerate(PLANTED))
    return ImageTable(
        split="val",
        class_names=names,
        image_ids=ids,
        paths=tuple(root / one for one in ids),
        labels=np.array([names.index(one.identity) for one in PLANTED], dtype=np.int64),
        camera_names=CAMERAS,
        cameras=np.array([one.camera for one in PLANTED], dtype=np.int64),
        is_query=np.array([one.is_query for one in PLANTED]),
        match_rule="camera",
    )


def planted_features(number: int) -> NDArray[np.float32]:
    """(N, 2) of one trial."""
    angles = [one.angle + 25 * number * (row == MOVED) for row, one in enumerate(PLANTED)]
    return np.stack([np.cos(np.deg2rad(angles)), np.sin(np.deg2rad(angles))], axis=1).astype(np.float32)


def planted_saliency(number: int) -> NDArray[np.float32]:
    """(N, h, w): one strong cell, in another row of the map for each image."""
    maps = np.zeros((len(PLANTED), *MAP_HW), dtype=np.float32)
    for row in range(len(PLANTED)):
        maps[row, row % MAP_HW[0], 1] = 1 + number + row
    return maps


def draw_individuals(root: Path) -> None:
    """The data set: the images above as `val`, some more as `train`, and the list that names them."""
    lines = ["image,identity,camera,split"]
    for row, one in enumerate(PLANTED):
        lines.append(f"{one.image_id(row)},{one.identity},{CAMERAS[one.camera]},val")
        draw_one(root / one.image_id(row), COLOURS[one.identity], FLOORS[one.camera])
    for label, camera in [(label, camera) for label in range(4) for camera in range(2)]:
        image_id = f"train/{label + 11:04d}_c{camera + 1}.jpg"
        lines.append(f"{image_id},{label + 11:04d},{CAMERAS[camera]},train")
        draw_one(root / image_id, "black", FLOORS[camera])
    (root / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_one(path: Path, colour: str, floor: str) -> None:
    """A round head on a body, twice as tall as wide: what is squashed has no round head."""
    image = Image.new("RGB", SIZE_HW[::-1], floor)
    draw = ImageDraw.Draw(image)
    draw.ellipse((22, 8, 42, 28), fill="magenta")
    draw.rectangle((16, 30, 48, 80), fill=colour)
    draw.rectangle((20, 80, 44, 120), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95)


def trial_values(metrics: dict[str, float]) -> dict[str, float]:
    """What a trial measured: its objectives and the other metrics of its split."""
    return {**{f"val/{name}": value for name, value in metrics.items()}, "val/sparsity": 1 - metrics["mAP"]}


def epoch_records(metrics: dict[str, float], n_epochs: int) -> list[EpochRecord]:
    """Epochs of training and validation, the last one with these metrics."""
    measured = {"n_images": 8, "terms": {}, "lr": 0.1, "seconds": 2.0, "images_per_s": 4.0, "peak_memory_mb": 10.0}
    return [
        EpochRecord(epoch=epoch, split=split, loss=1.0 / epoch, metrics=values, **measured)  # type: ignore[arg-type]
        for epoch in range(1, n_epochs + 1)
        for split, values in (
            ("train", {"identity_accuracy": 1 - 1 / (epoch + 1)}),
            ("val", {name: value * epoch / n_epochs for name, value in metrics.items()}),
        )
    ]


def write_rankings(
    paths: ArchivePaths,
    retrieval: Retrieval,
    *,
    rows: Sequence[int],
    saliency: NDArray[np.float32],
    split: Split = "val",
) -> None:
    """The archive of a split with its retrieval.

    Args:
        rows: of the split, those whose maps are archived.
        saliency: (N, h, w), of the whole split.
    """
    chosen = np.asarray(rows)
    labels = retrieval.labels[chosen]
    part = AttentionArchive(
        image_ids=tuple(retrieval.image_ids[row] for row in rows),
        labels=labels,
        predictions=labels,
        confidences=np.ones(len(rows), dtype=np.float32),
        sizes_hw=np.tile(np.array(SIZE_HW, dtype=np.int64), (len(rows), 1)),
        crop_boxes=np.tile(np.array([0, 0, *SIZE_HW[::-1]], dtype=np.float64), (len(rows), 1)),
        class_names=retrieval.identities,
        map_names=("part1",),
        maps=saliency[chosen][:, None],
        norms=None,
        saliency=saliency[chosen],
        config_digest="d",
        epoch=3,
        split=split,
    )
    with ArchiveWriter(paths, len(rows)) as writer:
        writer.append(part)
        writer.finish(retrieval)
