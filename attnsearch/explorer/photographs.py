"""Photographs that people send to be explained: their limits, what pages show of the answer, and kept ones on disk."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from attnsearch.data.images import FORMATS, ImageBytes, open_upright
from attnsearch.errors import DataError
from attnsearch.explorer.serialize import map_values, plain
from attnsearch.figures.explanation import Explanation
from attnsearch.files import atomic_write, atomic_write_array, make_folder
from attnsearch.results.trial import TrialReader

MAX_BYTES = 32 * 2**20
"""Bytes of a photograph, and of any other request."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm")
"""Endings that a kept photograph keeps."""
SHOWN_PX = 1024
"""Longer side of the photograph on the page."""
TOP = 5
_ANY_PX = 2**16
_QUALITY = 85
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}
_STARTS = {b"%PDF": "a PDF", b"<svg": "SVG", b"<?xml": "SVG", b"PK\x03\x04": "a ZIP archive"}
_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")


def read_photograph(content: bytes, name: str) -> Image.Image:
    """The upright photograph as RGB, whole.

    Args:
        name: of the file on its owner's machine, for messages.
    Raises:
        DataError: it is no image of a kind that is read, is cut off, or has too many pixels.
    """
    kind = foreign_kind(content, name)
    if kind is not None:
        hint = "; an iPhone takes JPEG with Settings, Camera, Formats, Most Compatible" if kind == "HEIC" else ""
        raise DataError(f"{name} is {kind}, which is not read; save it as JPEG or PNG{hint}")
    return open_upright(ImageBytes(content, name), longest_px=_ANY_PX)


def foreign_kind(content: bytes, name: str) -> str | None:
    """What a file is that people take for a photograph and that is not decoded; None for any other file."""
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12], "a video")
    if name.lower().endswith(_RAW):
        return "a raw image of a camera"
    start = content.lstrip()[:5]
    return next((kind for letters, kind in _STARTS.items() if start.startswith(letters)), None)


def explained_values(explanation: Explanation, image: Image.Image) -> dict[str, Any]:
    """What the page shows of an explained photograph: itself, its maps by key, the likeliest classes."""
    shown = open_upright(image, longest_px=SHOWN_PX)
    labels = {f"map{index}": name for index, name in enumerate(explanation.maps)}
    maps = dict(zip(labels, explanation.maps.values(), strict=True))
    if explanation.norm is not None:
        maps, labels = {**maps, "norm": explanation.norm}, {**labels, "norm": "feature norm"}
    if explanation.saliency is not None:
        maps, labels = {"saliency": explanation.saliency, **maps}, {"saliency": "saliency", **labels}
    return {
        "size": list(explanation.size_hw),
        "box": [float(edge) for edge in explanation.crop_box],
        "photo": f"data:image/jpeg;base64,{base64.b64encode(_jpeg(shown)).decode()}",
        "maps": {key: map_values(cells) for key, cells in maps.items()},
        "labels": labels,
        "top": top_values(explanation),
    }


def _jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=_QUALITY)
    return file.getvalue()


def top_values(explanation: Explanation) -> list[dict[str, Any]]:
    """The likeliest classes with their probabilities; empty where the model predicts none."""
    if not explanation.class_names:
        return []
    return [
        {"name": str(name), "probability": plain(float(probability))}
        for name, probability in explanation.top(TOP).itertuples(index=False)
    ]


def keep_photograph(trial: TrialReader, content: bytes, name: str, explanation: Explanation) -> Path:
    """Writes a photograph, its maps and what was predicted into the folder of the trial, and returns their folder.

    The same photograph has the same folder again; the name that it had elsewhere decides its ending at most.

    Raises:
        StoreError: the disk refuses.
    """
    paths = trial.files.explained(hashlib.sha256(content).hexdigest()[:16])
    suffix = Path(name).suffix.lower()
    make_folder(paths.directory)
    atomic_write(paths.photo(suffix if suffix in SUFFIXES else ".image"), content)
    if explanation.saliency is not None:
        atomic_write_array(paths.saliency, explanation.saliency)
    if explanation.maps:
        atomic_write_array(paths.maps, np.stack(list(explanation.maps.values())))
    about = {
        **{"name": name, "trial": trial.name, "epoch": trial.row.best_epoch, "maps": list(explanation.maps)},
        **{"size_hw": list(explanation.size_hw), "crop_box": [float(edge) for edge in explanation.crop_box]},
        **{"predicted": explanation.predicted, "top": top_values(explanation)},
    }
    atomic_write(paths.about, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
    return paths.directory


def accepted_text() -> str:
    """The kinds of images and the limit, for people."""
    kinds = [kind for kind in FORMATS if kind not in ("PPM", "BMP")]
    return f"{', '.join(kinds[:-1])} or {kinds[-1]}, at most {MAX_BYTES // 2**20} MB"
