"""The exit codes."""

from __future__ import annotations

from attnsearch.errors import AttnSearchError, ConfigError, DataError, TransientError

DONE, FAILED, MISUSED, TRANSIENT, INTERRUPTED = 0, 1, 2, 75, 130


def exit_code(error: AttnSearchError) -> int:
    """2 for what the user wrote or pointed to, 1 for everything else."""
    return MISUSED if isinstance(error, ConfigError | DataError) else FAILED


def worker_exit_code(error: AttnSearchError) -> int:
    """As `exit_code`, but 75 for a fault that another worker may not meet: the search starts one."""
    return TRANSIENT if isinstance(error, TransientError) else exit_code(error)
