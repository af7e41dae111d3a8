"""Every exception that a caller of the package may meet.

    AttnSearchError
    ├── ConfigError        what the user wrote: a file, a key, a value        exit code 2
    │   └── MissingPlugin  stored settings that need a plugin
    ├── DataError          a data set that is missing, broken or another one  exit code 2
    ├── UsageError         (a ValueError too) an argument that does not fit   exit code 2
    ├── StoreError         disk, permissions, databases                       exit code 1
    │   └── ServerUnavailable
    ├── SearchStopped      a search that cannot continue                      exit code 1
    ├── TransientError     another attempt may not meet it                    exit code 1
    │   ├── DeviceError          a GPU that failed, or that others fill
    │   ├── RankLost             a process of a trial on several devices that ended
    │   ├── TransientStoreError  (a StoreError too) an I/O or database error that may pass
    │   │   └── ConnectionLost
    │   └── UnexpectedError      any other exception
    └── TrialError         this setting is bad, the study continues with others
        ├── NonFiniteLoss
        └── OutOfMemory

Beside the tree stand four outcomes of a trial that are not errors: `TrialPruned` (its curve was not worth continuing),
`TrialPaused` (it waits at a rung for others), `TrialInterrupted` (someone asked the process to stop) and `LeaseLost`
(another worker has taken the trial over).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

DONE, FAILED, MISUSED, TRANSIENT, INTERRUPTED = 0, 1, 2, 75, 130
"""Exit codes of the command line. A worker ends with `TRANSIENT` where another one may succeed."""
_LONGEST_NAME = 100


class AttnSearchError(Exception):
    """Base of all errors; its text is one line that names the file or key, the value and how to correct it.

    Attributes:
        exit_code: what the command line ends with.
    """

    exit_code = FAILED


class ConfigError(AttnSearchError):
    """A setting, file or command that cannot be followed. Several problems stand on several lines."""

    exit_code = MISUSED


class MissingPlugin(ConfigError):
    """Stored settings that were made with a plugin which is not imported here."""


class DataError(AttnSearchError):
    """Images, labels or class maps that cannot be used."""

    exit_code = MISUSED


class UsageError(AttnSearchError, ValueError):
    """An argument of a function or method that does not fit; a ValueError too, as Python code expects it."""

    exit_code = MISUSED


class StoreError(AttnSearchError):
    """A disk, a folder or a database that cannot be read or written."""


class ServerUnavailable(StoreError):
    """A database server that did not answer for as long as `storage_patience_s` allows."""


class SearchStopped(AttnSearchError):
    """A search that cannot continue; its text names the reason."""


class TransientError(AttnSearchError):
    """An error that is neither the setting's nor the user's: the trial is returned and another worker continues it."""


class DeviceError(TransientError):
    """The device failed, or other processes fill it; not because of the setting."""


class RankLost(TransientError):
    """A process that trains the same model on another device has ended, or does not answer."""


class TransientStoreError(StoreError, TransientError):
    """An I/O or database error without a known remedy, which may not come again."""


class ConnectionLost(TransientStoreError):
    """The connection to the database broke during a transaction, which may or may not have been committed."""


class UnexpectedError(TransientError):
    """An exception of no known kind; the worker's log has its traceback."""


class TrialError(AttnSearchError):
    """One trial's setting does not work; the study marks it failed and continues."""


class NonFiniteLoss(TrialError):
    """The loss, or what it is made of, became NaN or infinite."""


class OutOfMemory(TrialError):
    """The device has too little memory for the setting."""


class TrialPruned(Exception):
    """The pruner ended the trial early."""


class TrialPaused(Exception):
    """The trial has reached the rung at which it waits for others; it may continue later from there."""


class TrialInterrupted(Exception):
    """The process was asked to stop; the trial continues later from its last epoch."""


class LeaseLost(Exception):
    """Another attempt owns the trial now; this one must write nothing more."""


def suggest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` where a known name is close, else nothing; very long words are no misspelled names."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6) if len(name) <= _LONGEST_NAME else []
    return f" (did you mean {close[0]!r}?)" if close else ""
