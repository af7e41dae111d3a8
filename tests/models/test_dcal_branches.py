"""Heads of DCAL's branches: what a pass leaves behind in them."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.models.dcal import build
from attnsearch.models.dcal_branches import unmoved_statistics
from attnsearch.testing.model import wave_batch
from attnsearch.types import HeadOutput


class NeckHead(nn.Module):
    """A batch norm before a linear classifier, as in re-identification."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.neck = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, 5, bias=False)

    def forward(self, features: Tensor) -> HeadOutput:
        return HeadOutput(self.linear(self.neck(features)), features)


class NeckHeads:
    n_classes = 5

    def image(self, width: int, *, bias: bool = True) -> nn.Module:
        return NeckHead(width)

    def per_class(self, width: int) -> nn.Module:
        raise NotImplementedError

    def combine(self, branches: Mapping[str, HeadOutput]) -> HeadOutput:
        return next(iter(branches.values()))


def statistics(norm: nn.BatchNorm1d) -> list[Tensor]:
    return [norm.running_mean.clone(), norm.running_var.clone(), norm.num_batches_tracked.clone()]  # type: ignore[union-attr]


def test_statistics_stay_and_those_of_the_batch_are_used() -> None:
    norm = nn.BatchNorm1d(3)
    features = torch.sin(torch.arange(15.0)).view(5, 3)
    before = statistics(norm)
    with unmoved_statistics(norm):
        shown = norm(features)
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(norm), strict=True))
    torch.testing.assert_close(shown, norm(features))  # and this pass moves them
    assert norm.num_batches_tracked.item() == 1  # type: ignore[union-attr]


def test_pairs_do_not_move_the_statistics_of_test_time() -> None:
    """After a training step the neck of SA has seen the clean class tokens once, and nothing else."""
    torch.manual_seed(0)
    small = {"width": 0.34, "depth": 2, "position_grid": 4, "drop_path": 0.0}
    full = build(DcalSettings.model_validate({**small, "variant": "sa_pwca"}), NeckHeads()).train()
    alone = copy.deepcopy(full)
    alone.first_pwca = 2  # no block sees a partner
    for model in (full, alone):
        model(wave_batch(4))
    head, clean = (model.get_submodule("head.neck") for model in (full, alone))
    assert isinstance(head, nn.BatchNorm1d)
    assert isinstance(clean, nn.BatchNorm1d)
    assert head.num_batches_tracked.item() == 1  # type: ignore[union-attr]
    assert all(torch.equal(a, b) for a, b in zip(statistics(head), statistics(clean), strict=True))
    assert head.track_running_stats


def test_pairs_are_normalised_by_the_statistics_of_their_own_batch() -> None:
    torch.manual_seed(0)
    small = {"width": 0.34, "depth": 2, "position_grid": 4, "variant": "sa_pwca"}
    model = build(DcalSettings.model_validate(small), NeckHeads()).train()
    paired = model(wave_batch(4)).branches["pwca"]
    assert paired.embedding is not None
    neck = nn.BatchNorm1d(64)
    expected = model.get_submodule("head.linear")(neck(paired.embedding))
    torch.testing.assert_close(paired.logits, expected)
