"""One HTML page that shows an experiment without a server."""
