"""What a run holds in memory."""

from __future__ import annotations

import pytest
import torch

from attnsearch.training import memory


def test_held_memory_grows_with_what_is_held() -> None:
    before = memory.peak_mb(torch.device("cpu"))
    held = torch.ones(16_000_000)  # 64 MB, written to
    assert memory.peak_mb(torch.device("cpu")) - before == pytest.approx(64, abs=8)
    del held
