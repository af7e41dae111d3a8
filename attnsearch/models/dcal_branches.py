"""What DCAL makes of the class tokens of its branches: heads, the norms of a branch of its own, weights of losses."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from attnsearch.config.model import DcalSettings
from attnsearch.models.base import Heads
from attnsearch.models.dcal_attention import GlobalLocalCrossAttention, TimmBlock
from attnsearch.types import HeadOutput

INIT_STD = 0.02  # of the linear layers of timm's ViTs


class UncertaintyWeights(nn.Module):
    """Learned weights of several losses: the total is the sum of (exp(-w) · loss + w) / 2, each w starting at 0.

    The best w is the logarithm of its loss, so with losses below 1/e the total is rightly negative.

    Source: Kendall et al. 2018 (arXiv 1705.07115), in the form of Zhu et al. 2022, section 3.4.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.w = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, branch: str, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The terms of one branch: its losses, scalars by name, weighted, and `uncertainty_<branch>` = w / 2."""
        w = self.w[self.names.index(branch)]
        weight = 0.5 * torch.exp(-w)
        return {**{name: weight * loss for name, loss in losses.items()}, f"uncertainty_{branch}": 0.5 * w}


class GlcaBranch(nn.Module):
    """Global-local cross-attention blocks beside the last self-attention blocks, with a norm and a classifier."""

    def __init__(self, cfg: DcalSettings, heads: Heads, *, body: VisionTransformer) -> None:
        super().__init__()
        parallel: list[TimmBlock] = list(body.blocks)[-cfg.n_glca_blocks :]
        self.readout = cfg.glca_readout
        self.blocks = nn.ModuleList(GlobalLocalCrossAttention(block) for block in parallel)
        self.norm = copy.deepcopy(body.norm)
        if cfg.glca_init == "random":
            self.apply(_initialise)
        self.head = token_head(body, heads)

    def forward(self, queries: Tensor) -> HeadOutput:
        """The head's answer to the queries (B, Q, D) after the last block, the class token first."""
        tokens = self.norm(queries)  # (B, Q, D)
        features = {"cls": tokens[:, :1], "local_mean": tokens[:, 1:], "query_mean": tokens}[self.readout]
        head: HeadOutput = self.head(features.mean(dim=1))  # of (B, D)
        return head


@contextmanager
def unmoved_statistics(module: nn.Module) -> Iterator[None]:
    """Lets the batch norms of a module use the statistics of a batch without updating their running ones."""
    norms = [
        norm
        for norm in module.modules()
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d) and norm.track_running_stats
    ]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def token_head(body: VisionTransformer, heads: Heads) -> nn.Module:
    """A head on one token (B, D); a linear layer starts with the weights of timm's ViTs, others with their own."""
    head = heads.image(body.embed_dim)
    _initialise(head)
    return head


def _initialise(module: nn.Module) -> None:
    """Fresh weights as timm's ViTs start with; a module of several layers is left as it is."""
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
