"""Options that several commands share."""

import pytest

from attnsearch.cli._options import parse_workers
from attnsearch.errors import ConfigError


def test_workers_are_a_number_within_bounds() -> None:
    assert (parse_workers("1"), parse_workers("256")) == (1, 256)
    for text in ("0", "-1", "x", "1.5", "257", "9" * 5000):
        with pytest.raises(ConfigError, match=f"at most 256, got '{text[:80]}'"):
            parse_workers(text)
