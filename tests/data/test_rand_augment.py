"""RandAugment of a batch, compared with torchvision's of each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment
from torchvision.transforms.v2 import functional as vision

from attnsearch.data import rand_augment as module
from attnsearch.data.rand_augment import Operations, contrast, rand_augment, send_operations
from attnsearch.data.transfer import Transfer

TRANSFER = Transfer(torch.device("cpu"))
FILL = [124.0, 116.0, 104.0]  # ImageNet's mean colour


def photographs(n_images: int, size_hw: tuple[int, int] = (40, 56)) -> Tensor:
    """(N, 3, H, W) uint8: smooth colours with noise, one with a single value and one with few."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((n_images, 3, 5, 7), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=size_hw, mode="bicubic").clamp(0, 1)
    images = (smooth * 230 + torch.from_numpy(rng.random(smooth.shape, dtype=np.float32)) * 25).to(torch.uint8)
    images[0] = 77
    images[1] = images[1] // 64 * 64
    return images


def by_torchvision(images: Tensor, seeds: np.ndarray, strength: int) -> Tensor:
    operate = RandAugment(num_ops=2, magnitude=strength, num_magnitude_bins=11, fill=FILL)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(images, seeds, strict=True):
            torch.manual_seed(int(seed))
            changed.append(operate(image))
    return torch.stack(changed)


def in_one_batch(images: Tensor, seeds: np.ndarray, strength: int) -> Tensor:
    operations = send_operations(seeds, strength, (images.shape[2], images.shape[3]), TRANSFER).receive()
    changed = rand_augment(images.to(torch.float32).div_(255), operations)
    return changed.mul(255).round().to(torch.uint8)


@pytest.mark.parametrize("size_hw", [(40, 56), (33, 33)])
@pytest.mark.parametrize("strength", [0, 5, 9, 10])
def test_a_batch_equals_torchvision_image_by_image(strength: int, size_hw: tuple[int, int]) -> None:
    seeds = np.random.default_rng(strength).integers(2**62, size=96)
    images = photographs(96, size_hw)
    assert torch.equal(in_one_batch(images, seeds, strength), by_torchvision(images, seeds, strength))


SIGNED = [(name, sign) for name, is_signed in module._OPERATIONS.items() for sign in ((1, -1) if is_signed else (1,))]


@pytest.mark.parametrize(("name", "sign"), SIGNED)
def test_each_operation_equals_that_of_torchvision(name: str, sign: int) -> None:
    images, kind = photographs(6), module._NAMES.index(name)
    operate = RandAugment(num_ops=1, magnitude=7, num_magnitude_bins=11, fill=FILL)
    theirs = next(key for key in operate._AUGMENTATION_SPACE if key.lower() == name.replace("_", ""))
    levels, is_signed = operate._AUGMENTATION_SPACE[theirs]
    assert is_signed is module._OPERATIONS[name]
    magnitudes = levels(11, 40, 56)
    level = 0.0 if magnitudes is None else sign * float(magnitudes[7])
    fill = {torch.Tensor: FILL}
    expected = torch.stack(
        [
            operate._apply_image_or_video_transform(
                image, theirs, level, interpolation=operate.interpolation, fill=fill
            )
            for image in images
        ]
    )
    kinds, signs = np.full(6, kind), np.full(6, sign)
    matrix = torch.tensor(module._matrix(name, sign, 7, (40, 56))).view(1, 1, 2, 3).expand(1, 6, -1, -1)
    operations = Operations((tuple(module._groups(kinds, signs, 7)),), torch.arange(6)[None], matrix)
    changed = rand_augment(images.to(torch.float32).div_(255), operations).mul(255).round().to(torch.uint8)
    assert torch.equal(changed, expected)
    if name not in ("identity", "equalize"):  # the second spreads what is spread already
        assert not torch.equal(changed, images)


def test_an_image_does_not_depend_on_its_batch_or_on_the_global_generator() -> None:
    images, seeds = photographs(12), np.arange(12)
    before = torch.default_generator.get_state()
    together = in_one_batch(images, seeds, 9)
    assert torch.equal(torch.default_generator.get_state(), before)
    alone = torch.cat([in_one_batch(images[[place]], seeds[[place]], 9) for place in range(12)])
    assert torch.equal(together, alone)


def test_contrast_blends_with_the_mean_grey_of_large_images() -> None:
    images = photographs(2, (300, 400))
    assert torch.equal(contrast(images[:1], 1.6), vision.adjust_contrast(images[:1], 1.6))
    grey = (images[1].double() * torch.tensor([0.2989, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)).sum(dim=0)
    expected = (images[1] * 0.4 + grey.floor().mean() * 0.6).clamp(0, 255)
    assert (contrast(images[1:], 0.4)[0].double() - expected).abs().max() <= 1
