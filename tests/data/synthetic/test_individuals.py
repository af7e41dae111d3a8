"""The embedded individuals: codes, names, splits, files and masks, and images that are drawn again."""

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from attnsearch.config.data import MAX_INDIVIDUALS, IndividualsData, SyntheticData
from attnsearch.data import build_tables
from attnsearch.data.images import decode_mask
from attnsearch.data.listing import Listing, list_images
from attnsearch.data.synthetic.accessories import N_VARIANTS, PARTS
from attnsearch.data.synthetic.files import write_drawing
from attnsearch.data.synthetic.individuals import identity_codes, redraw
from attnsearch.errors import DataError
from attnsearch.geometry import Resizing

SMALL = {"n_identities": 6, "n_test_identities": 3, "n_cameras": 2, "n_per_camera": 2, "picture_px": 64}


def few(**changes: object) -> IndividualsData:
    return IndividualsData(**{**SMALL, "n_distractors": 3, "n_junk": 2, **changes})  # type: ignore[arg-type]


def names(listing: Listing) -> set[str]:
    return {image.image_id for image in listing.images}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.???") if path.is_file()}


@pytest.mark.parametrize(("n_differing_parts", "limit"), MAX_INDIVIDUALS.items())
def test_any_two_individuals_differ_in_enough_parts(n_differing_parts: int, limit: int) -> None:
    codes = np.array(identity_codes(n_differing_parts, 3))
    assert codes.shape == (limit, len(PARTS))
    assert len(np.unique(codes, axis=0)) == limit
    some = codes[: min(limit, 700)]
    n_different = (some[:, None] != codes[None]).sum(axis=-1)
    assert np.sort(n_different, axis=1)[:, 1].min() == n_differing_parts  # 0 is each code itself
    assert (n_different == 0).sum() == len(some)


@pytest.mark.parametrize("n_differing_parts", MAX_INDIVIDUALS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_variant_occurs_in_training(n_differing_parts: int, seed: int) -> None:
    first = np.array(identity_codes(n_differing_parts, seed)[:5])  # the fewest training individuals that there can be
    for column in first.T:
        assert sorted(column.tolist()) == list(range(N_VARIANTS))


def test_another_seed_gives_individuals_other_codes() -> None:
    assert identity_codes(3, 0) != identity_codes(3, 1)
    assert set(identity_codes(3, 0)) == set(identity_codes(3, 1))


@pytest.mark.parametrize("n_differing_parts", MAX_INDIVIDUALS)
def test_more_individuals_than_codes_are_refused(n_differing_parts: int) -> None:
    limit = MAX_INDIVIDUALS[n_differing_parts]
    sizes = {"n_identities": limit - 4, "n_differing_parts": n_differing_parts}
    assert IndividualsData(**sizes, n_test_identities=3).n_identities == limit - 4  # one code is left for distractors
    assert IndividualsData(**sizes, n_test_identities=4, n_distractors=0).n_test_identities == 4
    with pytest.raises(ValidationError, match=rf"at most {limit} .* got {limit + 1}; lower n_differing_parts"):
        IndividualsData(**sizes, n_test_identities=4)


def test_the_demo_has_the_sizes_of_its_description() -> None:
    cfg = IndividualsData()
    n_per_identity = cfg.n_cameras * cfg.n_per_camera
    assert cfg.n_identities * n_per_identity == 1024
    assert cfg.n_test_identities * cfg.n_cameras == 128
    assert cfg.n_test_identities * (n_per_identity - cfg.n_cameras) + cfg.n_distractors == 384 + 64
    assert (cfg.image_hw, cfg.resized_hw) == ((128, 64), (128, 64))


def test_images_lie_in_the_folders_of_market_1501_with_a_mask_each() -> None:
    listing = list_images(few())
    assert listing.problems == ()
    assert listing.camera_names == ("1", "2")
    assert listing.match_rule == "camera"
    assert Counter(image.image_id.split("/")[0] for image in listing.images) == {
        "bounding_box_train": 6 * 4,
        "query": 3 * 2,
        "bounding_box_test": 3 * 2 + 3,
    }
    for image in listing.images:
        assert re.fullmatch(r"\w+/(0\d{3})_c([12])s1_00000[12]_00\.jpg", image.image_id)
        assert image.mask_path is not None
        with Image.open(image.path) as drawing, Image.open(image.mask_path) as mask:
            assert (drawing.format, drawing.size, mask.format, mask.size) == ("JPEG", (32, 64), "PNG", (32, 64))
            assert set(np.unique(np.asarray(mask))) <= {0, 1, 2, 3, 4, 5}


def test_test_individuals_are_not_trained_on_and_each_camera_has_a_query_of_each() -> None:
    tables = build_tables(few(val_share=0.34))
    test = tables.test
    assert test is not None
    assert test.cameras is not None
    assert test.is_query is not None
    assert test.class_names == ("0000", "0007", "0008", "0009")
    assert sorted({*tables.train.class_names, *tables.val.class_names}) == [f"000{n}" for n in range(1, 7)]
    queries = [(test.class_names[label], int(c)) for label, c in zip(test.labels, test.cameras, strict=True)]
    found = {pair for pair, is_query in zip(queries, test.is_query, strict=True) if is_query}
    assert found == {(name, camera) for name in test.class_names[1:] for camera in (0, 1)}
    assert test.is_query.sum() == len(found)


def test_distractors_are_in_the_gallery_only_and_junk_is_not_listed() -> None:
    listing = list_images(few())
    distractors = [image for image in listing.images if image.class_name == "0000"]
    assert len(distractors) == 3
    assert {(image.split, image.is_query, image.image_id.split("/")[0]) for image in distractors} == {
        ("test", False, "bounding_box_test")
    }
    junk = sorted(path.name for path in listing.root.rglob("-1_*.jpg"))
    assert junk == ["-1_c1s1_000001_00.jpg", "-1_c2s1_000001_00.jpg"]
    assert not [name for name in names(listing) if "/-1_" in name]


def test_distractors_look_like_nobody_in_training_or_queries() -> None:
    cfg = few(n_distractors=40, n_differing_parts=4)
    unused = set(identity_codes(4, 0)[9:])
    for number in (1, 17):
        redrawn = {code for code in identity_codes(4, 0) if is_drawn_with(cfg, number, code)}
        assert len(redrawn) == 1
        assert redrawn <= unused


def is_drawn_with(cfg: IndividualsData, number: int, code: tuple[int, ...]) -> bool:
    """Whether a distractor of the first camera is the drawing of a code."""
    image_id = f"bounding_box_test/0000_c1s1_{number:06d}_00.jpg"
    return redraw(cfg, image_id)[0].tobytes() == redraw(cfg, image_id, code=code)[0].tobytes()


def test_the_codes_are_written_down() -> None:
    with (list_images(few()).root / "identities.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["identity", *PARTS]
    codes = identity_codes(3, 0)
    assert rows[1:] == [[f"{n + 1:04d}", *map(str, codes[n])] for n in range(9)]


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for folder, seed in (("one", 5), ("two", 5), ("three", 6)):
        monkeypatch.setenv("ATTNSEARCH_CACHE", str(tmp_path / folder))
        drawn.append(contents(list_images(few(data_seed=seed)).root))
    one, two, three = drawn
    assert len(one) == 2 * (9 * 4 + 3 + 2) + 1
    assert one == two
    assert not any(one[name] == three[name] for name in one if name.endswith(".jpg"))


def test_images_are_drawn_once_and_other_settings_elsewhere(cache_folder: Path) -> None:
    first = list_images(few())
    written = first.images[0].path.stat().st_mtime_ns
    again = list_images(few(image_size_px=(48, 32), flip=0.0, val_share=0.5))  # says nothing about the drawing
    assert (again.root, again.images[0].path.stat().st_mtime_ns) == (first.root, written)
    assert first.root.is_relative_to(cache_folder)
    roots = {list_images(few(**change)).root for change in ({"n_junk": 0}, {"occlusion": 1.0}, {"n_cameras": 3})}
    assert len(roots | {first.root}) == 4


def test_more_images_leave_the_others_as_they_are() -> None:
    fewer, more = (contents(list_images(few(n_distractors=n, n_per_camera=m)).root) for n, m in ((3, 2), (5, 3)))
    pairs = [(fewer[name], more[name]) for name in fewer if name.endswith(".jpg")]
    assert len(pairs) == 9 * 4 + 3 + 2
    assert all(one == other for one, other in pairs)


def test_masks_are_part_numbers_and_bright_where_brightness_is_read() -> None:
    image = list_images(few(occlusion=0.0)).images[0]
    assert image.mask_path is not None
    with Image.open(image.mask_path) as mask:
        numbers = np.asarray(mask)
        shown = np.asarray(mask.convert("L"))
    assert set(np.unique(numbers)) == {0, 1, 2, 3, 4, 5}
    read = decode_mask(image.mask_path, Resizing((64, 32), "squash"))
    np.testing.assert_array_equal(read, 255 * (numbers > 0))
    np.testing.assert_array_equal(shown > 127, numbers > 0)


def test_an_image_that_is_drawn_again_is_the_one_of_the_file(tmp_path: Path) -> None:
    listing = list_images(few())
    for image in listing.images[::7]:
        write_drawing(tmp_path, image.image_id, *redraw(few(), image.image_id))
        assert image.mask_path is not None
        for path in (image.path, image.mask_path):
            assert (tmp_path / path.relative_to(listing.root)).read_bytes() == path.read_bytes()


def test_a_part_can_be_left_out_or_exchanged_in_an_image() -> None:
    cfg, image_id = few(camera_effects=False, occlusion=0.0), "query/0007_c2s1_000001_00.jpg"
    image, mask = (np.asarray(one).astype(int) for one in redraw(cfg, image_id))
    without, mask_without = (np.asarray(one) for one in redraw(cfg, image_id, present=PARTS[1:]))
    code = identity_codes(3, 0)[6]
    exchanged, mask_exchanged = (
        np.asarray(one) for one in redraw(cfg, image_id, code=((code[0] + 1) % N_VARIANTS, *code[1:]))
    )
    assert 1 in mask
    assert 1 not in mask_without
    assert 1 in mask_exchanged
    for other in (without, exchanged):
        rows = np.nonzero((image != other).any(axis=(1, 2)))[0]
        assert rows.size > 3
        assert rows.max() < 0.3 * 64  # the headgear is above the shoulders


def test_tied_clothes_are_those_of_the_individual() -> None:
    """With them the pixels between the parts of two images resemble each other more than without."""

    def distance(*, tied_clothes: bool) -> float:
        cfg = few(tied_clothes=tied_clothes, camera_effects=False, occlusion=0.0, picture_px=128)
        values = []
        for identity in range(1, 7):
            one, other = (
                np.asarray(redraw(cfg, f"bounding_box_train/000{identity}_c1s1_00000{n}_00.jpg", present=())[0])
                for n in (1, 2)
            )
            trunk = (slice(30, 50), slice(28, 36))
            values.append(np.abs(one[trunk].mean(axis=(0, 1)) - other[trunk].mean(axis=(0, 1))).mean())
        return float(np.mean(values))

    assert distance(tied_clothes=True) < 0.5 * distance(tied_clothes=False)


def test_cameras_without_effects_are_all_the_same() -> None:
    cfg = few(camera_effects=False, occlusion=0.0)
    noise = [np.asarray(redraw(cfg, f"bounding_box_train/0001_c{camera}s1_000001_00.jpg")[1]) for camera in (1, 2)]
    bags = [np.nonzero(mask == 3)[1].mean() for mask in noise]
    assert max(bags) < 15.5  # all figures walk to the right, with the bag behind


def test_an_image_of_other_settings_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="0099_c1s1_000001_00"):
        redraw(few(), "query/0099_c1s1_000001_00.jpg")
    with pytest.raises(ValueError, match="hat"):
        redraw(few(), "query/0007_c1s1_000001_00.jpg", present=("hat",))


def test_birds_and_individuals_do_not_take_each_others_place(cache_folder: Path) -> None:
    birds = SyntheticData(n_classes=2, n_train_per_class=1, n_val_per_class=1, n_test_per_class=1, picture_px=64)
    roots = {list_images(cfg).root for cfg in (birds, few())}
    assert len(roots) == 2
    assert all(root.parent == cache_folder / "synthetic" for root in roots)
