"""`python -m attnsearch` is the command `attnsearch`."""

import sys

from attnsearch.cli import main

if __name__ == "__main__":
    sys.exit(main())
