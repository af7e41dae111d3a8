"""What a report shows of a study of re-identification of which arrays are missing."""

from __future__ import annotations

import re

import pytest

from attnsearch.report.facts import read_facts
from attnsearch.report.page import build_report
from attnsearch.results.reader import load_study
from tests.explorer.built import Built
from tests.report.people import archive_of, text_of


@pytest.mark.parametrize("missing", [("maps",), ("saliency",), ("ranks",), ("features",), ("maps", "ranks"), ("all",)])
def test_missing_arrays_leave_the_scores_and_make_no_classification(reid: Built, missing: tuple[str, ...]) -> None:
    paths = archive_of(reid)
    for path in paths.large if missing == ("all",) else [getattr(paths, name) for name in missing]:
        path.unlink(missing_ok=True)
    report = build_report(reid.root)
    assert "cmc-here" in report.figures
    assert '<th title="mAP">mAP<span' in report.html
    assert not [name for name in report.figures if name.startswith("confusion")]
    assert not re.findall(r"(?i)\b\w*(?:confus|class)\w*", text_of(report))
    assert ("cameras-here-seek" in report.figures) is ({"maps", "saliency"} >= set(missing))


def test_damaged_features_are_named_and_leave_the_scores(reid: Built) -> None:
    archive_of(reid).features.write_bytes(b"")
    report = build_report(reid.root)
    assert text_of(report).count("features_val.npy is not a whole .npy file") == 1
    assert "cmc-here" in report.figures


def test_unreadable_galleries_make_no_classification(reid: Built) -> None:
    """The settings of the trial name its task."""
    archive_of(reid).retrieval.unlink()
    facts = read_facts(load_study(reid.layout.study_dir))
    assert (facts.retrieval, facts.is_retrieval) == (None, True)
    report = build_report(reid.root)
    assert "retrieval_val.csv does not exist" in text_of(report)
    assert not [name for name in report.figures if name.startswith("confusion")]
    assert "No sample images" not in report.html
    assert "--kind ranks" in text_of(report)
