"""A report on a study of re-identification: which archive it reads, and the words that it says."""

from __future__ import annotations

import html
import re

from attnsearch.report.page import Report
from attnsearch.store.trial_layout import ArchivePaths
from tests.explorer.built import Built


def archive_of(reid: Built) -> ArchivePaths:
    """That of the best trial."""
    return reid.layout.trial(0).archive("val")


def text_of(report: Report) -> str:
    """The words of the page."""
    return html.unescape(re.sub(r"<[^>]*>", " ", report.html.partition("<body>")[2]))
