"""Every logger writes with its own package what it reads back as equal numbers, once, and without the network."""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from attnsearch.loggers.base import LoggedRun
from attnsearch.loggers.process import LoggerProcess
from tests.loggers.reading import ON_EACH_LOGGER, read_back

RUN = LoggedRun("here", "hunt", 3, "0a1b2c3d-00003", {"seed": 1, "train.optimizer.lr": 0.03, "model.name": "br_npa"})
BEST = {"val/accuracy": 1 / 3, "val/relevance_gain": 0.1 + 0.2}


def values_of(epoch: int) -> dict[str, float]:
    return {"train/loss": 0.1 * epoch, "val/accuracy": epoch / 3}


def png() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 6), (250, 0, 0)).save(content, "png")
    return content.getvalue()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Whatever asks the network for something connects to this socket."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield server


def attempt(name: str, folder: Path, *, n_epochs: int, is_ended: bool) -> None:
    """What a process that trains a trial up to some epoch sends, all epochs so far among it."""
    logger = LoggerProcess(name, folder)
    logger.start_run(RUN)
    for epoch in range(1, n_epochs + 1):
        logger.log_epoch(epoch, values_of(epoch))
    if is_ended:
        logger.end_run("complete", BEST, epoch=3, images={"overlays": png()})
    assert logger.close(patience_s=120) == ""


def single(value: float) -> float:
    """In single precision."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


@ON_EACH_LOGGER
def test_values_are_read_back_as_they_were_once_each_after_a_resume(
    name: str, tmp_path: Path, proxy: socket.socket
) -> None:
    folder = tmp_path / name
    attempt(name, folder, n_epochs=2, is_ended=False)
    attempt(name, folder, n_epochs=4, is_ended=True)
    attempt(name, folder, n_epochs=4, is_ended=True)  # as `attnsearch log` after the search
    found = read_back(name, folder, number=RUN.number, key=RUN.key)
    kept = single if name == "tensorboard" else float  # its scalars are in single precision
    wanted = [[epoch, key, kept(value)] for epoch in range(1, 5) for key, value in values_of(epoch).items()]
    assert found["epochs"] == sorted(wanted)
    assert found["best"] == {key: kept(value) for key, value in BEST.items()}
    as_read = str if name == "mlflow" else lambda value: value  # its parameters are texts
    assert {key: found["settings"][key] for key in RUN.settings} == {
        key: as_read(value) for key, value in RUN.settings.items()
    }
    assert (found["state"], found["n_images"]) == ("complete", 1)
    with pytest.raises(BlockingIOError):  # nobody has asked the network for anything
        proxy.accept()
