"""Embeddings without a model: what they keep of an image and what not."""

import pytest
import torch
from torch import Tensor

from attnsearch.tasks.floors import histogram_features
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD


def normalised(pixels: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] as a batch holds them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std


def halves(first: tuple[float, float, float], second: tuple[float, float, float]) -> Tensor:
    """An image (3, 12, 6) with one colour above another."""
    colours = (torch.tensor(colour)[:, None, None].expand(3, 6, 6) for colour in (first, second))
    return torch.cat(list(colours), dim=1)


RED, BLUE = (1.0, 0.1, 0.1), (0.1, 0.1, 1.0)


def test_a_histogram_is_the_root_of_the_fraction_of_each_colour() -> None:
    features = histogram_features(normalised(halves(RED, BLUE)[None]))
    assert features.shape == (1, 64)
    bins = {3 * 16: 0.5**0.5, 3: 0.5**0.5}  # red is the first of three digits of base 4, blue the last
    expected = torch.zeros(64)
    for place, value in bins.items():
        expected[place] = value
    torch.testing.assert_close(features[0], expected)


def test_a_histogram_does_not_know_where_a_colour_is() -> None:
    features = histogram_features(normalised(torch.stack([halves(RED, BLUE), halves(BLUE, RED)])))
    assert float(features[0] @ features[1]) == pytest.approx(1.0)


def test_histograms_have_length_one_and_ignore_how_an_image_is_arranged() -> None:
    images = torch.rand(3, 3, 13, 7, generator=torch.Generator().manual_seed(0))
    features = histogram_features(normalised(images))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(histogram_features(normalised(images.flip(-1))), features)
