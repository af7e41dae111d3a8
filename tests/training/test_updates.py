"""What several ranks make of one update, played by threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from attnsearch.errors import ConfigError
from attnsearch.training.parallel import ALONE, Ranks
from attnsearch.training.updates import UpdateSum


class PlayedRanks(Ranks):
    """One of several threads."""

    def __init__(self, rank: int, n_ranks: int, tensors: list[Tensor | None], barrier: threading.Barrier) -> None:
        self.rank, self.n_ranks, self._tensors, self._barrier = rank, n_ranks, tensors, barrier

    def add(self, tensor: Tensor) -> None:
        self._tensors[self.rank] = tensor.clone()
        self._barrier.wait(timeout=30)
        tensor.copy_(torch.stack([one for one in self._tensors if one is not None]).sum(dim=0))
        self._barrier.wait(timeout=30)


class Net(nn.Module):
    """A batch norm, a weight that not every part uses, and a buffer that parts move."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2, momentum=0.3)
        self.sometimes = nn.Parameter(torch.ones(2))
        self.never = nn.Parameter(torch.ones(3))
        self.moved = nn.Buffer(torch.zeros(4))

    def work_on(self, part: Tensor, number: int) -> None:
        """A backward pass over a part (B, 2)."""
        features = self.norm(part)
        loss = features.square().sum()
        if number == 1:
            loss = loss + (features * self.sometimes).sum() * 3
        loss.backward()
        self.moved[number] += number + 1.0


def parts_of(n_parts: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 2, generator=generator) * (number + 1) + number for number in range(n_parts)]


def worked(n_ranks: int, n_parts: int, n_updates: int = 2) -> list[Net]:
    """The net of each rank after updates without a step."""
    tensors: list[Tensor | None] = [None] * n_ranks
    barrier = threading.Barrier(n_ranks)

    def work(rank: int) -> Net:
        net = Net()
        played = PlayedRanks(rank, n_ranks, tensors, barrier) if n_ranks > 1 else ALONE
        update_sum = UpdateSum(net, played)
        for _ in range(n_updates):
            net.zero_grad(set_to_none=True)
            update_sum.begin()
            for number, part in list(enumerate(parts_of(n_parts)))[rank::n_ranks]:
                update_sum.skip_to(number)
                net.work_on(part, number)
            update_sum.finish(n_parts)
        return net

    with ThreadPoolExecutor(n_ranks) as pool:
        return list(pool.map(work, range(n_ranks)))


@pytest.mark.parametrize(("n_ranks", "n_parts"), [(2, 2), (2, 4), (3, 4), (3, 2), (4, 4)])
def test_all_ranks_have_what_one_process_would(n_ranks: int, n_parts: int) -> None:
    (one,) = worked(1, n_parts)
    for net in worked(n_ranks, n_parts):
        assert net.never.grad is None
        for found, expected in zip(net.parameters(), one.parameters(), strict=True):
            assert (found.grad is None) == (expected.grad is None)
            if found.grad is not None:
                torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-5)
        for name, buffer in net.named_buffers():
            torch.testing.assert_close(buffer, one.get_buffer(name), rtol=1e-6, atol=1e-6)
        assert net.norm.num_batches_tracked == 2 * n_parts


def test_statistics_follow_the_definition_of_a_moving_average() -> None:
    parts = parts_of(2)
    mean = torch.zeros(2)
    for part in parts:
        mean = 0.7 * mean + 0.3 * part.mean(dim=0)
    for net in worked(2, 2, n_updates=1):
        torch.testing.assert_close(net.norm.running_mean, mean, rtol=1e-6, atol=1e-6)


def test_one_rank_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    update_sum = UpdateSum(net, ALONE)
    net.norm.running_mean = torch.tensor([1.0, 2.0])
    update_sum.begin()
    update_sum.skip_to(0)
    update_sum.finish(3)
    assert net.norm.running_mean.tolist() == [1.0, 2.0]
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_batch_norm_without_momentum_is_refused_on_several_ranks_alone() -> None:
    net = nn.Sequential(nn.BatchNorm1d(2, momentum=None))
    UpdateSum(net, ALONE)
    barrier: Callable[..., threading.Barrier] = threading.Barrier
    with pytest.raises(ConfigError, match=r"momentum None.*runtime\.devices_per_trial=1"):
        UpdateSum(net, PlayedRanks(0, 2, [], barrier(2)))
