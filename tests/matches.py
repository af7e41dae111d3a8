"""Small retrievals: a gallery whose order is known, and a few synthetic individuals to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.data.tables import ImageTable
from attnsearch.tasks.retrieval import rank_split
from attnsearch.types import Distance, MatchRule, Retrieval
from tests.people import EXPERIMENT

QUERIES = (("0005", 1), ("0007", 2))
GALLERY = (
    *(("0005", 1), ("0000", 2), ("0005", 3), ("0007", 1), ("0005", 1)),
    *(("0007", 3), ("0002", 2), ("0005", 2)),
)
ORDERS = ((0, 1, 2, 3, 4, 5, 6, 7), (5, 2, 3, 6, 1, 4, 0, 7))
"""The gallery of each query, nearest first. Of the first query, 0 and 4 are of its camera; its matches are 2 and 7."""
N_QUERIES = len(QUERIES)


def split_of_identities(rule: MatchRule = "camera") -> ImageTable:
    """The images `<row>.jpg`, queries first."""
    images = (*QUERIES, *GALLERY)
    identities = tuple(sorted({identity for identity, _ in images}))
    ids = tuple(f"{row}.jpg" for row in range(len(images)))
    cameras = np.array([camera - 1 for _, camera in images])
    return ImageTable(
        "val",
        identities,
        ids,
        tuple(map(Path, ids)),
        np.array([identities.index(identity) for identity, _ in images]),
        match_rule=rule,
        camera_names=("1", "2", "3") if rule == "camera" else (),
        cameras=cameras if rule == "camera" else None,
        groups=None if rule == "camera" else cameras,
        is_query=np.arange(len(images)) < N_QUERIES,
    )


def gallery_cosines() -> np.ndarray:
    """(G, Q), falling from 0.6 to 0.1 in the order of each query."""
    cosines = np.zeros((len(GALLERY), N_QUERIES))
    for query, order in enumerate(ORDERS):
        cosines[list(order), query] = np.linspace(0.6, 0.1, len(order))
    return cosines


def ranked_split(rule: MatchRule = "camera", distance: Distance = "cosine") -> Retrieval:
    """The retrieval of `split_of_identities`, with features of length 1 and those cosines."""
    cosines = gallery_cosines()
    rest = np.sqrt(1 - np.square(cosines).sum(axis=1, keepdims=True))
    features = np.concatenate([np.eye(N_QUERIES, N_QUERIES + 1), np.hstack([cosines, rest])])
    return rank_split(split_of_identities(rule), features.astype(np.float32), distance=distance)[0]


def tiny_individuals(**changes: Any) -> ExperimentConfig:
    """The config of a tiny model on a few synthetic individuals, with changes to its blocks."""
    settings: dict[str, Any] = {**EXPERIMENT}
    for key, value in changes.items():
        settings[key] = value if key == "model" else {**settings[key], **value}
    return ExperimentConfig.model_validate_json(json.dumps(settings))
