"""What is read as a photograph, what pages show of the answer, and what of it is kept."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.images import MAX_PIXELS, decode_resized
from attnsearch.errors import DataError
from attnsearch.explorer.photographs import (
    MAX_BYTES,
    SHOWN_PX,
    accepted_text,
    explained_values,
    foreign_kind,
    keep_photograph,
    read_photograph,
)
from attnsearch.figures.explanation import NO_CLASSES, Explanation
from attnsearch.geometry import Resizing
from attnsearch.results.study import StudyReader
from tests.explorer.built import Built


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises more pixels than are decoded."""
    side = int(MAX_PIXELS**0.5) + 1

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_photograph_is_upright_and_whole() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(Image.new("RGB", (60, 40), (200, 10, 10)), "JPEG", exif=exif)
    image = read_photograph(content, "a.jpg")
    assert (image.size, image.mode) == ((40, 60), "RGB")
    assert decode_resized(image, Resizing((8, 8), "squash"))[1] == (60, 40)  # a model sees it as people do


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0", "IMG_1.HEIC", "IMG_1.HEIC is HEIC, which is not read; save it as JPEG or PNG; an"),
        (b"\0\0\0\x18ftypmif1\0\0", "a.jpg", "a.jpg is HEIC"),
        (b"\0\0\0\x18ftypavif\0\0", "a.avif", "a.avif is AVIF"),
        (b"\0\0\0\x18ftypisom\0\0", "a.mp4", "a.mp4 is a video"),
        (b"%PDF-1.7", "a.jpg", "a.jpg is a PDF"),
        (b' <svg xmlns="x">', "a.svg", "a.svg is SVG"),
        (b"II*\0", "a.NEF", "a.NEF is a raw image of a camera"),
        (b"hello", "a.jpg", "a.jpg: is not an image"),
        (encoded(Image.new("RGB", (80, 80)))[:-40], "cut.png", "cut.png: is cut off"),
        (bomb(), "bomb.png", "bomb.png: has 8001 x 8001 pixels, more than the 64 million"),
    ],
)
def test_what_is_no_photograph_is_named(content: bytes, name: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_photograph(content, name)
    assert str(caught.value).startswith(said)


def test_formats_that_are_read_are_not_foreign() -> None:
    image = Image.new("RGB", (4, 4))
    assert [foreign_kind(encoded(image, kind), "a") for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")] == [
        None
    ] * 6
    assert accepted_text() == f"JPEG, PNG, GIF, TIFF or WEBP, at most {MAX_BYTES // 2**20} MB"


def explanation(**fields: object) -> Explanation:
    values = {
        **{"image_id": "a", "source": Path("a"), "true": None, "size_hw": (40, 60)},
        **{"crop_box": np.array([10.0, 0.0, 50.0, 40.0]), "saliency": np.eye(3, dtype=np.float32), "classes": ()},
        **{"maps": {"part1": np.ones((3, 3), dtype=np.float32)}, "norm": np.ones((3, 3), dtype=np.float32)},
        **{"class_names": ("gull", "tern"), "predicted": "tern", "target": "tern"},
        "probabilities": np.array([0.25, 0.75], dtype=np.float32),
    }
    return Explanation(**{**values, **fields})  # type: ignore[arg-type]


def test_values_of_the_page() -> None:
    values = explained_values(explanation(), Image.new("RGB", (3000, 2000)))
    photo = Image.open(io.BytesIO(base64.b64decode(values["photo"].partition(",")[2])))
    assert max(photo.size) == SHOWN_PX
    assert list(values["maps"]) == list(values["labels"]) == ["saliency", "map0", "norm"]
    assert values["labels"]["map0"] == "part1"
    assert [(one["name"], one["probability"]) for one in values["top"]] == [("tern", 0.75), ("gull", 0.25)]
    json.dumps(values, allow_nan=False)


def test_model_without_classes_has_no_prediction() -> None:
    values = explained_values(explanation(**NO_CLASSES, predicted=None, maps={}, norm=None), Image.new("RGB", (9, 9)))
    assert (values["top"], list(values["maps"])) == ([], ["saliency"])


def test_kept_photograph_lies_in_the_folder_of_the_trial(copied: Built) -> None:
    trial = StudyReader(copied.layout).trial(0)
    content = encoded(Image.new("RGB", (60, 40)))
    folder = keep_photograph(trial, content, "../../../evil.png", explanation())
    assert folder.parent == trial.files.directory / "explained"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("explanation.json", "maps.npy", "photo.png", "saliency.npy"),
    ]
    assert (folder / "photo.png").read_bytes() == content
    assert np.array_equal(np.load(folder / "saliency.npy"), np.eye(3))
    assert json.loads((folder / "explanation.json").read_text())["predicted"] == "tern"
    assert keep_photograph(trial, content, "other.exe", explanation()) == folder
    assert (folder / "photo.image").is_file()
