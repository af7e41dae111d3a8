"""The exit codes."""

from __future__ import annotations

from attnsearch.errors import AttnSearchError, ConfigError, DataError

DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130


def exit_code(error: AttnSearchError) -> int:
    """2 for what the user wrote or pointed to, 1 for everything else."""
    return MISUSED if isinstance(error, ConfigError | DataError) else FAILED
