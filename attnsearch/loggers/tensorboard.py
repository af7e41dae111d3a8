"""Event files for TensorBoard: scalars by epoch, settings and final scores for its HParams page, images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams import summary_v2 as hparams
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from attnsearch.loggers.base import LoggedRun

BEST = "best"
"""Before the keys of the values at the best epoch."""


class TensorBoardWriter:
    """A folder of event files, one more for each attempt. TensorBoard stores scalars in single precision."""

    def __init__(self, run: LoggedRun, folder: Path) -> None:
        directory = folder / f"{run.number:05d}"
        is_new = not directory.exists()
        self._writer = EventFileWriter(str(directory))
        if is_new:
            self._add(hparams.hparams_pb(dict(run.settings), trial_id=run.key), 0)

    def _add(self, summary: Summary, step: int) -> None:
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def _add_scalars(self, values: Mapping[str, float], step: int) -> None:
        self._add(Summary(value=[Summary.Value(tag=key, simple_value=value) for key, value in values.items()]), step)

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        self._add_scalars(values, epoch)
        self._writer.flush()

    def log_image(self, name: str, png: bytes, *, epoch: int) -> None:
        width, height = Image.open(BytesIO(png)).size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=png)
        self._add(Summary(value=[Summary.Value(tag=name, image=image)]), epoch)

    def end(self, state: str, values: Mapping[str, float], *, epoch: int) -> None:
        self._add_scalars({f"{BEST}/{key}": value for key, value in values.items()}, epoch)
        text = TensorProto(dtype=DT_STRING, string_val=[state.encode()], tensor_shape=TensorShapeProto())
        metadata = text_metadata.create_summary_metadata(display_name="state", description="")
        self._add(Summary(value=[Summary.Value(tag="state", tensor=text, metadata=metadata)]), epoch)

    def close(self) -> None:
        self._writer.close()
