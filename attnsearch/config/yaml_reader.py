"""Finds YAML files by name, and reads them and the overrides of a command line into layers, with every problem."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from attnsearch.config.yaml_layers import INVALID, Layer
from attnsearch.config.yaml_nodes import (
    MAX_BYTES,
    TAG,
    Block,
    ListNode,
    Node,
    Place,
    Scalar,
    Where,
    compose,
    dotted,
    format_error,
    is_printable,
    shortened,
)
from attnsearch.errors import ConfigError, suggest

COMMAND_LINE = "command line"
MAX_INT = 2**63 - 1
Kind = Literal["configs", "studies", "configs/profiles"]
_KEY = re.compile(r"[^\s.]+(\.[^\s.]+)*")
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false"}


def folders(*kinds: Kind) -> list[Path]:
    """Where files of some kinds lie: of each the current folder first, then the checkout or the installed package."""
    package = Path(__file__).resolve().parents[1]
    candidates = [top / kind for kind in kinds for top in (Path(), package.parent, package)]
    return [folder for folder in candidates if folder.is_dir()]


def list_names(*kinds: Kind) -> list[str]:
    """Bare names of all files of some kinds, sorted."""
    return sorted({path.stem for folder in folders(*kinds) for path in folder.glob("*.yaml")})


def find_file(name: str, kinds: tuple[Kind, ...]) -> Path:
    """The file behind a path or a bare name; the first kind wins.

    Raises:
        ConfigError: nothing has this name; the message lists all names.
    """
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    for path in [Path(name)] if is_path else [folder / f"{name}.yaml" for folder in folders(*kinds)]:
        if _is_file(path):
            return path
    names = list_names(*kinds)
    known = ", ".join(names) or "none"
    if is_path:
        raise ConfigError(f"{dotted((name,))}: no such file; pass a YAML file or one of: {known}")
    raise ConfigError(f"unknown name {shortened(repr(name))}{suggest(name, names)}; known: {known}")


def _is_file(path: Path) -> bool:
    """Whether a file has this path; a name that no file can have is one that none has."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_yaml(path: Path) -> Layer:
    """A YAML 1.2 file whose top level is a block; its `problems` are a line for each value that cannot be read.

    Raises:
        ConfigError: a file that cannot be read, or invalid YAML, with file and line.
    """

    def where(line: int) -> str:
        return f"{path}:{line}"

    node = compose(_text(path), where)
    if not isinstance(node, Block):
        is_text = isinstance(node, Scalar) and node.text
        kind = "list" if isinstance(node, ListNode) else "text" if is_text else "nothing"
        raise ConfigError(f"{path}:1: must hold `key: value` lines, got {kind}")
    reader = _Reader(where, {(): where(1)})
    values = reader.value(node, ())
    return _checked(Layer(values if isinstance(values, dict) else {}, reader.origins, tuple(reader.problems)))


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: must have at most {MAX_BYTES // 1024} KiB, is larger; is it a settings file?")
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ConfigError(f"{path}:{line}: is not UTF-8 text, got the byte 0x{byte:02x}; save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise ConfigError(f"{path}: cannot be read: {error}; check the path and its permissions") from error


def read_overrides(texts: Iterable[str]) -> Layer:
    """All `dotted.key=value` of a command line, of which the last one of a key counts.

    `problems` has a line for each that cannot be read, and for each key that is spelled in two ways.
    """
    values: dict[str, Any] = {}
    problems: list[str] = []
    for text in texts:
        try:
            key, value_read, problems_read = _read_override(text)
        except ConfigError as error:
            problems.append(str(error))
        else:
            values[key] = value_read
            problems += problems_read
    return _checked(Layer(values, {(key,): COMMAND_LINE for key in values}, tuple(problems)))


def _read_override(text: str) -> tuple[str, Any, list[str]]:
    key, sign, written = text.partition("=")
    key = key.strip()
    if not sign or not _KEY.fullmatch(key) or not is_printable(key):
        message = "overrides are written key=value, with dots between the parts of a key"
        raise ConfigError(f"{COMMAND_LINE}: {message}, got {shortened(text)!r}")
    if len(written) > MAX_BYTES:
        raise ConfigError(format_error(COMMAND_LINE, (key,), f"must have at most {MAX_BYTES // 1024} KiB, is larger"))
    reader = _Reader(lambda _: COMMAND_LINE, {})
    value = reader.value(compose(written, lambda _: COMMAND_LINE, tuple(key.split("."))), (key,))
    return key, value, reader.problems


@dataclass
class _Reader:
    """Turns nodes into plain values; collects the line of each key, and a problem for each value that has none."""

    where: Where
    origins: dict[Place, str]
    problems: list[str] = field(default_factory=list)

    def value(self, node: Node, place: Place) -> Any:
        """The plain value of a node, INVALID where it has none."""
        if isinstance(node, Scalar):
            return self._scalar(node, place)
        if isinstance(node, Block) and node.tag == f"{TAG}map":
            return self._block(node, place)
        if isinstance(node, ListNode) and node.tag == f"{TAG}seq":
            return self._list(node, place)
        return self._invalid(node, place, f"has the tag {_short_tag(node.tag)}, which is not read; remove it")

    def _invalid(self, node: Node, place: Place, message: str) -> object:
        self.problems.append(format_error(self.where(node.line), place, message))
        return INVALID

    def _list(self, node: ListNode, place: Place) -> list[Any]:
        for index, item in enumerate(node.items):
            self.origins[(*place, str(index))] = self.where(item.line)
        return [self.value(item, (*place, str(index))) for index, item in enumerate(node.items)]

    def _block(self, node: Block, place: Place) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, line, inner in self._entries(node, place):
            self.origins[(*place, key)] = self.where(line)
            values[key] = self.value(inner, (*place, key))
        return values

    def _entries(self, node: Block, place: Place) -> Iterator[tuple[str, int, Node]]:
        """(key, line, value) of a block, with those of `<<` that it does not write itself, in the order of the text."""
        own: dict[str, int] = {}
        for key, _ in node.entries:
            name = "<<" if _is_merge(key) else key.text
            if name in own:
                self._invalid(key, (*place, name), f"is a duplicate key, first written in line {own[name]}; keep one")
            own.setdefault(name, key.line)
        done: set[str] = set()
        for key, inner in node.entries:
            is_merge = _is_merge(key)
            for name, line, value in self._merged(inner, place) if is_merge else [(key.text, key.line, inner)]:
                if name not in done and not (is_merge and name in own):
                    done.add(name)
                    yield name, line, value

    def _merged(self, node: Node, place: Place) -> Iterator[tuple[str, int, Node]]:
        """What `<<` names: one block or several, of which the first that has a key gives it."""
        for block in node.items if isinstance(node, ListNode) else (node,):
            if isinstance(block, Block):
                yield from self._entries(block, place)
            else:
                self._invalid(block, (*place, "<<"), "must name a block or a list of blocks; write `<<: *anchor`")

    def _scalar(self, node: Scalar, place: Place) -> Any:
        kind = node.tag.removeprefix(TAG)
        got = f"got {shortened(node.text)!r}"
        if kind == "timestamp":
            return self._invalid(node, place, f"is a date, which no setting takes; quote it if it is text, {got}")
        if kind not in ("str", "int", "float", "bool", "null", "merge", "value"):
            return self._invalid(
                node, place, f"has the tag {_short_tag(node.tag)}, which is not read; remove it, {got}"
            )
        try:
            return _plain(kind, node.text)
        except ValueError as error:
            return self._invalid(node, place, f"{str(error) or f'must be {_TYPES[kind]}'}, {got}")


def _is_merge(key: Scalar) -> bool:
    return key.tag == f"{TAG}merge"


def _short_tag(tag: str) -> str:
    return repr(shortened(tag.replace(TAG, "!!")))[1:-1]


def _plain(kind: str, text: str) -> Any:
    if kind == "int":
        return _whole(text.replace("_", ""))
    if kind == "float":
        return _real(text.replace("_", "").lower())
    if kind == "null":
        return None
    if kind == "bool":
        if text.lower() not in ("true", "false"):
            raise ValueError
        return text.lower() == "true"
    if not is_printable(text):
        raise ValueError("holds a character that cannot be printed; remove it")
    return text


def _whole(text: str) -> int:
    if len(text) > 67:  # a sign, a prefix and 64 binary digits
        raise ValueError("must fit in 64 bits")
    try:
        number = int(text, _BASES.get(text.lstrip("+-")[:2], 10))
    except ValueError:
        raise ValueError from None
    if abs(number) > MAX_INT:
        raise ValueError("must fit in 64 bits")
    return number


def _real(text: str) -> float:
    try:
        number = float(text.replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise ValueError from None
    if not math.isfinite(number):
        raise ValueError("must be a finite number")
    return number


def _checked(layer: Layer) -> Layer:
    """The layer, with a problem for each key that it spells in two ways."""
    return Layer(layer.values, layer.origins, (*layer.problems, *_repeated(layer)))


def _repeated(layer: Layer) -> Iterator[str]:
    """A line for each setting that is written twice: `train.epochs` beside `train: {epochs: ...}` or `train: 3`."""
    origins: dict[str, str] = {}
    blocks: dict[str, str] = {}
    for place in _leaves(layer.values, ()):
        key, origin = ".".join(place), layer.origin(place)
        above = [key[:index] for index, sign in enumerate(key) if sign == "."]
        first = origins.get(key) or blocks.get(key) or next((origins[name] for name in above if name in origins), None)
        if first:
            also = "by another override" if first == COMMAND_LINE else f"at {first}"
            yield format_error(origin, place, f"is given twice, also {also}; keep one")
        origins.setdefault(key, origin)
        for name in above:
            blocks.setdefault(name, origin)


def _leaves(values: Mapping[str, Any], place: Place) -> Iterator[Place]:
    for key, inner in values.items():
        if isinstance(inner, dict) and inner:
            yield from _leaves(inner, (*place, key))
        else:
            yield (*place, key)
