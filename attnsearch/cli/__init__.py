"""The command line: thin verbs over the package. A verb imports what it needs inside, so that `--help` is quick."""

from attnsearch.cli.app import main

__all__ = ["main"]
