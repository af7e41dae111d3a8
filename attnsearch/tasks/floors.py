"""Embeddings without a model, which tables of retrieval scores are read against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.geometry import Size
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD

_N_BINS = 4  # per channel: 64 colours


def histogram_features(images: Tensor, *, n_stripes: int = 1) -> Tensor:
    """Colour histograms, compared by the Bhattacharyya coefficient.

    Args:
        images: (B, 3, H, W) normalised, as in a `Batch`.
        n_stripes: horizontal stripes of equal height, each with a histogram of its own.
    Returns:
        (B, 64 * n_stripes) float32, of length 1: the roots of the fractions of pixels of each colour.
    """
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    levels = ((images * std + mean) * _N_BINS).long().clamp(0, _N_BINS - 1)  # (B, 3, H, W)
    colours = (levels[:, 0] * _N_BINS + levels[:, 1]) * _N_BINS + levels[:, 2]  # (B, H, W)
    fractions = [_fractions(stripe.flatten(1)) for stripe in colours.tensor_split(n_stripes, dim=1)]
    return F.normalize(torch.cat(fractions, dim=1).sqrt(), dim=1)


def _fractions(colours: Tensor) -> Tensor:
    """The fraction of each colour among the pixels (B, n): (B, 64)."""
    n_images, n_colours = len(colours), _N_BINS**3
    places = colours + n_colours * torch.arange(n_images, device=colours.device)[:, None]
    counts = torch.bincount(places.flatten(), minlength=n_images * n_colours)
    return counts.view(n_images, n_colours) / colours.shape[1]


def pixel_features(images: Tensor, *, grid: Size = (16, 8)) -> Tensor:
    """Small copies of the images, compared by the cosine.

    Args:
        images: (B, 3, H, W) normalised, as in a `Batch`.
        grid: rows and columns of a copy.
    Returns:
        (B, 3 * h * w) float32, of length 1.
    """
    return F.normalize(F.adaptive_avg_pool2d(images.float(), grid).flatten(1), dim=1)
