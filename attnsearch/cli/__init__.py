"""The command line: one thin file per command. Each imports what it needs inside, so that `--help` is quick."""

from attnsearch.cli.app import main

__all__ = ["main"]
