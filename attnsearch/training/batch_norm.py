"""Batch norms whose statistics are those of the images on all ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnsearch.training.parallel import Ranks


class SharedForward:
    """What a batch norm computes in training: it normalises by the mean and the variance over all ranks.

    All ranks call it as often as each other. The variance is that of the centred values, in float32, as the mean of the
    squares rounds too much. Other than torch's `SyncBatchNorm` it works on processors too, and a rank that fails in
    between ends all others with its error.
    """

    def __init__(self, norm: _BatchNorm, ranks: Ranks) -> None:
        self._norm, self._ranks = norm, ranks

    def __call__(self, features: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        norm = self._norm
        if not norm.training:
            return type(norm).forward(norm, features)
        shape = [1, -1, *[1] * (features.ndim - 2)]
        dims = [0, *range(2, features.ndim)]
        values = features.float()
        count = values.new_tensor([features.numel() / features.shape[1]])
        total = self._sum(torch.cat([values.sum(dims), count]))
        mean, n_values = total[:-1] / total[-1], total[-1]
        centred = values - mean.view(shape)
        variance = self._sum(centred.square().sum(dims)) / n_values
        _move_statistics(norm, mean.detach(), (variance * n_values / (n_values - 1)).detach())
        normalised = centred * (variance + norm.eps).rsqrt().view(shape)
        if norm.affine:
            normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
        return _rest_of(norm, normalised.to(features.dtype))

    def _sum(self, tensor: Tensor) -> Tensor:
        total: Tensor = _SumOverRanks.apply(tensor, self._ranks)
        return total


class _SumOverRanks(torch.autograd.Function):
    """The sum over all ranks; what it is used for on each of them adds to its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = tensor.clone()
        ranks.add(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone()
        ctx.ranks.add(total)
        return total, None


@torch.no_grad()
def _move_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Moves the running statistics; without a momentum they are means over all batches."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked += 1
    weight = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean, weight)
    norm.running_var.lerp_(variance, weight)


def _rest_of(norm: _BatchNorm, normalised: Tensor) -> Tensor:
    """What timm's norms with an activation do afterwards."""
    for name in ("drop", "act"):
        layer = getattr(norm, name, None)
        normalised = normalised if layer is None else layer(normalised)
    return normalised


def share_batch_norms(model: nn.Module, ranks: Ranks) -> None:
    """Lets the batch norms of a model see the images of all ranks; with one rank there is nothing to share."""
    for module in model.modules() if ranks.n_ranks > 1 else ():
        if isinstance(module, _BatchNorm):
            object.__setattr__(module, "forward", SharedForward(module, ranks))


def is_shared(norm: nn.Module) -> bool:
    """Whether the statistics of a batch norm are those of all ranks already."""
    return isinstance(norm.forward, SharedForward)
