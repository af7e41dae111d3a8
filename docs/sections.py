"""Puts the blank line above each section of a docstring that the reader of docstrings asks for."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_SECTION = re.compile(r"(?<=[^\n])\n(?=(?:Args|Attributes|Raises|Returns|Source|Yields):)")


class SpacedSections(Extension):
    """Changes the docstrings that the site shows, and none in the code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _SECTION.sub("\n\n", obj.docstring.value)
