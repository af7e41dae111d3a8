"""What a run holds in memory."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_MB = 1e6


def start_peak(device: torch.device) -> None:
    """Lets `peak_mb` count from now on, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float:
    """Megabytes: of a GPU the peak of this process since `start_peak`, of a processor what the process holds now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MB
    return anonymous_mb()


def anonymous_mb() -> float:
    """Megabytes that belong to this process alone, without mapped files; its peak where the system cannot tell."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024 / _MB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def release(device: torch.device) -> None:
    """Gives back what a finished or failed run held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
