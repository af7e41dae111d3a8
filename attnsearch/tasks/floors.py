"""Embeddings without a model, which tables of retrieval scores are read against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD

_N_BINS = 4  # per channel: 64 colours


def histogram_features(images: Tensor) -> Tensor:
    """Colour histograms, compared by the Bhattacharyya coefficient.

    Args:
        images: (B, 3, H, W) normalised, as in a `Batch`.
    Returns:
        (B, 64) float32, of length 1: the roots of the fractions of pixels of each colour.
    """
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    levels = ((images * std + mean) * _N_BINS).long().clamp(0, _N_BINS - 1)  # (B, 3, H, W)
    colours = (levels[:, 0] * _N_BINS + levels[:, 1]) * _N_BINS + levels[:, 2]  # (B, H, W)
    return F.normalize(_fractions(colours.flatten(1)).sqrt(), dim=1)


def _fractions(colours: Tensor) -> Tensor:
    """The fraction of each colour among the pixels (B, n): (B, 64)."""
    n_images, n_colours = len(colours), _N_BINS**3
    places = colours + n_colours * torch.arange(n_images, device=colours.device)[:, None]
    counts = torch.bincount(places.flatten(), minlength=n_images * n_colours)
    return counts.view(n_images, n_colours) / colours.shape[1]
