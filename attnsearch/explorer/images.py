"""Images for the browser: JPEG of the small copies in the results, and of the originals where the data set is there."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from attnsearch.data.images import open_upright
from attnsearch.errors import ConfigError
from attnsearch.files import FileCache, stamp_of
from attnsearch.results.shared import copy_of
from attnsearch.results.trial import TrialReader
from attnsearch.types import Split

SIZES_PX = (256, 512)
"""Longer sides that small images are served in."""
_QUALITY = 85
_ORIGINAL_QUALITY = 95
_ANY_PX = 2**15

Source = Literal["copy", "original"]


@dataclass(frozen=True)
class EncodedImage:
    """A JPEG for the browser, and its ETag."""

    body: bytes
    etag: str


class Images:
    """Encodes images by trial and image id. Paths from a browser are never used."""

    def __init__(self) -> None:
        self._encoded: FileCache[EncodedImage] = FileCache(1024)

    def source(self, trial: TrialReader, split: Split, image_id: str) -> Source | None:
        """Where the small image would come from; None if there is none."""
        if copy_of(trial.study.layout, image_id) is not None:
            return "copy"
        return "original" if trial.original(image_id, split) is not None else None

    def small(self, trial: TrialReader, split: Split, image_id: str, *, longest_px: int) -> EncodedImage:
        """A JPEG, upright, longer side at most `longest_px`.

        Raises:
            ConfigError: neither the copy nor the original is there.
            DataError: the file is no image.
        """
        path = trial.image_file(image_id, split)
        if path is None:
            raise ConfigError(f"there is no image {image_id!r}: its small copy and the data set are missing")
        stamp = stamp_of(path)
        return self._encoded.get((path, longest_px), stamp, lambda: _encode(path, stamp, longest_px, _QUALITY))

    def full(self, trial: TrialReader, split: Split, image_id: str) -> EncodedImage:
        """The original as an upright JPEG of its own size; not remembered, since originals are large.

        Raises:
            ConfigError: the data set is not on this machine.
            DataError: the file is no image.
        """
        path = trial.original(image_id, split)
        if path is None:
            raise ConfigError(f"the original of {image_id!r} is not on this machine")
        return _encode(path, stamp_of(path), _ANY_PX, _ORIGINAL_QUALITY)


def _encode(path: Path, stamp: object, longest_px: int, quality: int) -> EncodedImage:
    jpeg = io.BytesIO()
    image: Image.Image = open_upright(path, longest_px=longest_px)
    image.save(jpeg, format="JPEG", quality=quality)
    etag = hashlib.sha256(f"{path}\n{stamp}\n{longest_px}".encode(errors="surrogateescape")).hexdigest()[:32]
    return EncodedImage(jpeg.getvalue(), etag)
