"""The studies with known maps and known galleries that the tests of the explorer build."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.explorer.built import Built
from tests.explorer.built_reid import build_reid
from tests.explorer.conftest import built, client, copied, template

__all__ = ["built", "client", "copied", "template"]


@pytest.fixture
def reid(tmp_path: Path) -> Built:
    """A study of re-identification of a test's own, which it may change."""
    return build_reid(tmp_path)
