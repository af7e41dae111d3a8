"""Data sets that torchvision reads, in tiny copies of their layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from torchvision.datasets import flowers102

from attnsearch.config.data import AircraftData, CarsData, FlowersData, PetsData, TorchvisionData
from attnsearch.data import build_tables
from attnsearch.data.check import check_data
from attnsearch.errors import DataError
from tests.data.conftest import write_image


def write_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("DC-3\n737-400\n")
    for split, numbers in (("trainval", range(8)), ("test", range(8, 12))):
        lines = [f"{number:07d} {('DC-3', '737-400')[number % 2]}" for number in numbers]
        (data / f"images_variant_{split}.txt").write_text("\n".join(lines) + "\n")
        for number in numbers:
            write_image(data / "images" / f"{number:07d}.jpg")


def write_cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["Audi", "BMW"], dtype=object)})
    for split, file, numbers in (
        ("train", base / "devkit" / "cars_train_annos.mat", range(8)),
        ("test", base / "cars_test_annos_withlabels.mat", range(4)),
    ):
        rows = [(f"{number:05d}.jpg", number % 2 + 1) for number in numbers]
        savemat(file, {"annotations": np.array(rows, dtype=[("fname", object), ("class", object)])})
        for name, _ in rows:
            write_image(base / f"cars_{split}" / name)


def write_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations" / "trimaps").mkdir(parents=True)
    for split, numbers in (("trainval", range(8)), ("test", range(8, 12))):
        breeds = ("Abyssinian", "basset_hound")
        lines = [f"{breeds[number % 2]}_{number} {number % 2 + 1} {number % 2 + 1} 1" for number in numbers]
        (base / "annotations" / f"{split}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            write_image(base / "images" / f"{line.split()[0]}.jpg")


def write_flowers(root: Path) -> None:
    base = root / "flowers-102"
    base.mkdir()
    savemat(base / "imagelabels.mat", {"labels": np.arange(16) % 102 + 1})
    numbers = np.arange(1, 17)
    savemat(base / "setid.mat", {"trnid": numbers[:8], "valid": numbers[8:12], "tstid": numbers[12:]})
    for number in numbers:
        write_image(base / "jpg" / f"image_{number:05d}.jpg")


SETS: dict[str, tuple[type[TorchvisionData], Callable[[Path], None], tuple[str, str]]] = {
    "aircraft": (AircraftData, write_aircraft, ("DC-3", "737-400")),
    "cars": (CarsData, write_cars, ("Audi", "BMW")),
    "pets": (PetsData, write_pets, ("Abyssinian", "Basset Hound")),
}


@pytest.mark.parametrize("name", SETS)
def test_lists_become_tables_with_a_held_out_share(name: str, tmp_path: Path) -> None:
    settings, write, class_names = SETS[name]
    write(tmp_path)
    cfg = settings(root=str(tmp_path), check_sizes=False, val_share=0.25, image_size_px=16, crop_ratio=1.0)
    tables = build_tables(cfg)
    assert tables.class_names == class_names
    assert (len(tables.train), len(tables.val), len(tables.of("test"))) == (6, 2, 4)
    assert tables.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(path.is_file() for table in tables.present() for path in table.paths)
    assert not [problem for problem in check_data(cfg).problems if problem.kind != "few_images"]


def test_the_folder_of_the_data_set_itself_is_a_root_too(tmp_path: Path) -> None:
    write_pets(tmp_path)
    cfg = PetsData(root=str(tmp_path / "oxford-iiit-pet"), check_sizes=False)
    assert build_tables(cfg).class_names == ("Abyssinian", "Basset Hound")


def test_flowers_keep_their_validation_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowers102, "check_integrity", lambda path, _md5: Path(path).is_file())
    write_flowers(tmp_path)
    with pytest.raises(DataError, match="train and val must hold the same classes"):  # each flower stands in one list
        build_tables(FlowersData(root=str(tmp_path), check_sizes=False))
    savemat(tmp_path / "flowers-102" / "imagelabels.mat", {"labels": np.arange(16) % 4 + 1})
    tables = build_tables(FlowersData(root=str(tmp_path), check_sizes=False))
    assert (len(tables.train), len(tables.val), len(tables.of("test"))) == (8, 4, 4)
    assert tables.class_names[:2] == ("pink primrose", "hard-leaved pocket orchid")


def test_a_part_of_a_data_set_is_told_from_the_whole(tmp_path: Path) -> None:
    write_cars(tmp_path)
    with pytest.raises(
        DataError,
        match=r"2 classes and 8 train, 4 test images, .* 196 classes and 8144 train, 8041 test images; "
        r".*data\.check_sizes=false",
    ):
        build_tables(CarsData(root=str(tmp_path)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: (root / "fgvc-aircraft-2013b").rename(root / "else"), "has no folder fgvc-aircraft-2013b"),
        (
            lambda root: (root / "fgvc-aircraft-2013b/data/variants.txt").unlink(),
            "FGVCAircraft cannot read the lists of its trainval split .*variants.txt",
        ),
        (
            lambda root: (root / "fgvc-aircraft-2013b/data/images/0000003.jpg").unlink(),
            "1 of 12 listed files do not exist; .*0000003.jpg",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    write_aircraft(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=f"(?s){said}"):
        build_tables(AircraftData(root=str(tmp_path), check_sizes=False))
