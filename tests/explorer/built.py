"""Results made on the spot: real images, a small Optuna study, and maps of which every cell is known."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution
from PIL import Image

from attnsearch import geometry
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import LoadedStudy, resolved_study
from attnsearch.config.study import StudyConfig
from attnsearch.config.validation import validate
from attnsearch.config.yaml_layers import Layer, to_yaml
from attnsearch.data.images import open_upright
from attnsearch.explorer.server import RunningServer, open_server
from attnsearch.results.reader import find_experiments
from attnsearch.search.handle import create_handle
from attnsearch.search.study import study_identity
from attnsearch.store.archive import ArchiveWriter
from attnsearch.store.epochs import write_csv
from attnsearch.store.image_scores import make_table, write_score_files
from attnsearch.store.layout import StudyLayout
from attnsearch.store.score_journal import ImageScore
from attnsearch.store.study_files import write_classes
from attnsearch.store.urls import default_url
from attnsearch.types import AttentionArchive, EpochRecord

CLASSES = ("gull", "<b>tern</b> & 'skua'")
"""The second name is hostile: it must be shown as it is written."""
MAP_HW = (4, 5)
HOT = (1, 3)
"""Row and column of the one strong cell of `part1`."""
IMAGE_HW, CROP_RATIO = (32, 32), 0.5
EXIF_TURN = 0x0112
OBJECTIVES = {"val/accuracy": "maximize", "val/sparsity": "minimize"}
SPACE: dict[str, Any] = {
    "train.optimizer.name": {"kind": "choice", "choices": ["adam", "sgd"]},
    "train.optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
}


@dataclass(frozen=True)
class Built:
    """A results folder with one study, and the data set that it was made from."""

    root: Path
    data_root: Path
    layout: StudyLayout


def draw_pictures(root: Path, *, n_per_class: int = 3) -> list[str]:
    """A data set of class folders; the validation images are landscape, portrait, turned by EXIF and square.

    Returns:
        The ids of the validation images.
    """
    shapes: Sequence[tuple[tuple[int, int], int]] = (((64, 96), 1), ((96, 64), 1), ((60, 100), 6), ((80, 80), 1))
    ids = []
    for split in ("train", "val"):
        for label, folder in enumerate(("gull", "tern")):
            for index in range(n_per_class):
                (height, width), turn = shapes[(label * n_per_class + index) % len(shapes)]
                path = root / split / folder / f"{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                _draw(path, height, width, turn)
                if split == "val":
                    ids.append(path.relative_to(root).as_posix())
    return ids


def _draw(path: Path, height: int, width: int, turn: int) -> None:
    shade = np.linspace(60, 200, width)[None, :, None] * np.ones((height, 1, 3))
    exif = Image.Exif()
    exif[EXIF_TURN] = turn
    Image.fromarray(shade.astype(np.uint8)).save(path, quality=95, exif=exif)


def loaded(data_root: Path, resize: str, **study: Any) -> LoadedStudy:
    """The settings of the study; keyword arguments are fields of it."""
    data = {"name": "folder", "root": str(data_root), "image_size_px": IMAGE_HW[0], "crop_ratio": CROP_RATIO}
    experiment = {
        "name": "hunt",
        "experiment": "here",
        "data": {**data, "resize": resize},
        "model": {"name": "br_npa", "backbone": "resnet10t", "width": 0.25},
        "train": {"epochs": 3, "batch_size": 4},
        "monitor": "val/accuracy",
    }
    values = {"name": "hunt", "base": experiment, "space": SPACE, "n_trials": 4, "objectives": OBJECTIVES, **study}
    return LoadedStudy(validate(StudyConfig, Layer(values)), validate(ExperimentConfig, Layer(experiment)))


def build(
    folder: Path,
    *,
    resize: str = "squash",
    n_trials: int = 3,
    n_with_maps: int = 3,
    n_per_class: int = 3,
    n_epochs: int = 3,
) -> Built:
    """Writes a study with maps for its first trials."""
    data_root, root = folder / "pictures", folder / "results"
    ids = draw_pictures(data_root, n_per_class=n_per_class)
    settings = loaded(data_root, resize, n_trials=n_trials)
    layout = StudyLayout(root, "here", "hunt")
    layout.study_dir.mkdir(parents=True)
    layout.study_yaml.write_text(resolved_study(settings), encoding="utf-8")
    write_classes(layout.classes_csv, CLASSES)
    fill_database(layout, settings, n_trials, n_epochs)
    for number in range(min(n_trials, n_with_maps)):
        write_maps(layout, number, data_root, ids, resize)
        write_copies(layout, data_root, ids)
    return Built(root, data_root, layout)


def fill_database(
    layout: StudyLayout,
    settings: LoadedStudy,
    n_trials: int,
    n_epochs: int,
    *,
    values_of: Callable[[int], dict[str, float]] | None = None,
    records_of: Callable[[int, int], list[EpochRecord]] | None = None,
) -> None:
    """Finished trials with objectives, settings, measured values and their epochs."""
    values_of, records_of = values_of or trial_scores, records_of or epoch_records
    identity = study_identity(settings, val_hash="split-a", class_names=CLASSES)
    handle = create_handle(settings, layout, default_url(layout), identity)
    axes = {"train.optimizer.name": CategoricalDistribution(("adam", "sgd")),
            "train.optimizer.lr": FloatDistribution(1e-4, 1e-2, log=True)}  # fmt: skip
    for number in range(n_trials):
        measured = values_of(number)
        values = {key: measured[key] for key in settings.study.objectives}
        params = {"train.optimizer.name": ("adam", "sgd")[number % 2], "train.optimizer.lr": 1e-4 * (1 + number % 90)}
        attributes = {**measured, "val/loss": 1.0 / (number + 1), "best_epoch": 3, "epochs_run": n_epochs}
        attributes["seconds"] = 60.0
        one = optuna.trial.create_trial(
            params=params, distributions=axes, values=list(values.values()), user_attrs=attributes
        )
        handle.study.add_trial(one)
        records = records_of(number, n_epochs)
        handle.store.write_epochs(number, records, attempt=None)
        trial = layout.trial(number)
        trial.directory.mkdir(parents=True)
        write_csv(trial.epochs_csv, records)
        trial.config.write_text(to_yaml(settings.experiment.model_dump(mode="json")), encoding="utf-8")
    handle.database.close()


def trial_scores(number: int) -> dict[str, float]:
    """The objectives of a trial: accuracy climbs and sparsity worsens, so that the first trials form a front.

    From the eighth on they come again, each time a little worse.
    """
    worse = 1e-5 * (number // 7)
    accuracy, sparsity = 0.5 + 0.4 * (number % 7) / 7, 0.2 + 0.1 * ((number * 3) % 7) / 7
    return {"val/accuracy": accuracy - worse, "val/sparsity": sparsity + worse}


def epoch_records(number: int, n_epochs: int) -> list[EpochRecord]:
    """Epochs of training and validation."""
    return [
        EpochRecord(
            epoch=epoch,
            split=split,  # type: ignore[arg-type]
            n_images=8,
            loss=1.0 / epoch,
            terms={},
            metrics={"accuracy": 0.3 + 0.1 * epoch + 0.01 * (number % 10)},
            lr=0.1,
            seconds=2.0,
            images_per_s=4.0,
            peak_memory_mb=10.0,
        )
        for epoch in range(1, n_epochs + 1)
        for split in ("train", "val")
    ]


def planted_maps(n_images: int, number: int) -> dict[str, NDArray[np.float32]]:
    """`part1` is 0 but for the hot cell; `part2` is signed and unlike in each trial; the saliency is `part1`."""
    maps = np.zeros((n_images, 2, *MAP_HW), dtype=np.float32)
    maps[:, 0, HOT[0], HOT[1]] = 1 + number
    maps[:, 1] = np.linspace(-1, 1, MAP_HW[0] * MAP_HW[1]).reshape(MAP_HW) * (1 + number)
    norms = np.ones((n_images, 1, *MAP_HW), dtype=np.float32)
    return {"maps": maps, "norms": norms, "saliency": maps[:, 0]}


def write_maps(layout: StudyLayout, number: int, data_root: Path, ids: Sequence[str], resize: str) -> None:
    """The archive of one trial; odd images are predicted wrongly."""
    sizes = np.array([open_upright(data_root / one, longest_px=10**4).size[::-1] for one in ids], dtype=np.int64)
    boxes = geometry.crop_box(sizes, image_hw=IMAGE_HW, crop_ratio=CROP_RATIO, resize=resize)  # type: ignore[arg-type]
    labels = np.array([int("/tern/" in one) for one in ids], dtype=np.int64)
    wrong = np.arange(len(ids)) % 2 == 1
    part = AttentionArchive(
        image_ids=tuple(ids),
        labels=labels,
        predictions=np.where(wrong, 1 - labels, labels),
        confidences=np.linspace(0.5, 0.99, len(ids), dtype=np.float32),
        sizes_hw=sizes,
        crop_boxes=boxes,
        class_names=CLASSES,
        map_names=("part1", "part2"),
        config_digest="d",
        epoch=3,
        split="val",
        **planted_maps(len(ids), number),  # type: ignore[arg-type]
    )
    with ArchiveWriter(layout.trial(number).archive("val"), len(ids)) as writer:
        writer.append(part)
        writer.finish()


def write_copies(layout: StudyLayout, data_root: Path, ids: Sequence[str]) -> None:
    """The small copies that publication writes."""
    for image_id in ids:
        path = layout.thumbnail(image_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        open_upright(data_root / image_id, longest_px=512).save(path, format="JPEG", quality=95)


def write_trial_scores(
    layout: StudyLayout, number: int, ids: Sequence[str], columns: Mapping[str, Sequence[float]]
) -> None:
    """Scores and curves of one trial as they are exported, four steps each."""
    curves = {"deletion": [0.9, 0.7, 0.5, 0.3, 0.1], "insertion": [0.1, 0.3, 0.5, 0.7, 0.9]}
    scores = [
        ImageScore(one, {name: float(values[row]) for name, values in columns.items()}, curves)
        for row, one in enumerate(ids)
    ]
    about = {
        **{"version": 1, "settings": {"fill": "blur"}, "split": "val", "grid": list(MAP_HW), "images": "i"},
        **{"n_archived": len(ids), "checkpoint": {"epoch": 3, "config": "d"}, "digest": "d", "iou_thresholds": {}},
    }
    write_score_files(layout.trial(number).scores("val"), make_table(scores, [0, 0.25, 0.5, 0.75, 1], about))


@contextmanager
def serving(built: Built) -> Iterator[RunningServer]:
    """A server in a thread, on a free port."""
    one = open_server(find_experiments(built.root), port=0)
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        thread.join()
        one.server.server_close()
