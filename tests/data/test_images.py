"""Image files decoded, small copies of them, and all problems of a data set at once."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from attnsearch.data.images import FORMATS, ImageBytes, decode_mask, decode_resized, open_upright
from attnsearch.data.layouts import SUFFIXES
from attnsearch.data.tables import ImageTable
from attnsearch.data.thumbnails import write_thumbnails
from attnsearch.errors import DataError, LeaseLost
from attnsearch.geometry import ResizeRule, Resizing


@pytest.fixture
def table(tmp_path: Path) -> ImageTable:
    """A wide image, a small one, and one that the camera turned."""
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (1024, 600), (10, 200, 30)).save(folder / "wide.jpg")
    Image.new("L", (30, 20), 128).save(folder / "small.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right by a quarter to see it upright
    Image.new("RGB", (100, 50)).save(folder / "turned.jpg", exif=exif)
    ids = ("wide.jpg", "small.png", "turned.jpg")
    return ImageTable("val", ("a",), ids, tuple(folder / name for name in ids), np.zeros(3, np.int64))


def test_copies_are_small_upright_jpegs(table: ImageTable, tmp_path: Path) -> None:
    assert write_thumbnails(table, table.image_ids, lambda name: tmp_path / "out" / f"{name}.jpg") == 3
    found = {}
    for path in (tmp_path / "out").iterdir():
        with Image.open(path) as copy:
            found[path.name] = (copy.format, copy.mode, copy.size)
    assert found == {
        "wide.jpg.jpg": ("JPEG", "RGB", (512, 300)),
        "small.png.jpg": ("JPEG", "RGB", (30, 20)),
        "turned.jpg.jpg": ("JPEG", "RGB", (50, 100)),
    }


def test_copies_keep_their_colours(table: ImageTable, tmp_path: Path) -> None:
    write_thumbnails(table, ["wide.jpg"], lambda name: tmp_path / f"{name}.jpg")
    with Image.open(tmp_path / "wide.jpg.jpg") as copy:
        colour = np.asarray(copy).reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, (10, 200, 30), atol=3)  # JPEG twice


def test_a_copy_that_exists_is_left(table: ImageTable, tmp_path: Path) -> None:
    (tmp_path / "wide.jpg.jpg").write_bytes(b"here")
    assert write_thumbnails(table, ["wide.jpg", "small.png"], lambda name: tmp_path / f"{name}.jpg") == 1
    assert (tmp_path / "wide.jpg.jpg").read_bytes() == b"here"


def test_a_failed_check_leaves_nothing(table: ImageTable, tmp_path: Path) -> None:
    def refuse() -> None:
        raise LeaseLost

    with pytest.raises(LeaseLost):
        write_thumbnails(table, table.image_ids, lambda name: tmp_path / "out" / f"{name}.jpg", check=refuse)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_unreadable_image_is_named(table: ImageTable, tmp_path: Path) -> None:
    table.paths[0].write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"wide\.jpg: is not an image"):
        write_thumbnails(table, ["wide.jpg"], lambda name: tmp_path / f"{name}.jpg")


def test_an_unknown_image_is_named(table: ImageTable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val has no image 'other\.jpg'"):
        write_thumbnails(table, ["other.jpg"], lambda name: tmp_path / f"{name}.jpg")


RED, BLUE, WHITE, BLACK = (255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def decode(path: Path, side_px: int = 4, resize: ResizeRule = "squash") -> np.ndarray:
    return decode_resized(path, Resizing((side_px, side_px), resize))[0]


def halves(size_hw: tuple[int, int]) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size_hw[::-1], RED)
    image.paste(BLUE, (size_hw[1] // 2, 0, size_hw[1], size_hw[0]))
    return image


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """Top left, top right, bottom left, bottom right, rounded to pure colours."""
    return [tuple((255 * (pixels[y, x] > 127)).tolist()) for y in (0, -1) for x in (0, -1)]


# Where red lies after each EXIF orientation has been undone, for an image stored with red on its left.
@pytest.mark.parametrize(
    ("orientation", "red_side"),
    [(1, "left"), (2, "right"), (3, "right"), (4, "left"), (5, "top"), (6, "top"), (7, "bottom"), (8, "bottom")],
)
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_exif_rotation_is_undone(tmp_path: Path, orientation: int, red_side: str, resize: ResizeRule) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves((40, 80)).save(tmp_path / "x.jpg", exif=exif, quality=95)
    pixels, size_hw = decode_resized(tmp_path / "x.jpg", Resizing((8, 8), resize))
    expected = {
        "left": [RED, BLUE, RED, BLUE],
        "right": [BLUE, RED, BLUE, RED],
        "top": [RED, RED, BLUE, BLUE],
        "bottom": [BLUE, BLUE, RED, RED],
    }
    assert corners(pixels) == expected[red_side]
    assert size_hw == ((40, 80) if red_side in ("left", "right") else (80, 40))


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    grey = np.full((4, 4), 128 * 257, dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png").tolist() == np.full((4, 4, 3), 128).tolist()


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert corners(decode(tmp_path / "x.jpg")) == [RED] * 4


def test_grey_and_palette_and_one_bit_become_rgb(tmp_path: Path) -> None:
    Image.new("L", (8, 8), 90).save(tmp_path / "grey.png")
    halves((8, 8)).quantize(4).save(tmp_path / "palette.png")
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    assert decode(tmp_path / "grey.png")[0, 0].tolist() == [90, 90, 90]
    assert corners(decode(tmp_path / "palette.png")) == [RED, BLUE, RED, BLUE]
    assert corners(decode(tmp_path / "bit.png")) == [WHITE] * 4


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(tmp_path: Path, mode: str) -> None:
    colour = (0,) * (len(mode) - 1) + (0,)
    Image.new(mode, (8, 8), colour).save(tmp_path / "x.png")
    assert corners(decode(tmp_path / "x.png")) == [WHITE] * 4


def test_a_transparent_palette_colour_is_laid_on_white(tmp_path: Path) -> None:
    image = halves((8, 8)).quantize(2)
    red = image.getpixel((0, 0))
    image.save(tmp_path / "x.png", transparency=red)
    assert corners(decode(tmp_path / "x.png")) == [WHITE, BLUE, WHITE, BLUE]


def test_squash_shows_all_and_crop_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (30, 10), BLACK)
    image.paste(RED, (10, 0, 20, 10))
    image.save(tmp_path / "x.png")
    assert corners(decode(tmp_path / "x.png", 6, "squash")) == [BLACK] * 4
    assert corners(decode(tmp_path / "x.png", 6, "crop")) == [RED] * 4


def test_shrinking_averages_over_the_footprint(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "x.png")
    assert np.abs(decode(tmp_path / "x.png", 4).astype(int) - 128).max() <= 4


def test_reduced_decoding_of_a_jpeg_stays_close_to_the_full_one(tmp_path: Path) -> None:
    y, x = np.mgrid[0:400, 0:600]
    waves = np.stack([127 + 120 * np.sin(x / 40), 127 + 120 * np.cos(y / 30), (x + y) / 4], axis=-1).astype(np.uint8)
    image = Image.fromarray(waves)
    image.save(tmp_path / "x.jpg", quality=98, subsampling=0)
    full = np.asarray(image.resize((40, 40), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(decode(tmp_path / "x.jpg", 40).astype(int) - full).mean() < 2


def test_a_small_image_is_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (2, 1), RED).save(tmp_path / "x.png")
    assert decode(tmp_path / "x.png", 16).shape == (16, 16, 3)


def test_a_truncated_jpeg_is_named(tmp_path: Path) -> None:
    halves((64, 64)).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"x\.jpg: is cut off"):
        decode(tmp_path / "x.jpg")


@pytest.mark.parametrize("content", [b"", b"hello, I am text"])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: is not an image"):
        decode(tmp_path / "x.jpg")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg: does not exist"):
        decode(tmp_path / "gone.jpg")


def test_floating_point_images_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(DataError, match="mode F has no defined white"):
        decode(tmp_path / "x.tif")


def test_a_mask_is_one_channel(tmp_path: Path) -> None:
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save(tmp_path / "x.png")
    seen = decode_mask(tmp_path / "x.png", Resizing((4, 4), "squash"))
    assert (seen > 127).tolist() == [[True, True, False, False]] * 4


@pytest.mark.parametrize(("enlarge", "expected"), [(False, (20, 40)), (True, (50, 100))])
def test_whole_image_keeps_its_aspect_ratio_and_stands_upright(
    tmp_path: Path, enlarge: bool, expected: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.jpg", exif=exif)
    image = open_upright(tmp_path / "a.jpg", longest_px=100, enlarge=enlarge)
    assert image.size == expected
    assert open_upright(image, longest_px=100).size == expected  # it is not turned again


def png(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of a few bytes that says it has so many pixels, and has one."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(4))), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (10_000, 10_000), (13_400, 13_400), (2**31 - 1, 1)])
def test_a_image_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path, width: int, height: int) -> None:
    """The second and the third are beyond the two limits of Pillow, which warns or refuses by itself."""
    (tmp_path / "x.png").write_bytes(png(width, height))
    said = rf"x\.png: .*({width} x {height}.*)?more than the 64 million that are decoded; save it smaller"
    with pytest.raises(DataError, match=said):
        decode(tmp_path / "x.png")


def test_a_text_in_a_image_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    bomb = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(10**8)))
    (tmp_path / "x.png").write_bytes(png(1, 1, bomb))
    with pytest.raises(DataError, match=r"x\.png: cannot be read .*MAX_TEXT_CHUNK"):
        decode(tmp_path / "x.png")


@pytest.mark.parametrize("suffix", ["tga", "ico", "pcx", "sgi"])
def test_only_known_formats_are_opened(tmp_path: Path, suffix: str) -> None:
    halves((16, 16)).save(tmp_path / f"x.{suffix}")
    (tmp_path / f"x.{suffix}").rename(tmp_path / "x.jpg")
    with pytest.raises(DataError, match=r"x\.jpg: is not an image \(JPEG, PNG"):
        decode(tmp_path / "x.jpg")


def test_every_listed_ending_has_its_format() -> None:
    Image.init()
    assert {Image.EXTENSION[suffix] for suffix in SUFFIXES} <= set(FORMATS)


def test_bytes_are_read_like_their_file(table: ImageTable) -> None:
    for path in table.paths:
        own = open_upright(ImageBytes(path.read_bytes(), path.name), longest_px=10**4)
        assert np.array_equal(np.asarray(own), np.asarray(open_upright(path, longest_px=10**4)))


def test_bytes_are_named_as_their_owner_does() -> None:
    with pytest.raises(DataError, match=r"^holiday\.jpg: is not an image"):
        open_upright(ImageBytes(b"hello", "holiday.jpg"), longest_px=10)
