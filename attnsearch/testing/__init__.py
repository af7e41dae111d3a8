"""Contract suites for parts of one's own, and what tests of them need; importing this needs pytest."""

from attnsearch.testing.data_set import DataSetContract
from attnsearch.testing.model import ModelContract
from attnsearch.testing.registry import temporary_parts

__all__ = ["DataSetContract", "ModelContract", "temporary_parts"]
