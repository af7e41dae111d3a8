"""What starts the workers of a search."""
