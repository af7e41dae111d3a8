"""Expands $VARIABLES in what a person wrote; what a results folder holds is taken as it stands."""

from __future__ import annotations

import os
import re

URL_VARIABLE = "ATTNSEARCH_STORAGE_URL"
"""Names the database where a command has no `--storage`; a search hands it to its workers in the same way."""
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})", re.ASCII)


def expand(text: str) -> str:
    """`text` with $NAME and ${NAME} replaced by their values; a name that is not set stays, `$$` is a dollar sign."""
    return _VARIABLE.sub(_value, text)


def _value(found: re.Match[str]) -> str:
    name = found[1] or found[2]
    return os.environ.get(name, found[0]) if name else "$"


def literal(text: str) -> str:
    """The text that `expand` turns into `text`: nothing in it is a variable."""
    return text.replace("$", "$$")


def variable_values(text: str) -> dict[str, str]:
    """Name -> value of the variables in `text` that are set."""
    names = [found[1] or found[2] for found in _VARIABLE.finditer(text)]
    return {name: os.environ[name] for name in names if name and name in os.environ}


def is_variable(text: str) -> bool:
    """Whether `text` is the name of one variable and nothing else; its value is not looked up."""
    return text != "$$" and _VARIABLE.fullmatch(text) is not None
