"""Small studies of re-identification, which tests of readers and commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DATA: dict[str, Any] = {
    **{"name": "individuals", "image_size_px": [64, 32], "n_identities": 8, "n_test_identities": 3, "n_cameras": 3},
    **{"n_per_camera": 3, "n_distractors": 4, "picture_px": 64, "val_share": 0.3},
}
EXPERIMENT: dict[str, Any] = {
    "name": "cnn_people",
    "experiment": "people",
    "monitor": "val/mAP",
    "data": DATA,
    "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25, "stride_stage4": 1},
    "task": {"name": "reid", "images_per_identity": 2},
    "train": {"epochs": 1, "batch_size": 8, "precision": "fp32", "optimizer": {"name": "adam", "lr": 0.01}},
    "evaluation": {"scores": {"families": []}},
    "runtime": {"device": "cpu", "n_threads": 1},
}
STUDY: dict[str, Any] = {
    **{"name": "cnn_people", "base": EXPERIMENT, "n_trials": 2, "objectives": {"val/mAP": "maximize"}},
    "space": {"train.optimizer.lr": {"kind": "float", "low": 0.001, "high": 0.01, "log": True}},
    "monitor": "val/mAP",
}
DCAL: dict[str, Any] = {
    **{"name": "dcal", "backbone": "deit_tiny_patch16_224", "depth": 2, "stem": "conv", "variant": "sa_glca"},
    **{"width": 0.34, "n_cameras": 3},
}


def search_people(root: Path) -> None:
    """Writes the experiment `people`: the study `cnn_people` of two trials, and the run `dcal_people`."""
    from attnsearch.config.load import load_experiment, load_study, study_of_one
    from attnsearch.search.run import run_study

    run_study(load_study(STUDY), root=root, n_workers=0)
    dcal = load_experiment({**EXPERIMENT, "name": "dcal_people", "model": DCAL})
    run_study(study_of_one(dcal), root=root, n_workers=0)
