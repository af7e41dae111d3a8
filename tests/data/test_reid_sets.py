"""Market-1501, DukeMTMC-reID, MSMT17 and VeRi-776: layouts, names, lists, and how their numbers are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from attnsearch.config.data import DukeData, Market1501Data, Msmt17Data, ReidData, Veri776Data
from attnsearch.data.listing import Listing
from attnsearch.data.reid_sets import list_images
from attnsearch.data.tables import build_tables
from attnsearch.errors import DataError
from tests.data.conftest import write_image

MARKET = {
    "bounding_box_train": [
        *("0002_c1s1_000451_03.jpg", "0002_c1s2_000776_01.jpg", "0002_c3s1_000551_01.jpg", "0007_c2s3_070952_01.jpg"),
        *("0007_c3s3_077419_03.JPG", "0010_c6s4_002427_06.jpg", "0010_c5s3_083987_04.jpg", "0011_c6s4_002852_01.jpg"),
        *("0011_c1s1_000001_00.jpg", "0020_c2s1_000001_00.jpg", "0020_c3s1_000001_00.jpg"),
    ],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c4s6_015641_00.jpg"],
    "bounding_box_test": [
        *("-1_c3s2_010000_01.jpg", "0000_c2s1_000101_01.jpg", "0001_c1s1_002301_02.jpg", "0001_c2s1_000301_00.jpg"),
        *("0003_c4s6_015671_01.jpg", "0004_c1s6_016000_01.jpg"),
    ],
}
DUKE = {
    "bounding_box_train": [f"{who:04d}_c{camera}_f0046985.jpg" for who in (1, 2, 4, 7) for camera in (2, 8)],
    "query": ["0005_c2_f0046985.jpg", "0008_c8_f0000001.jpg"],
    "bounding_box_test": ["0005_c5_f0051341.jpg", "0006_c2_f0000002.jpg", "0008_c3_f0000003.jpg"],
}
VERI = {
    "image_train": [f"{who:04d}_c{camera:03d}_00030600_0.jpg" for who in (1, 3, 4, 6) for camera in (1, 20)],
    "image_query": ["0002_c002_00030600_0.jpg", "0005_c003_00084280_0.jpg"],
    "image_test": [
        *("0002_c002_00030600_0.jpg", "0002_c012_00031000_1.jpg", "0005_c003_00084280_0.jpg"),
        "0005_c019_00084300_0.jpg",
    ],
}
MSMT17_TRAIN = [
    f"{who:04d}/{who:04d}_000_{camera:02d}_0303morning_0008_0.jpg" for who in range(4) for camera in (1, 15)
]
MSMT17 = {
    "list_train.txt": [*zip(MSMT17_TRAIN, "00112233", strict=True)],
    "list_val.txt": [("0000/0000_004_01_0303noon_0100_1.jpg", "0")],
    "list_query.txt": [("0000/0000_000_02_0303morning_0008_0.jpg", "0"), ("0001/0001_000_07_0303noon_0020_0.jpg", "1")],
    "list_gallery.txt": [
        *(("0000/0000_001_03_0303noon_0010_0.jpg", "0"), ("0001/0001_001_08_0303noon_0030_0.jpg", "1")),
        ("0001/0001_002_07_0303noon_0040_1.jpg", "1"),
    ],
}


def write_named(root: Path, folders: Mapping[str, Sequence[str]]) -> Path:
    """A tree of small images."""
    for folder, names in folders.items():
        for name in names:
            write_image(root / folder / name, (16, 8))
    return root


def write_msmt17(root: Path, lists: Mapping[str, Sequence[tuple[str, str]]] = MSMT17, *, prefix: str = "") -> Path:
    """The lists, and small images of what they name; `prefix` and suffix of the folders are those of a version."""
    for name, lines in lists.items():
        split = "train" if name in ("list_train.txt", "list_val.txt") else "test"
        for path, _ in lines:
            write_image(root / (f"mask_{split}_v2" if prefix else split) / path, (16, 8))
        (root / name).write_text("".join(f"{path} {identity}\n" for path, identity in lines))
    return root


def listed(cfg: ReidData) -> Listing:
    listing = list_images(cfg)
    assert [problem.message for problem in listing.problems if problem.is_error] == []
    return listing


def test_market_names_become_identities_cameras_and_queries(tmp_path: Path) -> None:
    cfg = Market1501Data(root=str(write_named(tmp_path, MARKET)))
    listing = listed(cfg)
    assert listing.class_names == ("0002", "0007", "0010", "0011", "0020")
    assert listing.camera_names == ("1", "2", "3", "4", "5", "6")
    assert listing.match_rule == "camera"
    by_id = {image.image_id: image for image in listing.images}
    assert by_id["bounding_box_train/0007_c3s3_077419_03.JPG"].camera == "3"
    assert [image_id for image_id, image in by_id.items() if image.is_query] == [
        "query/0001_c1s1_001051_00.jpg",
        "query/0003_c4s6_015641_00.jpg",
    ]


def test_junk_is_left_out_and_distractors_stay_in_the_gallery(tmp_path: Path) -> None:
    test = build_tables(Market1501Data(root=str(write_named(tmp_path, MARKET)))).of("test")
    assert test.class_names == ("0000", "0001", "0003", "0004")
    assert "bounding_box_test/0000_c2s1_000101_01.jpg" in test.image_ids
    assert not [image_id for image_id in test.image_ids if "/-1_" in image_id]


def test_cameras_count_from_zero_among_all_of_the_data_set(tmp_path: Path) -> None:
    test = build_tables(Market1501Data(root=str(write_named(tmp_path, MARKET)))).of("test")
    assert test.cameras is not None
    of_image = dict(zip(test.image_ids, test.cameras.tolist(), strict=True))
    assert of_image["query/0003_c4s6_015641_00.jpg"] == 3
    assert of_image["bounding_box_test/0000_c2s1_000101_01.jpg"] == 1


def test_validation_identities_are_held_out_of_train(tmp_path: Path) -> None:
    tables = build_tables(Market1501Data(root=str(write_named(tmp_path, MARKET))))
    assert not set(tables.train.class_names) - {"0002", "0007", "0010", "0011", "0020"}
    assert len(tables.val.class_names) == 2
    train = {image_id.split("/")[1][:4] for image_id in tables.train.image_ids}
    assert not train & set(tables.val.class_names)


@pytest.mark.parametrize(
    ("settings", "folders", "camera_of"),
    [
        (DukeData, DUKE, {"query/0008_c8_f0000001.jpg": "8", "bounding_box_test/0005_c5_f0051341.jpg": "5"}),
        (
            Veri776Data,
            VERI,
            {"image_test/0002_c012_00031000_1.jpg": "12", "image_train/0001_c020_00030600_0.jpg": "20"},
        ),
    ],
)
def test_cameras_of_duke_and_veri(
    tmp_path: Path, settings: type[ReidData], folders: Mapping[str, Sequence[str]], camera_of: Mapping[str, str]
) -> None:
    listing = listed(settings(root=str(write_named(tmp_path, folders))))
    cameras = {image.image_id: image.camera for image in listing.images}
    assert {image_id: cameras[image_id] for image_id in camera_of} == camera_of
    assert len(listing.images) == sum(map(len, folders.values()))


def test_queries_of_veri_that_are_in_its_gallery_are_no_matches_of_themselves(tmp_path: Path) -> None:
    test = build_tables(Veri776Data(root=str(write_named(tmp_path, VERI)))).of("test")
    itself = [row for row, image_id in enumerate(test.image_ids) if image_id.endswith("/0002_c002_00030600_0.jpg")]
    assert len(itself) == 2
    assert len({(test.labels[row], test.removal_keys[row]) for row in itself}) == 1


@pytest.mark.parametrize("version", ["", "v2"])
def test_msmt17_is_read_from_its_lists(tmp_path: Path, version: str) -> None:
    listing = listed(Msmt17Data(root=str(write_msmt17(tmp_path, prefix=version))))
    folder = "mask_train_v2" if version else "train"
    cameras = {image.image_id: image.camera for image in listing.images}
    assert cameras[f"{folder}/0003/0003_000_15_0303morning_0008_0.jpg"] == "15"
    assert listing.camera_names[0] == "1"
    assert len(listing.camera_names) == 15


def test_person_0_of_training_and_of_test_of_msmt17_are_two_persons(tmp_path: Path) -> None:
    listing = listed(Msmt17Data(root=str(write_msmt17(tmp_path))))
    persons = {split: {i.class_name for i in listing.images if i.split == split} for split in ("train", "test")}
    assert persons == {
        "train": {"train_0000", "train_0001", "train_0002", "train_0003"},
        "test": {"test_0000", "test_0001"},
    }


def test_the_validation_list_of_msmt17_is_trained_on_unless_it_is_left_out(tmp_path: Path) -> None:
    root = str(write_msmt17(tmp_path))
    image_id = "train/0000/0000_004_01_0303noon_0100_1.jpg"
    for with_val in (True, False):
        splits = {image.image_id: image.split for image in listed(Msmt17Data(root=root, with_val=with_val)).images}
        assert splits.get(image_id) == ("train" if with_val else None)


@pytest.mark.parametrize(
    ("settings", "place", "lines"),
    [
        (Market1501Data, "Market-1501-v15.09.15", MARKET),
        (Market1501Data, "market1501/Market-1501-v15.09.15", MARKET),
        (DukeData, "DukeMTMC-reID", DUKE),
        (Veri776Data, "VeRi", VERI),
        (Msmt17Data, "MSMT17_V1", MSMT17),
        (Msmt17Data, "MSMT17_V2", MSMT17),
    ],
)
def test_the_parent_of_a_data_set_is_a_root_too(
    tmp_path: Path, settings: type[ReidData], place: str, lines: Mapping[str, Sequence[object]]
) -> None:
    write = write_msmt17 if settings is Msmt17Data else write_named
    write(tmp_path / place, lines)  # type: ignore[operator]
    assert listed(settings(root=str(tmp_path))).root == tmp_path / place
    assert listed(settings(root=str(tmp_path / place))).root == tmp_path / place


def test_of_two_versions_one_must_be_named(tmp_path: Path) -> None:
    for name in ("MSMT17_V1", "MSMT17_V2"):
        write_msmt17(tmp_path / name)
    with pytest.raises(DataError, match=r"MSMT17_V1 and .*MSMT17_V2 both hold list_train.txt; name one"):
        list_images(Msmt17Data(root=str(tmp_path)))


def test_folders_that_were_tried_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"none of these holds bounding_box_train: {tmp_path}, {tmp_path}/Market-1501"):
        list_images(Market1501Data(root=str(tmp_path)))
    with pytest.raises(DataError, match=r"absent does not exist"):
        list_images(Market1501Data(root=str(tmp_path / "absent")))


def test_other_numbers_than_the_published_ones_are_a_warning_with_both(tmp_path: Path) -> None:
    listing = listed(Market1501Data(root=str(write_named(tmp_path, MARKET))))
    (warning,) = listing.problems
    assert not warning.is_error
    assert "5 identities of train (published: 751)" in warning.message
    assert "5 images of gallery (published: 15913)" in warning.message
    assert "6 cameras of train" not in warning.message  # equal


def test_numbers_of_msmt17_are_those_of_the_lists_that_are_read(tmp_path: Path) -> None:
    root = str(write_msmt17(tmp_path))
    for with_val, n_images in ((True, 32621), (False, 30248)):
        (warning,) = listed(Msmt17Data(root=root, with_val=with_val)).problems
        assert f"{9 if with_val else 8} images of train (published: {n_images})" in warning.message


@pytest.mark.parametrize(
    ("settings", "folders", "name", "message"),
    [
        (Market1501Data, MARKET, "bounding_box_train/photo.jpg", "1 name not beginning like 0002_c1s1_000451_03.jpg"),
        (
            Market1501Data,
            MARKET,
            "bounding_box_train/0002_c7s1_000451_03.jpg",
            "1 name with a camera that is not from 1 to 6",
        ),
        (Market1501Data, MARKET, "bounding_box_train/0002_c0s1_000451_03.jpg", "a camera that is not from 1 to 6"),
        (Market1501Data, MARKET, "bounding_box_train/0002_c12s1_000451_03.jpg", "not beginning like"),
        (Market1501Data, MARKET, "query/0000_c1s1_000451_03.jpg", ": 1 name beginning with 0000"),
        (Market1501Data, MARKET, "query/-2_c1s1_000451_03.jpg", "not beginning like"),
        (DukeData, DUKE, "query/0002_c1s1_000451_03.jpg", "not beginning like 0005_c2_f0046985.jpg"),
        (Veri776Data, VERI, "image_query/0002_c2_00030600_0.jpg", "not beginning like 0002_c002_00030600_0.jpg"),
        (Veri776Data, VERI, "image_query/0002_c021_00030600_0.jpg", "a camera that is not from 1 to 20"),
    ],
)
def test_a_name_that_does_not_fit_is_named(
    tmp_path: Path, settings: type[ReidData], folders: Mapping[str, Sequence[str]], name: str, message: str
) -> None:
    root = write_named(tmp_path, folders)
    write_image(root / name)
    assert all(problem.is_error for problem in list_images(settings(root=str(root))).problems)  # no counts of a part
    errors = [problem for problem in list_images(settings(root=str(root))).problems if problem.is_error]
    assert [problem.kind for problem in errors] == ["name"]
    assert message in errors[0].message
    assert errors[0].message.endswith(f"rename or remove each: {name}")  # in the same line


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    root = write_named(tmp_path, MARKET)
    (root / "query" / "0001_c2s1_001051_00.jpg").symlink_to(root / "gone.jpg")
    assert "query/0001_c2s1_001051_00.jpg" in {
        one.image_id for one in list_images(Market1501Data(root=str(root))).images
    }


def test_clutter_is_no_image(tmp_path: Path) -> None:
    root = write_named(tmp_path, MARKET)
    for name in ("Thumbs.db", "._0002_c1s1_000451_03.jpg", ".DS_Store", "readme.txt"):
        (root / "bounding_box_train" / name).touch()
    (root / "bounding_box_train" / "folder.jpg").mkdir()
    assert len(listed(Market1501Data(root=str(root))).images) == 18


def test_identities_are_not_read_from_folders_above(tmp_path: Path) -> None:
    root = write_named(tmp_path / "0009_c2s1_000001_01.jpg", MARKET)
    assert "0009" not in {image.class_name for image in listed(Market1501Data(root=str(root))).images}


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        (
            "list_query.txt",
            "0000/0000_000_16_0303noon_0010_0.jpg 0",
            r"list_query.txt:3: .*camera from 1 to 15, got '0000",
        ),
        ("list_query.txt", "0000/photo.jpg 0", r"list_query.txt:3: a name must begin like 0000_000_01"),
        (
            "list_train.txt",
            "0000/0000_000_01_0303noon_0010_0.jpg",
            r"list_train.txt:9: must be a path .*and an identity",
        ),
        ("list_train.txt", "0000/0000_000_01_0303noon_0010_0.jpg x", r"list_train.txt:9: must be a path"),
        ("list_train.txt", "../../0000_000_01_0303noon_0010_0.jpg 0", r"list_train.txt:9: must be a path below"),
        ("list_train.txt", "/etc/0000_000_01_0303noon_0010_0.jpg 0", r"list_train.txt:9: must be a path below"),
    ],
)
def test_a_wrong_line_of_a_list_is_named(tmp_path: Path, name: str, line: str, message: str) -> None:
    root = write_msmt17(tmp_path)
    with (root / name).open("a") as file:
        file.write(f"\n{line}\n".removeprefix("\n"))
    with pytest.raises(DataError, match=message):
        list_images(Msmt17Data(root=str(root)))


def test_listed_files_that_are_missing_are_named(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    (root / "test" / MSMT17["list_query.txt"][0][0]).unlink()
    with pytest.raises(DataError, match=rf"1 of 14 listed files do not exist.* {root}/test/0000/0000_000_02"):
        build_tables(Msmt17Data(root=str(root)))


def test_an_image_that_is_listed_twice_is_named(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path)
    (root / "list_val.txt").write_text(f"./{MSMT17_TRAIN[0]} 0\n")
    with pytest.raises(DataError, match=r"1 image is listed twice; keep one of each: train/0000/0000_000_01"):
        build_tables(Msmt17Data(root=str(root)))


def test_missing_lists_and_folders_are_named(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "msmt")
    (root / "list_gallery.txt").unlink()
    with pytest.raises(DataError, match=r"list_gallery.txt: cannot be read"):
        list_images(Msmt17Data(root=str(root)))
    (root / "test").rename(root / "other")
    with pytest.raises(DataError, match=r"has no folder test or mask_test_v2"):
        list_images(Msmt17Data(root=str(root)))
    root = write_named(tmp_path / "market", MARKET)
    (root / "query").rename(root / "other")
    with pytest.raises(DataError, match=r"query cannot be read \(No such file"):
        list_images(Market1501Data(root=str(root)))
