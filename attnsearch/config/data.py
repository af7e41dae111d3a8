"""What may be written under `data:`; the list at the end is that of the package's data sets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from attnsearch import geometry
from attnsearch.config.base import Registered, Settings, expand, register_part

#: Number of parts in which any two synthetic classes must differ -> how many classes there can be.
MAX_SYNTHETIC_CLASSES = {1: 625, 2: 125, 3: 25, 4: 5}


def _both(size: int | geometry.Size) -> geometry.Size:
    return (size, size) if isinstance(size, int) else size


def as_setting(size_hw: geometry.Size) -> int | geometry.Size:
    """As it is written in a config: S for a square, else (H, W)."""
    return size_hw[0] if size_hw[0] == size_hw[1] else size_hw


def _checked(size: int | geometry.Size, *, largest: int) -> int | geometry.Size:
    """[S, S] is S, so that both ways to write a square are one setting."""
    if not all(16 <= side <= largest for side in _both(size)):
        raise ValueError(f"must be from 16 to {largest} pixels, got {list(size) if isinstance(size, tuple) else size}")
    return as_setting(_both(size))


InputSize = Annotated[int | geometry.Size, AfterValidator(partial(_checked, largest=4096))]
CacheSize = Annotated[int | geometry.Size, AfterValidator(partial(_checked, largest=8192))]
"""Pixels: S for S x S, or [height, width]."""
_INPUT_SIZE = "height and width in pixels of what the model sees: S for a square or [H, W], each from 16 to 4096"


class MultiScale(Settings):
    """Training at many scales with the aspect ratio kept, as DETR and INTR do."""

    shorter_px: tuple[int, ...] = Field(
        tuple(range(480, 801, 32)), min_length=1, description="sides in pixels, of which the shorter one gets one"
    )
    longest_px: int = Field(1333, ge=16, description="largest length of the longer side in pixels")
    crop_probability: float = Field(0.5, ge=0.0, le=1.0, description="probability of a crop before")
    crop_from_px: tuple[int, ...] = Field(
        (400, 500, 600), min_length=1, description="the shorter side gets one of these before a crop"
    )
    crop_px: tuple[int, int] = Field((384, 600), description="smallest and largest side of a crop in pixels")

    @model_validator(mode="after")
    def _crops_fit(self) -> Self:
        low, high = self.crop_px
        if not 1 <= low <= min(high, *self.crop_from_px) or min(self.shorter_px) < 16:
            raise ValueError(
                f"crop_px must rise and begin within crop_from_px, and shorter_px be at least 16, got crop_px "
                f"{[low, high]}, crop_from_px {list(self.crop_from_px)}, shorter_px {list(self.shorter_px)}"
            )
        return self


class DataSettings(Settings):
    """How images reach the model, and how validation is held out; a data set of your own adds its `name` and fields."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The data set."""

    drawn_by: ClassVar[tuple[str, ...]] = ()
    """Settings that change what the images show and neither their number nor their names."""
    task: ClassVar[str] = "classification"
    """What its images can be used for."""

    image_size_px: InputSize = Field(224, description=_INPUT_SIZE)
    crop_ratio: float = Field(
        0.875,
        ge=0.5,
        le=1.0,
        description="images are resized to int(H / crop_ratio) by int(W / crop_ratio) pixels, of which H x W "
        "are cropped",
    )
    resize: geometry.ResizeRule = Field(
        "squash",
        description="squash: to H x W whatever the aspect ratio; crop: the largest centred part of that aspect; "
        "pad: whole, on the smallest canvas of that aspect, which needs crop_ratio 1",
    )
    crop_scale: tuple[float, float] | None = Field(
        None,
        description="a, b: training crops show a fraction in [a, b] of the resized image, stretched by 3/4 to 4/3, "
        "instead of H x W of its pixels; fine detail needs a larger cache_px",
    )
    pad_px: int = Field(
        0,
        ge=0,
        description="black pixels put around the resized image on each side before a training crop is cut out of it",
        exclude_if=lambda pad_px: pad_px == 0,  # files and digests are older than this field
    )
    erase: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="probability that a rectangle of 2 to 33 % of a training image becomes noise (random erasing)",
        exclude_if=lambda probability: probability == 0,  # files and digests are older than this field
    )
    rand_augment: int | None = Field(
        None, ge=1, le=10, description="strength, of 10, of RandAugment's two random operations per training image"
    )
    multi_scale: MultiScale | None = Field(
        None, description="scales of training images, padded to the largest of a batch; only with resize: pad"
    )
    flip: float = Field(0.5, ge=0.0, le=1.0, description="probability that a training image is mirrored")
    brightness: float = Field(
        0.126, ge=0.0, le=1.0, description="x: training brightness is scaled by a factor in [1 - x, 1 + x]"
    )
    saturation: float = Field(
        0.5, ge=0.0, le=1.0, description="x: training saturation is scaled by a factor in [1 - x, 1 + x]"
    )
    val_share: float = Field(
        0.1,
        gt=0.0,
        lt=1.0,
        description="fraction of each training class, or of the training identities, held out where there is no "
        "validation split",
    )
    split_seed: int = Field(1, ge=0, description="seed of that held-out part")
    cache_px: CacheSize | None = Field(
        None,
        description="size in pixels of the cached images, S or [H, W]; null means that of the resized ones, a search "
        "sets its largest",
    )

    @model_validator(mode="after")
    def _views_go_together(self) -> Self:
        if self.resize == "pad" and self.crop_ratio != 1:
            raise ValueError(f"resize pad shows whole images, so crop_ratio must be 1, got {self.crop_ratio:g}")
        if self.multi_scale is not None and (self.resize != "pad" or self.crop_scale is not None):
            raise ValueError("multi_scale needs resize: pad and no crop_scale; it crops by itself")
        if self.resize == "pad" and self.crop_scale is not None:
            raise ValueError("crop_scale would show padding; set resize: squash or crop")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be two rising fractions in (0, 1], got {list(self.crop_scale)}")
        return self

    @model_validator(mode="after")
    def _padding_goes_with_crops(self) -> Self:
        if self.pad_px and (self.resize == "pad" or self.crop_scale is not None):
            raise ValueError(
                f"pad_px moves crops of H x W pixels, so it needs resize: squash or crop and no crop_scale, got "
                f"{self.pad_px}; set it to 0"
            )
        if self.pad_px >= min(self.image_hw):
            raise ValueError(f"pad_px must be less than the sides {self.image_hw} of an image, got {self.pad_px}")
        return self

    @model_validator(mode="after")
    def _cache_is_large_enough(self) -> Self:
        if any(cached < resized for cached, resized in zip(self.cached_hw, self.resized_hw, strict=True)):
            least, cached = (as_setting(size) for size in (self.resized_hw, self.cached_hw))
            raise ValueError(f"cache_px must be at least int(image_size_px / crop_ratio) = {least}, got {cached}")
        return self

    @property
    def root_path(self) -> Path | None:
        """The folder of the data set, if it has one."""
        return None

    @property
    def image_hw(self) -> geometry.Size:
        """Height and width in pixels of what the model sees."""
        return _both(self.image_size_px)

    @property
    def resized_hw(self) -> geometry.Size:
        """Height and width in pixels of the resized image out of which the model input is cut."""
        return geometry.resized_hw(self.image_hw, self.crop_ratio)

    @property
    def cached_hw(self) -> geometry.Size:
        """Height and width in pixels of the images in the cache."""
        return self.resized_hw if self.cache_px is None else _both(self.cache_px)

    @property
    def cached(self) -> geometry.Resizing:
        """How originals become the images in the cache."""
        return geometry.Resizing(self.cached_hw, self.resize, self.aspect)

    @property
    def aspect(self) -> float:
        """Height / width of the part of an original that is resized; 1 for `squash`, where it is the original's own."""
        return 1.0 if self.resize == "squash" else self.image_hw[0] / self.image_hw[1]


class RootedData(DataSettings):
    """A data set in a folder."""

    root: str = Field(
        min_length=1,
        description="folder of the data set, relative to where you are; ~ and $VARIABLES are expanded ($$ is a dollar "
        "sign), but commands that read results take the one in a results folder as it stands",
    )

    @property
    def root_path(self) -> Path:
        """`root` with `~` and variables expanded."""
        return Path(expand(self.root)).expanduser()


class SyntheticData(DataSettings):
    """Synthetic birds whose classes differ only in small planted parts; made on first use."""

    drawn_by: ClassVar[tuple[str, ...]] = (
        *("n_classes", "n_val_per_class", "n_test_per_class", "picture_px", "n_differing_parts"),
        *("part_scale", "bird_scale", "translation", "data_seed"),
    )
    name: Literal["synthetic"] = Field("synthetic", description="synthetic birds, embedded in the package")
    image_size_px: InputSize = Field(96, description=_INPUT_SIZE)
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


DataConfig = Annotated[DataSettings, Registered("dataset")]

_DATA_SETS: dict[type[DataSettings], str] = {
    SyntheticData: "synthetic.dataset",
    FolderData: "folder",
    CsvData: "csv_table",
    CubData: "cub",
    AircraftData: "torchvision_sets",
    CarsData: "torchvision_sets",
    PetsData: "torchvision_sets",
    FlowersData: "torchvision_sets",
}
for _data_set, _module in _DATA_SETS.items():
    register_part("dataset", _data_set, f"attnsearch.data.{_module}:list_images")
