"""Reads with the package of each logger what it has written, in a process of its own: `NAME FOLDER KEY` -> JSON."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ("tensorboard", "mlflow", "trackio", "wandb")
ON_EACH_LOGGER = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed"))
        for name in NAMES
    ],
)


def read_back(name: str, folder: Path, *, number: int, key: str) -> dict[str, Any]:
    """What a logger holds of a trial.

    Returns:
        `epochs`: [epoch, metric, value] of each value that was written, sorted; `settings`; `best`: metric -> value;
        `state`; `n_images`.
    """
    words = [sys.executable, "-W", "ignore", "-m", __name__, name, str(folder), str(number), key]
    environment = {**os.environ, "TRACKIO_DIR": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "epochs": sorted(found["epochs"])}


def read_tensorboard(folder: Path, number: int, _key: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data as settings_in
    from tensorboard.util import tensor_util

    epochs, best, settings, state, n_images = [], {}, {}, None, 0
    for path in sorted((folder / f"{number:05d}").iterdir()):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    started = settings_in(value.metadata.plugin_data.content).hparams
                    settings = {key: getattr(one, str(one.WhichOneof("kind"))) for key, one in started.items()}
                elif value.metadata.plugin_data.plugin_name == "images":
                    n_images += 1
                elif value.tag == "state":
                    state = tensor_util.make_ndarray(value.tensor).item().decode()
                elif value.tag.startswith("best/"):
                    best[value.tag.removeprefix("best/")] = tensor_util.make_ndarray(value.tensor).item()
                else:
                    epochs.append([event.step, value.tag, tensor_util.make_ndarray(value.tensor).item()])
    return {"epochs": epochs, "settings": settings, "best": best, "state": state, "n_images": n_images}


def read_mlflow(folder: Path, _number: int, key: str) -> dict[str, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.sqlite'}")
    (run,) = client.search_runs(
        [one.experiment_id for one in client.search_experiments()], f"tags.`attnsearch.trial` = '{key}'"
    )
    epochs, best = [], {}
    for metric in run.data.metrics:
        for one in client.get_metric_history(run.info.run_id, metric):
            if metric.startswith("best/"):
                best[metric.removeprefix("best/")] = one.value
            else:
                epochs.append([one.step, metric, one.value])
    state, n_images = run.data.tags.get("state"), len(client.list_artifacts(run.info.run_id))
    return {"epochs": epochs, "settings": run.data.params, "best": best, "state": state, "n_images": n_images}


def read_trackio(folder: Path, number: int, _key: str) -> dict[str, Any]:
    from trackio.sqlite_storage import SQLiteStorage

    (project,) = (path.stem for path in folder.glob("*.db"))
    run = next(one for one in SQLiteStorage.get_runs(project) if one.endswith(f":{number}"))
    epochs, best, state, n_images = [], {}, None, 0
    for row in SQLiteStorage.get_logs(project, run):
        for metric, value in row.items():
            if metric == "state":
                state = value
            elif isinstance(value, dict) and value.get("_type") == "trackio.image":
                n_images += 1
            elif metric.startswith("best/"):
                best[metric.removeprefix("best/")] = value
            elif "/" in metric:
                epochs.append([row["step"], metric, value])
    settings = SQLiteStorage.get_run_config(project, run) or {}
    return {"epochs": epochs, "settings": settings, "best": best, "state": state, "n_images": n_images}


def read_wandb(folder: Path, _number: int, key: str) -> dict[str, Any]:
    from wandb.proto.wandb_internal_pb2 import Record

    epochs: list[Any] = []
    best: dict[str, float] = {}
    settings: dict[str, Any] = {}
    state, n_images = None, 0
    for path in sorted(folder.glob(f"wandb/offline-run-*-{key}/*.wandb")):
        for data in leveldb_records(path.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            for item in record.run.config.update:
                settings[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            row = {"/".join(one.nested_key) or one.key: json.loads(one.value_json) for one in record.history.item}
            for metric, value in row.items():
                if value == "image-file":
                    n_images += 1
                elif metric.startswith(("train/", "val/")):
                    epochs.append([row["_step"], metric, value])
            for one in record.summary.update:
                metric, value = "/".join(one.nested_key) or one.key, json.loads(one.value_json)
                if metric == "state":
                    state = value
                elif metric.startswith("best/"):
                    best[metric.removeprefix("best/")] = value
    return {"epochs": epochs, "settings": settings, "best": best, "state": state, "n_images": n_images}


def leveldb_records(data: bytes, *, block: int = 32768) -> Iterator[bytes]:
    """The records of a log in LevelDB's format, behind the seven bytes that W&B begins a file with."""
    place, parts = 7, b""
    assert data[:4] == b":W&B"
    while place < len(data):
        left = block - place % block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


if __name__ == "__main__":
    name, folder, number, key = sys.argv[1:]
    print(json.dumps(globals()[f"read_{name}"](Path(folder), int(number), key)))
