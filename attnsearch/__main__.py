"""The command `attnsearch`, also `python -m attnsearch`: Ctrl-C and SIGTERM end it with one line from the start."""

import contextlib
import os
import signal
import sys
from types import FrameType

#: As `errors.INTERRUPTED`, which stands behind the imports that this handler watches over.
_INTERRUPTED = 130


def _end(_signal: int, _frame: FrameType | None) -> None:
    """Ends the process while there is nothing to clean up: an exception would leave the import of a module in two."""
    with contextlib.suppress(OSError):
        os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


def main() -> int:
    """Imports the command line and runs a command; a signal that is ignored, as in a background job, stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from attnsearch.cli import main as run_verb

    return run_verb()


if __name__ == "__main__":
    sys.exit(main())
