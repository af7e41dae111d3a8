"""RandAugment of a whole batch at once, image by image the same as torchvision's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as vision

from attnsearch.data.transfer import Sent, Transfer
from attnsearch.types import IMAGENET_MEAN

N_OPERATIONS = 2
_N_LEVELS = 10
_FILL = tuple(round(255 * value) for value in IMAGENET_MEAN)  # where an image is moved away
_MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
#: In torchvision's order, which the draws of an image depend on; the value: whether a coin decides its sign.
_OPERATIONS = {
    **{"identity": False, **dict.fromkeys(_MOVES, True), "brightness": True, "color": True, "contrast": True},
    **{"sharpness": True, "posterize": False, "solarize": False, "autocontrast": False, "equalize": False},
}
_NAMES = tuple(_OPERATIONS)
_LARGEST = {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30.0}


@dataclass(frozen=True)
class Group:
    """Images of a batch to which the same is done.

    Attributes:
        name: of the operation; "move" stands for all that move pixels.
        argument: of the operation, see `_argument`.
        places: of the images, in the order of the step.
    """

    name: str
    argument: float
    places: slice


@dataclass(frozen=True, eq=False)
class Operations:
    """What is done to the images (B) of a batch, one group after the other in each step.

    Attributes:
        groups: of each of the steps.
        order: (steps, B) int64 on the device, images sorted by group.
        matrices: (steps, B, 2, 3) float32 on the device, inverse affine maps in pixels from the middle of the image, in
            the sorted order; the identity where nothing is moved.
    """

    groups: tuple[tuple[Group, ...], ...]
    order: Tensor
    matrices: Tensor


@dataclass(frozen=True, eq=False)
class SentOperations:
    """Operations on their way to the device."""

    groups: tuple[tuple[Group, ...], ...]
    packed: Sent

    def receive(self) -> Operations:
        """The operations, for use on the current stream."""
        packed = self.packed.receive()  # (steps, B, 7) float64
        return Operations(self.groups, packed[..., 0].long(), packed[..., 1:].float().view(*packed.shape[:2], 2, 3))


def send_operations(
    seeds: NDArray[np.int64], strength: int, size_hw: tuple[int, int], transfer: Transfer
) -> SentOperations:
    """Draws two operations for each image from its own seed, and starts their copy to the device.

    Args:
        strength: 0 to 10.
    Source: torchvision `RandAugment` with a scale of 10. The Loupe uses timm's `rand-m9-mstd0.5`. Difference: every
        operation is applied, at one strength, and there is neither inversion nor additive solarising.
    """
    drawn = np.array([_draw(int(seed)) for seed in seeds], dtype=np.int64)  # (B, steps, 2)
    packed = np.zeros((N_OPERATIONS, len(seeds), 7))
    groups = []
    for step in range(N_OPERATIONS):
        kinds, signs = drawn[:, step].T
        order = np.lexsort((signs, kinds))
        matrices = [_matrix(_NAMES[kinds[row]], int(signs[row]), strength, size_hw) for row in order]
        packed[step] = np.concatenate([order[:, None], np.array(matrices).reshape(-1, 6)], axis=1)
        groups.append(tuple(_groups(kinds[order], signs[order], strength)))
    return SentOperations(tuple(groups), transfer.send(packed))


def _draw(seed: int) -> list[tuple[int, int]]:
    """Kind and sign of each operation of an image, by the draws that torchvision makes."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(N_OPERATIONS):
        kind = int(torch.randint(len(_NAMES), (), generator=generator))
        is_negative = _OPERATIONS[_NAMES[kind]] and float(torch.rand((), generator=generator)) <= 0.5
        drawn.append((kind, -1 if is_negative else 1))
    return drawn


def _groups(kinds: NDArray[np.int64], signs: NDArray[np.int64], strength: int) -> Iterator[Group]:
    """Runs of images (B) that are treated alike; all that move pixels stand together."""
    names = ["move" if _NAMES[kind] in _MOVES else _NAMES[kind] for kind in kinds]
    keys = [(name, _argument(name, int(sign), strength)) for name, sign in zip(names, signs, strict=True)]
    start = 0
    for stop in range(1, len(keys) + 1):
        if stop == len(keys) or keys[stop] != keys[start]:
            yield Group(*keys[start], slice(start, stop))
            start = stop


def _matrix(name: str, sign: int, strength: int, size_hw: tuple[int, int]) -> list[float]:
    """Row by row the (2, 3) map from a new pixel to an old one, from the middle of the image."""
    height, width = size_hw
    level = sign * _level(_LARGEST.get(name, 0.0), strength)
    match name:
        case "shear_x":  # shears keep the top left corner
            return [1.0, level, level * 0.5 * height, 0.0, 1.0, 0.0]
        case "shear_y":
            return [1.0, 0.0, 0.0, level, 1.0, level * 0.5 * width]
        case "translate_x":
            return [1.0, 0.0, -float(int(sign * _level(150 / 331 * width, strength))), 0.0, 1.0, 0.0]
        case "translate_y":
            return [1.0, 0.0, 0.0, 0.0, 1.0, -float(int(sign * _level(150 / 331 * height, strength)))]
        case "rotate":
            turn = math.radians(-(level % 360))
            return [math.cos(turn), math.sin(turn), 0.0, -math.sin(turn), math.cos(turn), 0.0]
    return [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def _argument(name: str, sign: int, strength: int) -> float:
    """The factor of a blend, the bits that posterising keeps, the threshold of solarising."""
    if name in ("brightness", "color", "contrast", "sharpness"):
        return 1.0 + sign * _level(0.9, strength)
    if name == "posterize":
        return float((8 - torch.arange(_N_LEVELS + 1) / (_N_LEVELS / 4)).round()[strength])
    if name == "solarize":
        return 255 * float(torch.linspace(1.0, 0.0, _N_LEVELS + 1)[strength])
    return 0.0


@lru_cache(maxsize=64)
def _level(largest: float, strength: int) -> float:
    """The magnitude of a strength, in torchvision's rounding."""
    return float(torch.linspace(0.0, largest, _N_LEVELS + 1)[strength])


def rand_augment(images: Tensor, operations: Operations) -> Tensor:
    """Applies the operations to images (B, 3, H, W) of [0, 1], without waiting for the device."""
    pixels = images.mul(255).round_().to(torch.uint8)
    for groups, order, matrices in zip(operations.groups, operations.order, operations.matrices, strict=True):
        for group in groups:
            if group.name == "identity":
                continue
            places = order[group.places]
            chosen = pixels.index_select(0, places)
            if group.name == "move":
                changed = move(chosen, matrices[group.places])
            else:
                changed = _APPLY[group.name](chosen, group.argument)
            pixels.index_copy_(0, places, changed)
    return pixels.to(torch.float32).div_(255)


def move(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Moves each image (B, 3, H, W) uint8 by its own matrix (B, 2, 3), to the nearest pixel; the mean colour fills."""
    n_images, _, height, width = pixels.shape
    places = [
        torch.linspace((1.0 - side) / 2, (side - 1.0) / 2, side, device=pixels.device) for side in (height, width)
    ]
    y, x = torch.meshgrid(*places, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, height * width, 3)
    half = _halves(height, width, pixels.device)
    grid = points.expand(n_images, -1, -1).bmm(matrices.transpose(1, 2) / half).view(n_images, height, width, 2)
    known = torch.cat([pixels.float(), torch.ones_like(pixels[:, :1], dtype=torch.float32)], dim=1)
    moved = functional.grid_sample(known, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    shown = torch.where(moved[:, 3:] < 0.5, _fill(pixels.device), moved[:, :3])
    return shown.round_().to(torch.uint8)


def sharpen(pixels: Tensor, factor: float) -> Tensor:
    """Blends images (B, 3, H, W) uint8 with a blur of themselves; a factor above 1 sharpens, the border stays."""
    if min(pixels.shape[2:]) <= 2:
        return pixels
    images = pixels.float()
    blurred = functional.conv2d(images, _blur_kernel(pixels.device), groups=3).round_()
    inner = images[..., 1:-1, 1:-1]
    inner.add_(blurred.sub_(inner), alpha=1.0 - factor)
    return images.clamp_(0, 255).to(torch.uint8)


def contrast(pixels: Tensor, factor: float) -> Tensor:
    """Blends each image (B, 3, H, W) uint8 with its mean grey, which does not depend on the others of the batch."""
    red, green, blue = pixels.unbind(dim=1)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    mean = grey.mean(dim=(1, 2), dtype=torch.float64).float().view(-1, 1, 1, 1)
    return pixels.mul(factor).add_(mean, alpha=1.0 - factor).clamp_(0, 255).to(torch.uint8)


#: On images (B, 3, H, W) uint8, with the argument of `_argument`.
_APPLY: dict[str, Callable[[Tensor, float], Tensor]] = {
    "brightness": vision.adjust_brightness,
    "color": vision.adjust_saturation,
    "contrast": contrast,
    "sharpness": sharpen,
    "posterize": lambda pixels, n_bits: vision.posterize(pixels, int(n_bits)),
    "solarize": vision.solarize,
    "autocontrast": lambda pixels, _: vision.autocontrast(pixels),
    "equalize": lambda pixels, _: vision.equalize(pixels),
}


@lru_cache(maxsize=8)
def _fill(device: torch.device) -> Tensor:
    """(3, 1, 1) float32."""
    return torch.tensor(_FILL, dtype=torch.float32, device=device).view(3, 1, 1)


@lru_cache(maxsize=8)
def _halves(height: int, width: int, device: torch.device) -> Tensor:
    """(2,) half of width and height."""
    return torch.tensor([0.5 * width, 0.5 * height], device=device)


@lru_cache(maxsize=8)
def _blur_kernel(device: torch.device) -> Tensor:
    """(3, 1, 3, 3): a mean whose middle counts five times."""
    kernel = torch.full((3, 3), 1 / 13)
    kernel[1, 1] = 5 / 13
    return kernel.to(device).expand(3, 1, 3, 3)
