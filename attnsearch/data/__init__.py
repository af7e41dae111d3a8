"""Images on disk, as tables, as cached pixels and as batches."""

from attnsearch.data.check import data_errors
from attnsearch.data.tables import DataTables, ImageTable, build_tables

__all__ = ["DataTables", "ImageTable", "build_tables", "data_errors"]
