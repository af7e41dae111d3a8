"""What may be written under `data:`; the list at the end is that of the package's data sets."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from attnsearch.config.base import Registered, register_part
from attnsearch.config.images import INPUT_SIZE, DataSettings, InputSize, RootedData

#: Number of parts in which any two synthetic classes must differ -> how many classes there can be.
MAX_SYNTHETIC_CLASSES = {1: 625, 2: 125, 3: 25, 4: 5}
#: Number of parts in which any two synthetic individuals must differ -> how many individuals there can be.
MAX_INDIVIDUALS = {1: 3125, 2: 625, 3: 125, 4: 25}


class SyntheticData(DataSettings):
    """Synthetic birds whose classes differ only in small planted parts; made on first use."""

    drawn_by: ClassVar[tuple[str, ...]] = (
        *("n_classes", "n_val_per_class", "n_test_per_class", "picture_px", "n_differing_parts"),
        *("part_scale", "bird_scale", "translation", "missing_parts", "data_seed"),
    )
    name: Literal["synthetic"] = Field("synthetic", description="synthetic birds, embedded in the package")
    image_size_px: InputSize = Field(96, description=INPUT_SIZE)
    n_classes: int = Field(8, ge=2, le=max(MAX_SYNTHETIC_CLASSES.values()), description="number of bird species")
    n_train_per_class: int = Field(100, ge=1, description="training images per class")
    n_val_per_class: int = Field(40, ge=1, description="validation images per class")
    n_test_per_class: int = Field(40, ge=1, description="test images per class")
    picture_px: int = Field(112, ge=48, le=1024, description="side in pixels of the images as they are drawn")
    n_differing_parts: int = Field(
        3, ge=1, le=4, description="any two classes differ in at least this many of the four parts; fewer is harder"
    )
    part_scale: float = Field(
        1.4, ge=0.5, le=2.0, description="size of the planted parts; 1 is natural, less is harder"
    )
    bird_scale: float = Field(
        0.5, ge=0.2, le=0.8, description="mean length of a bird as a fraction of the image's side"
    )
    translation: float = Field(
        1.0, ge=0.0, le=1.0, description="fraction of the free space that birds use; 0 puts all of them in the middle"
    )
    missing_parts: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="fraction of the training images that lack one to three of the four parts; their target is uniform "
        "over the classes that have the parts that are left",
        exclude_if=lambda fraction: fraction == 0,  # files and digests are older than this field
    )
    data_seed: int = Field(0, ge=0, description="seed of the drawings")

    @model_validator(mode="after")
    def _codes_suffice(self) -> Self:
        limit = MAX_SYNTHETIC_CLASSES[self.n_differing_parts]
        if self.n_classes > limit:
            raise ValueError(
                f"n_classes must be at most {limit} where classes differ in {self.n_differing_parts} parts, "
                f"got {self.n_classes}; lower n_differing_parts for more classes"
            )
        return self


class IndividualsData(DataSettings):
    """Synthetic walking figures, seen by several cameras, that are told apart by five parts; made on first use."""

    task: ClassVar[str] = "reid"
    drawn_by: ClassVar[tuple[str, ...]] = (
        *("n_identities", "n_test_identities", "picture_px", "n_differing_parts", "part_scale", "occlusion"),
        *("tied_clothes", "camera_effects", "data_seed"),
    )
    name: Literal["individuals"] = Field(
        "individuals", description="synthetic walking figures, embedded in the package"
    )
    image_size_px: InputSize = Field((128, 64), description=INPUT_SIZE)
    crop_ratio: float = Field(1.0, ge=0.5, le=1.0, description="as for other data sets; 1 shows whole images")
    brightness: float = Field(0.0, ge=0.0, le=1.0, description="as for other data sets")
    saturation: float = Field(0.0, ge=0.0, le=1.0, description="as for other data sets")
    n_identities: int = Field(
        64, ge=5, description="training individuals; fewer is harder, and with 5 every variant of every part occurs"
    )
    n_test_identities: int = Field(32, ge=2, description="individuals of query and gallery, none of them in training")
    n_cameras: int = Field(4, ge=2, le=9, description="number of cameras")
    n_per_camera: int = Field(
        4,
        ge=2,
        le=99,
        description="images of each individual from each camera; of test individuals the first is a query",
    )
    n_distractors: int = Field(
        64, ge=0, le=9999, description="gallery images of individuals that no query shows, under the identity 0000"
    )
    n_junk: int = Field(
        0, ge=0, le=9999, description="images of half a figure, under the identity -1, which are written and never used"
    )
    picture_px: int = Field(
        128,
        ge=64,
        le=1024,
        multiple_of=2,
        description="height in pixels of the images as they are drawn; the width is half of it",
    )
    n_differing_parts: int = Field(
        3, ge=1, le=4, description="any two individuals differ in at least this many of the five parts; fewer is harder"
    )
    part_scale: float = Field(1.3, ge=0.5, le=2.0, description="size of the parts; 1 is natural, less is harder")
    occlusion: float = Field(
        0.15, ge=0.0, le=1.0, description="fraction of images with a post or a bench in front; more is harder"
    )
    tied_clothes: bool = Field(
        False, description="whether clothes, hair and skin belong to the individual; else they are drawn per image"
    )
    camera_effects: bool = Field(
        True, description="whether cameras differ in background, direction, size, place, colour, blur and noise"
    )
    data_seed: int = Field(0, ge=0, description="seed of the drawings")

    @model_validator(mode="after")
    def _enough_codes(self) -> Self:
        limit = MAX_INDIVIDUALS[self.n_differing_parts]
        n_needed = self.n_identities + self.n_test_identities + (self.n_distractors > 0)
        if n_needed > limit:
            raise ValueError(
                f"n_identities + n_test_identities, and one more for distractors, must be at most {limit} where "
                f"individuals differ in {self.n_differing_parts} parts, got {n_needed}; lower n_differing_parts for "
                "more individuals"
            )
        return self


class FolderData(RootedData):
    """Images in `train`, `val` or `validation`, and `test` folders of class folders."""

    name: Literal["folder"] = Field(
        "folder", description="class folders under <root>/train, val, test, or under <root>_train, <root>_test"
    )


class CsvData(RootedData):
    """Images that a CSV file lists, with the columns `path`, `label`, `split` (train, val, test) and perhaps `mask`."""

    name: Literal["csv"] = Field("csv", description="a CSV file; paths in it start at its folder")
    root: str = Field(
        min_length=1, description="the CSV file, relative to where you are; ~ and $VARIABLES as for other data sets"
    )


class PublishedData(RootedData):
    """A published data set as it is downloaded."""

    check_sizes: bool = Field(
        True, description="whether other numbers of classes and images than the published ones are an error"
    )


class CubData(PublishedData):
    """Caltech-UCSD Birds 200-2011 as it is published: lists, boxes, part points."""

    name: Literal["cub"] = Field("cub", description="the CUB_200_2011 folder as it is downloaded")


class TorchvisionData(PublishedData):
    """A data set that torchvision reads; the root holds the folder that torchvision expects."""


class AircraftData(TorchvisionData):
    """FGVC-Aircraft, 100 variants; its training and validation lists together are train."""

    name: Literal["aircraft"] = Field("aircraft", description="a folder that holds fgvc-aircraft-2013b")


class CarsData(TorchvisionData):
    """Stanford Cars, 196 models."""

    name: Literal["cars"] = Field("cars", description="a folder that holds stanford_cars")


class PetsData(TorchvisionData):
    """Oxford-IIIT Pets, 37 breeds."""

    name: Literal["pets"] = Field("pets", description="a folder that holds oxford-iiit-pet")


class FlowersData(TorchvisionData):
    """Flowers-102 with its own validation list."""

    name: Literal["flowers"] = Field("flowers", description="a folder that holds flowers-102")


class ReidData(RootedData):
    """Images of identities, to be found in a gallery; defaults are those of the published recipes."""

    task: ClassVar[str] = "reid"
    image_size_px: InputSize = Field((256, 128), description=INPUT_SIZE)
    crop_ratio: float = Field(1.0, ge=0.5, le=1.0, description="as for other data sets; 1 shows whole images")
    brightness: float = Field(0.0, ge=0.0, le=1.0, description="as for other data sets")
    saturation: float = Field(0.0, ge=0.0, le=1.0, description="as for other data sets")


class Market1501Data(ReidData):
    """Market-1501: persons, 6 cameras; junk is left out, distractors stay in the gallery."""

    name: Literal["market1501"] = Field(
        "market1501", description="a folder that holds bounding_box_train, query, bounding_box_test, or its parent"
    )


class DukeData(ReidData):
    """DukeMTMC-reID: persons, 8 cameras."""

    name: Literal["duke"] = Field(
        "duke", description="a folder that holds bounding_box_train, query, bounding_box_test, or its parent"
    )


class Msmt17Data(ReidData):
    """MSMT17, version 1 or 2: persons, 15 cameras."""

    name: Literal["msmt17"] = Field("msmt17", description="the folder MSMT17_V1 or MSMT17_V2, or its parent")
    with_val: bool = Field(
        True, description="whether its validation list, of the same identities, is trained on, as TransReID does"
    )


class Veri776Data(ReidData):
    """VeRi-776: vehicles, 20 cameras; identity and camera are read from the names of the files."""

    name: Literal["veri776"] = Field(
        "veri776", description="a folder that holds image_train, image_query, image_test, or its parent"
    )
    image_size_px: InputSize = Field(256, description=INPUT_SIZE)


class ReidFolderData(ReidData):
    """Images of identities in folders of your own; where cameras are not known, groups such as encounters or days help.

    Layouts: the folders and names of Market-1501; identity folders in `train`, perhaps `val`, `query` and `gallery`;
    identity folders alone; or `images.csv` with the columns image, identity, split and perhaps camera and group.
    """

    name: Literal["reid_folder"] = Field("reid_folder", description="a folder in one of the layouts above")
    camera_pattern: str | None = Field(
        None,
        max_length=100,
        description="regular expression whose one group is the camera, matched to the beginning of a file's path below "
        "its identity folder; null takes cameras from cameras.csv (image, camera, group), if there is one",
    )
    test_share: float = Field(
        0.3, gt=0.0, lt=1.0, description="fraction of the identities that are tested where folders or lists do not say"
    )

    @field_validator("camera_pattern")
    @classmethod
    def _is_bounded(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_pattern(pattern)
        return pattern


def check_pattern(pattern: str) -> None:
    """Refuses a regular expression that has not one group, or that may take long on names of files.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"camera_pattern must be a regular expression, got {pattern!r}: {error}") from error
    if compiled.groups != 1:
        raise ValueError(f"camera_pattern must have one group, the camera, got {compiled.groups} in {pattern!r}")
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", pattern)  # without escapes and sets
    plain = re.sub(r"([*+?}])[?+]", r"\1", plain).replace("(?", "(")
    n_repeats, n_choices = len(re.findall(r"[*+{]", plain)), len(re.findall(r"[?|]", plain))
    if n_repeats > 3 or n_choices > 4 or re.search(r"\)[*+{]", plain) or compiled.flags & re.VERBOSE:
        raise ValueError(
            f"camera_pattern must have at most 3 of * + {{ and 4 of ? |, and repeat no group, got {pattern!r}"
        )


DataConfig = Annotated[DataSettings, Registered("dataset")]

_DATA_SETS: dict[type[DataSettings], str] = {
    SyntheticData: "synthetic.dataset",
    IndividualsData: "synthetic.individuals",
    FolderData: "folder",
    CsvData: "csv_table",
    CubData: "cub",
    AircraftData: "torchvision_sets",
    CarsData: "torchvision_sets",
    PetsData: "torchvision_sets",
    FlowersData: "torchvision_sets",
    Market1501Data: "reid_sets",
    DukeData: "reid_sets",
    Msmt17Data: "reid_sets",
    Veri776Data: "reid_sets",
    ReidFolderData: "reid_folder",
}
for _data_set, _module in _DATA_SETS.items():
    register_part("dataset", _data_set, f"attnsearch.data.{_module}:list_images")
