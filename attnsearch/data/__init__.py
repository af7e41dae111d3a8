"""Images on disk, as tables, as cached pixels and as batches."""

from attnsearch.data.build import build_tables
from attnsearch.data.tables import DataTables, ImageTable

__all__ = ["DataTables", "ImageTable", "build_tables"]
