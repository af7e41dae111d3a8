"""The overview of a study, drawn from what a search has left."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from attnsearch.results import overview
from attnsearch.results.overview import write_overview
from attnsearch.results.reader import load_results


def test_the_best_trial_is_drawn_with_its_parts_and_numbers(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = load_results(finished_run).study("br_npa_low_res").best
    asked: list[object] = []
    draw = overview.draw_overview
    monkeypatch.setattr(overview, "draw_overview", lambda *drawn: (asked.extend(drawn), draw(*drawn)))
    write_overview(trial, tmp_path / "overview.png")
    title, subtitle, images, levels, _ = asked
    assert title == f"br_npa_low_res, trial {trial.number}, epoch {trial.row.best_epoch}"
    assert "cells)" in str(subtitle)
    ids = [shown.explanation.image_id for shown in images]  # type: ignore[attr-defined]
    assert len(set(ids)) == len(ids) > 0
    assert all(shown.mask is not None and shown.mask.is_file() for shown in images)  # type: ignore[attr-defined]
    assert levels[0].name == "accuracy"  # type: ignore[index]
    with Image.open(tmp_path / "overview.png") as image:
        assert image.mode in ("RGB", "RGBA")
