"""Which names experiments and studies may have, as names of folders."""

from __future__ import annotations

import re

from attnsearch.errors import ConfigError

MAX_NAME_LENGTH = 100
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_name(key: str, value: str, problem: str | None) -> None:
    """Refuses a name that has a problem.

    Raises:
        ConfigError: it has one.
    """
    if problem is not None:
        raise ConfigError(f"{key} {problem}, got {value!r}")


def name_problem(value: str) -> str | None:
    """Why the value cannot name a folder everywhere; None where it can."""
    if len(value) > MAX_NAME_LENGTH:
        return f"must have at most {MAX_NAME_LENGTH} characters ({len(value)} now)"
    if not _NAME.fullmatch(value) or ".." in value:
        return "may hold only letters A-Z, digits, '_', '-' and inner single '.'"
    return None
