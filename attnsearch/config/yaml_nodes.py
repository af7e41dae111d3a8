"""Reads YAML text into nodes that know their lines, within limits that no settings file needs to exceed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.scanner import Scanner

from attnsearch.errors import ConfigError

MAX_BYTES = 128 * 1024
MAX_NODES = 4_000
"""Keys and values of one file; those behind an alias count each time."""
MAX_DEPTH = 100
"""Blocks and lists inside each other; a dotted key counts for each of its parts."""
TOO_DEEP = f"is nested over {MAX_DEPTH} levels; write it flatter"
TAG = "tag:yaml.org,2002:"

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RESOLVER = YAML(typ="safe", pure=True).resolver

Place = tuple[str, ...]
Where = Callable[[int], str]
"""A line of a source, from 1, as a message names it."""


@dataclass(frozen=True)
class Node:
    """A value as it is written; `size` counts the nodes in it, `height` the levels below it."""

    line: int
    tag: str
    size: int
    height: int


@dataclass(frozen=True)
class Scalar(Node):
    """A number, a text or nothing."""

    text: str


@dataclass(frozen=True)
class ListNode(Node):
    """A list."""

    items: tuple[Node, ...]


@dataclass(frozen=True)
class Block(Node):
    """Keys with their values, in the order of the text; a key may occur twice."""

    entries: tuple[tuple[Scalar, Node], ...]


def compose(text: str, where: Where, root: Place = ()) -> Node:
    """The one document of a YAML 1.2 text.

    Args:
        root: the key that the whole text belongs to.
    Raises:
        ConfigError: no valid YAML, or one of the limits is exceeded; with the place.
    """
    if character := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, character.start()) + 1
        raise ConfigError(format_error(where(line), root, f"holds the character {character[0]!r}; remove it"))
    return _Composer(text, where, root).document()


def format_error(origin: str, place: Place, message: str) -> str:
    """`file:line: key: message`."""
    return f"{origin}: {dotted(place)}: {message}" if place else f"{origin}: {message}"


def dotted(place: Place) -> str:
    """A place as a message shows it, on one line of limited length."""
    key = ".".join(place)
    return shortened(key if key.isprintable() else repr(key)[1:-1])


def shortened(text: str) -> str:
    """At most 80 characters of a text."""
    return text if len(text) <= 80 else text[:77] + "..."


def is_printable(text: str) -> bool:
    """Whether a text has no control characters and no halves of characters."""
    return _UNPRINTABLE.search(text) is None


class _TooDeep(MarkedYAMLError):
    """More brackets are open than levels are allowed."""


class _Scanner(Scanner):
    """Ends at too many open brackets: the original looks far ahead of the parser, in quadratic time."""

    def fetch_flow_collection_start(self, *arguments: Any, **named: Any) -> None:
        if len(self.flow_context) > MAX_DEPTH:
            raise _TooDeep(problem=TOO_DEEP, problem_mark=self.reader.get_mark())
        super().fetch_flow_collection_start(*arguments, **named)


class _Composer:
    """Builds nodes while the text is read, so that a limit ends the reading where it is exceeded."""

    def __init__(self, text: str, where: Where, root: Place) -> None:
        yaml = YAML(typ="safe", pure=True)
        yaml.Scanner = _Scanner
        self._events = yaml.parse(io.StringIO(text))
        self._where, self._root = where, root
        self._anchors: dict[str, Node | None] = {}
        self._n_nodes = 0
        self._line = 1

    def document(self) -> Node:
        """The document; a text without one is null."""
        self._next()  # the start of the text
        start = self._next()
        if isinstance(start, StreamEndEvent):
            return Scalar(1, f"{TAG}null", 1, 0, "")
        if isinstance(start, DocumentStartEvent) and start.version not in (None, (1, 2)):
            self._refuse(self._root, "is read as YAML 1.2; remove the line %YAML")
        node = self._node(self._next(), self._root)
        self._next()  # the end of the document
        if not isinstance(self._next(), StreamEndEvent):
            self._refuse(self._root, "holds a second document; remove the line ---")
        return node

    def _next(self, place: Place | None = None) -> Any:
        try:
            event = next(self._events)
        except MarkedYAMLError as error:
            self._line = error.problem_mark.line + 1 if error.problem_mark else self._line
            at = place if isinstance(error, _TooDeep) and place else self._root
            self._refuse(at, error.problem or "is not valid YAML")
        except (YAMLError, ValueError, ArithmeticError):  # of ruamel: an escape or a %YAML with a number out of range
            self._refuse(self._root, "is not valid YAML here or shortly after; look for a wrong escape or directive")
        self._line = event.start_mark.line + 1
        return event

    def _refuse(self, place: Place, message: str) -> NoReturn:
        raise ConfigError(format_error(self._where(self._line), place, message)) from None

    def _node(self, event: Any, place: Place) -> Node:
        before, line = self._n_nodes, self._line
        self._count(1, place)
        if len(place) > MAX_DEPTH:
            self._refuse(place, TOO_DEEP)
        if isinstance(event, AliasEvent):
            return self._named(event.anchor, place)
        if event.anchor:
            self._anchors[event.anchor] = None  # open until its node is complete
        if isinstance(event, ScalarEvent):
            node: Node = Scalar(line, _tag(event), 1, 0, event.value)
        elif isinstance(event, SequenceStartEvent):
            node = self._list(event.tag or f"{TAG}seq", line, place, before)
        else:
            node = self._block(event.tag or f"{TAG}map", line, place, before)
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _count(self, n_nodes: int, place: Place) -> None:
        self._n_nodes += n_nodes
        if self._n_nodes > MAX_NODES:
            self._refuse(place, f"is beyond the {MAX_NODES} keys and values that are read; write fewer")

    def _named(self, anchor: str, place: Place) -> Node:
        if anchor not in self._anchors:
            self._refuse(place, f"the alias *{shortened(anchor)} has no anchor above it")
        node = self._anchors[anchor]
        if node is None:
            self._refuse(place, f"the alias *{shortened(anchor)} is inside of what it names")
        self._count(node.size, place)
        if len(place) + node.height > MAX_DEPTH:
            self._refuse(place, TOO_DEEP)
        return node

    def _list(self, tag: str, line: int, place: Place, before: int) -> ListNode:
        items: list[Node] = []
        while not isinstance(event := self._next(place), SequenceEndEvent):
            items.append(self._node(event, (*place, str(len(items)))))
        height = 1 + max((item.height for item in items), default=0)
        return ListNode(line, tag, self._n_nodes - before, height, tuple(items))

    def _block(self, tag: str, line: int, place: Place, before: int) -> Block:
        entries: list[tuple[Scalar, Node]] = []
        while not isinstance(event := self._next(place), MappingEndEvent):
            key = self._node(event, (*place, "?"))
            if not isinstance(key, Scalar):
                self._refuse(place, "has a list or a block as a key; keys are text")
            inside = (*place, *key.text.split("."))
            entries.append((key, self._node(self._next(inside), inside)))
        height = max((len(key.text.split(".")) + node.height for key, node in entries), default=1)
        return Block(line, tag, self._n_nodes - before, height, tuple(entries))


def _tag(event: ScalarEvent) -> str:
    """The tag that is written, or the one that YAML 1.2 gives to unquoted text."""
    if event.tag is not None and event.tag != "!":
        return str(event.tag)
    if event.tag is None and event.implicit[0]:
        return str(_RESOLVER.resolve(ScalarNode, event.value, (True, False)))
    return f"{TAG}str"
