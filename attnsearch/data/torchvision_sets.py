"""Data sets that torchvision has a reader for: FGVC-Aircraft, Stanford Cars, Oxford-IIIT Pets, Flowers-102.

torchvision finds the files and their labels; images are opened by this package. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision import datasets

from attnsearch.config.data import AircraftData, CarsData, FlowersData, PetsData, TorchvisionData
from attnsearch.data.layouts import near_name
from attnsearch.data.listing import ListedImage, Listing, size_problems
from attnsearch.errors import DataError
from attnsearch.types import Split

Reader = Callable[..., Any]


@dataclass(frozen=True)
class _Published:
    """A data set as its authors publish it.

    Attributes:
        folder: the folder in the data root; the root may also be that folder.
        splits: our split -> theirs, and its number of images.
        files: name of the reader's attribute that holds them.
    """

    reader: Reader
    folder: str
    n_classes: int
    splits: Mapping[Split, tuple[str, int]]
    files: str = "_image_files"


_PUBLISHED: dict[type[TorchvisionData], _Published] = {
    AircraftData: _Published(
        datasets.FGVCAircraft, "fgvc-aircraft-2013b", 100, {"train": ("trainval", 6667), "test": ("test", 3333)}
    ),
    CarsData: _Published(
        datasets.StanfordCars, "stanford_cars", 196, {"train": ("train", 8144), "test": ("test", 8041)}, "_samples"
    ),
    PetsData: _Published(
        datasets.OxfordIIITPet, "oxford-iiit-pet", 37, {"train": ("trainval", 3680), "test": ("test", 3669)}, "_images"
    ),
    FlowersData: _Published(
        datasets.Flowers102,
        "flowers-102",
        102,
        {"train": ("train", 1020), "val": ("val", 1020), "test": ("test", 6149)},
    ),
}


def list_images(cfg: TorchvisionData) -> Listing:
    """Reads the lists of the data set.

    Raises:
        DataError: no such folder, or lists that are missing or broken.
    """
    published = _PUBLISHED[type(cfg)]
    root = _find_root(cfg.root_path.absolute(), published.folder)
    images: list[ListedImage] = []
    names: Sequence[str] = ()
    for split, (theirs, _) in published.splits.items():
        reader = _read(published.reader, root, theirs)
        names = [str(name) for name in reader.classes]
        files, labels = _columns(reader, published.files)
        for file, label in zip(map(Path, files), labels, strict=True):
            images.append(ListedImage(split, names[label], file.relative_to(root).as_posix(), file))
    sizes = {split: n_images for split, (_, n_images) in published.splits.items()}
    problems = size_problems(root, images, n_classes=published.n_classes, sizes=sizes) if cfg.check_sizes else []
    return Listing.of(root, images, class_names=names, problems=problems)


def _find_root(root: Path, folder: str) -> Path:
    """The folder that holds `folder`, as torchvision expects it."""
    if (root / folder).is_dir():
        return root
    if root.name == folder and root.is_dir():
        return root.parent
    if not root.exists():
        raise DataError(f"data.root {root} does not exist{near_name(root)}")
    raise DataError(f"data.root {root} has no folder {folder}; unpack the data set there, as torchvision lays it out")


def _read(reader: Reader, root: Path, split: str) -> Any:
    try:
        return reader(root=str(root), split=split, download=False)
    except Exception as error:  # readers raise nearly anything on missing or broken lists; all of it means the same
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{root}: torchvision's {reader.__name__} cannot read the lists of its {split} split "
            f"({type(error).__name__}: {reason}); unpack the data set again"
        ) from error


def _columns(reader: Any, files: str) -> tuple[list[Any], list[int]]:
    if files == "_samples":
        paths, labels = zip(*reader._samples, strict=True)
        return list(paths), [int(label) for label in labels]
    return list(getattr(reader, files)), [int(label) for label in reader._labels]
