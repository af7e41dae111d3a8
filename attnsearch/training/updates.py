"""One update of a training on several ranks: the sum of what each has made of its parts of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from attnsearch.errors import ConfigError
from attnsearch.training.batch_norm import is_shared
from attnsearch.training.parallel import Ranks


class UpdateSum:
    """Gradients and running statistics of a model: those of one process that works on all parts of a batch.

    Gradients are sums, in which a parameter without a gradient on all ranks stays without one, so that neither momentum
    nor weight decay moves it. Running statistics are moving averages over the parts in their order, and linear in what
    each part adds: a rank lets the statistics fade for each part that it leaves out, all but rank 0 begin with 0, and
    the sum is what one process would have. Other buffers, such as centres of identities, get the sum of their changes.
    With one rank there is nothing to do.

    Args:
        model: in the mode of training.
    Raises:
        ConfigError: a batch norm averages over all batches, which is not linear.
    """

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        trained = model if ranks.n_ranks > 1 else nn.Module()  # which is empty
        all_norms = [one for one in trained.modules() if isinstance(one, _BatchNorm)]
        norms = [norm for norm in all_norms if norm.training and not is_shared(norm)]
        of_norms = {id(buffer) for norm in all_norms for buffer in norm.buffers()}
        self._parameters = [one for one in trained.parameters() if one.requires_grad]
        self._statistics, self._kept = _moving_averages(norms)
        self._counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self._others = [one for one in trained.buffers() if id(one) not in of_norms]
        self._before: list[Tensor] = []
        self._n_parts = 0
        self._presence: dict[tuple[bool, ...], Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Called before the first part of a batch."""
        self._n_parts = 0
        self._before = [buffer.clone() for buffer in self._others]
        if self._ranks.rank > 0:
            for buffer in [*self._statistics, *self._counts]:
                buffer.zero_()

    @torch.no_grad()
    def skip_to(self, part: int) -> None:
        """Called before each part of this rank, by its number from 0 in the batch; those before are of other ranks."""
        n_left_out = part - self._n_parts
        if n_left_out and self._statistics:
            torch._foreach_mul_(self._statistics, [kept**n_left_out for kept in self._kept])
        self._n_parts = part + 1

    @torch.no_grad()
    def finish(self, n_parts: int) -> None:
        """Adds up what all ranks have made of a batch of so many parts."""
        if self._ranks.n_ranks == 1:
            return
        self.skip_to(n_parts)
        changes = [buffer - before for buffer, before in zip(self._others, self._before, strict=True)]
        buffers = [*self._statistics, *self._counts]
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in self._parameters]
        pieces = [*gradients, *buffers, *changes, self._is_present()]
        flat = torch.cat([piece.reshape(-1).float() for piece in pieces])
        self._ranks.add(flat)
        sums = _pieces_of(flat, pieces)
        self._take_gradients([next(sums) for _ in gradients], flat[len(flat) - len(gradients) :])
        for buffer in buffers:
            buffer.copy_(next(sums))
        for buffer, before in zip(self._others, self._before, strict=True):
            buffer.copy_(before + next(sums))

    def _is_present(self) -> Tensor:
        """(n_parameters,) 1 where this rank has a gradient; kept on the device, as it hardly ever changes."""
        present = tuple(one.grad is not None for one in self._parameters)
        if present not in self._presence:
            self._presence[present] = torch.tensor(present, dtype=torch.float32, device=self._parameters[0].device)
        return self._presence[present]

    def _take_gradients(self, sums: Sequence[Tensor], n_present: Tensor) -> None:
        """Puts the sums into the gradients; the device is asked only for those that this rank lacks."""
        lacking = [index for index, one in enumerate(self._parameters) if one.grad is None]
        is_elsewhere = set()
        if lacking:
            is_elsewhere = {index for index in lacking if n_present[index] > 0}
        for index, (parameter, total) in enumerate(zip(self._parameters, sums, strict=True)):
            if parameter.grad is not None:
                parameter.grad.copy_(total)
            elif index in is_elsewhere:
                parameter.grad = torch.empty_like(parameter).copy_(total)


def _pieces_of(flat: Tensor, pieces: Sequence[Tensor]) -> Iterator[Tensor]:
    """The parts of a flat tensor in the shapes of the pieces that it was joined from."""
    parts = torch.split(flat, [piece.numel() for piece in pieces])
    return (part.view(piece.shape) for part, piece in zip(parts, pieces, strict=True))


def _moving_averages(norms: Sequence[_BatchNorm]) -> tuple[list[Tensor], list[float]]:
    """The running means and variances, and what a part of a batch leaves of each.

    Raises:
        ConfigError: a batch norm has no momentum.
    """
    averages: list[Tensor] = []
    kept: list[float] = []
    for norm in norms:
        if norm.running_mean is None or norm.running_var is None:
            continue
        if norm.momentum is None:
            raise ConfigError(
                "a batch norm of this model has momentum None, and averages over all batches: it cannot train on "
                "several devices; give it a momentum, or set runtime.devices_per_trial=1"
            )
        averages += [norm.running_mean, norm.running_var]
        kept += [1.0 - norm.momentum] * 2
    return averages, kept
