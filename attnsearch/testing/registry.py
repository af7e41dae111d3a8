"""Registrations that end with a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from attnsearch import plugins


@contextmanager
def temporary_parts() -> Iterator[None]:
    """What is registered inside is forgotten at the end; what stood before stays."""
    before = {kind: dict(parts) for kind, parts in plugins._parts.items()}
    loaded = set(plugins._loaded)
    try:
        yield
    finally:
        plugins._parts.clear()
        plugins._parts.update(before)
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
