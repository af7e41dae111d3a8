"""How images reach the model, and how validation is held out: the settings that all data sets have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from attnsearch import geometry
from attnsearch.config.base import Settings, expand


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
VIEWS = ("image_size_px", "crop_ratio", "resize")
"""Settings that say what a trained model sees of an image."""
INPUT_SIZE = "height and width in pixels of what the model sees: S for a square or [H, W], each from 16 to 4096"


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

    image_size_px: InputSize = Field(224, description=INPUT_SIZE)
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
    cell_deletion: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="probability that one cell of 4 x 4 of a training image becomes the mean colour, so that a missing "
        "cell is no surprise to the model; `idsds` compares models that were trained with 0.5",
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
