"""Sizes of sheets, and text that must fit."""

from __future__ import annotations

from attnsearch.figures.grid import shorten


def test_long_text_is_cut_with_dots() -> None:
    assert shorten("wide" * 20, 1.0, 8).endswith("…")
    assert shorten("short", 1.0, 8) == "short"
