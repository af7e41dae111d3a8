"""Images on disk, as tables, as cached pixels and as batches."""
