"""Reads YAML into plain values that remember where each came from, and lays one layer over another."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from attnsearch.config.schema import TAGS, is_tagged
from attnsearch.errors import ConfigError

Place = tuple[str, ...]


@dataclass(frozen=True)
class Layer:
    """Nested plain values, and for each place the `file:line` (or `command line`) that wrote it."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)

    def origin(self, place: Place) -> str:
        """Where the value at `place`, or the closest block around it, was written."""
        while place and place not in self.origins:
            place = place[:-1]
        return self.origins.get(place, "defaults")

    def part(self, key: str) -> Layer:
        """The block under `key` as a layer of its own; empty where it is absent."""
        values = self.values.get(key) or {}
        origins = {place[1:]: origin for place, origin in self.origins.items() if place[:1] == (key,)}
        return Layer(values, origins)

    def without(self, *keys: str) -> Layer:
        """This layer without some top-level keys."""
        values = {key: value for key, value in self.values.items() if key not in keys}
        return Layer(
            values, {place: origin for place, origin in self.origins.items() if place[:1] not in [(k,) for k in keys]}
        )


def read_yaml(path: Path) -> Layer:
    """A YAML 1.2 file whose top level is a mapping.

    Raises:
        ConfigError: unreadable file, faulty YAML or duplicate key, with file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read as UTF-8 text: {error}; check the path and its permissions"
        ) from error
    loaded = _parse(text, str(path))
    if not isinstance(loaded, CommentedMap):
        raise ConfigError(f"{path}:1: must hold `key: value` lines, got {type(loaded).__name__}")
    origins: dict[Place, str] = {(): f"{path}:1"}
    return Layer(_plain(loaded, (), origins, str(path)), origins)


def _parse(text: str, source: str) -> Any:
    try:
        return YAML(typ="rt").load(io.StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{source}:{line}: {error.problem or 'is no valid YAML'}") from error
    except YAMLError as error:
        raise ConfigError(f"{source}: is no valid YAML: {error}") from error


def _plain(node: Any, place: Place, origins: dict[Place, str], source: str) -> Any:
    """Turns ruamel's nodes into plain values and notes the line of each key."""
    if isinstance(node, CommentedMap):
        for key in node:
            origins[(*place, str(key))] = f"{source}:{node.lc.key(key)[0] + 1}"
        return {str(key): _plain(value, (*place, str(key)), origins, source) for key, value in node.items()}
    if isinstance(node, CommentedSeq):
        for index in range(len(node)):
            origins[(*place, str(index))] = f"{source}:{node.lc.item(index)[0] + 1}"
        return [_plain(value, (*place, str(index)), origins, source) for index, value in enumerate(node)]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    if node is None:
        return None
    raise ConfigError(
        f"{origins.get(place, source)}: {'.'.join(place)}: must be a number, text, list or block, got {node!r}"
    )


def parse_override(text: str) -> tuple[str, Any]:
    """`dotted.key=value` of a command line; the value follows the rules of YAML.

    Raises:
        ConfigError: no `=`, empty key or faulty value.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"command line: overrides are written key=value, got {text!r}")
    return key.strip(), _plain(_parse(value, f"command line: {key}"), (), {}, f"command line: {key}")


def merge(base: Layer, over: Layer, model: type[BaseModel]) -> Layer:
    """`over` laid on `base`: blocks are joined key by key, everything else is replaced.

    Keys of `over` may be dotted. A block that is chosen by a tag is replaced whole when its tag changes; tags come
    first, so that what `over` sets beside one stays.
    """
    result = Layer(_copy(base.values), dict(base.origins))
    for key, value in sorted(over.values.items(), key=lambda item: item[0].split(".")[-1] not in TAGS):
        for place, source, leaf in _leaves(value, split_key(key, result.values), (key,)):
            _set(result, place, leaf, origin=over.origin(source), model=model)
    return result


def overlay(values: Mapping[str, Any], overrides: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Plain nested values with dotted overrides applied, by the same rules as `merge`."""
    return merge(Layer(dict(values)), Layer(dict(overrides)), model).values


def from_overrides(overrides: Iterable[tuple[str, Any]]) -> Layer:
    """Overrides of a command line as a layer."""
    pairs = dict(overrides)
    return Layer(pairs, {(key,): "command line" for key in pairs})


def split_key(key: str, values: Mapping[str, Any]) -> Place:
    """The place of a dotted key; axes of a `space` have dots in their names, and those in `values` stay whole."""
    head, _, rest = key.partition(".")
    if head == "space" and rest:
        for axis in sorted(values.get("space") or {}, key=len, reverse=True):
            if rest == axis or rest.startswith(axis + "."):
                return ("space", axis, *[part for part in rest[len(axis) + 1 :].split(".") if part])
        return ("space", rest)
    return tuple(key.split("."))


def _leaves(value: Any, place: Place, source: Place) -> list[tuple[Place, Place, Any]]:
    """(place, place as written, value) below a value; the tag of a block comes first, as it may replace it."""
    if not isinstance(value, dict) or not value:
        return [(place, source, value)]
    ordered = sorted(value.items(), key=lambda item: item[0] not in TAGS)
    leaves = []
    for key, inner in ordered:
        steps = (key,) if place[0] == "space" else tuple(key.split("."))
        leaves += _leaves(inner, (*place, *steps), (*source, key))
    return leaves


def _set(layer: Layer, place: Place, value: Any, *, origin: str, model: type[BaseModel]) -> None:
    block = layer.values
    for index, key in enumerate(place[:-1]):
        if not isinstance(block.get(key), dict):
            block[key] = {}
            layer.origins[place[: index + 1]] = origin
        block = block[key]
    last = place[-1]
    if last in TAGS and block.get(last, value) != value and is_tagged(model, layer.values, place[:-1]):
        block.clear()
        for old in [
            known for known in layer.origins if known[: len(place) - 1] == place[:-1] and len(known) >= len(place)
        ]:
            del layer.origins[old]
    block[last] = value
    layer.origins[place] = origin


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


def to_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text, keys in the given order."""
    stream = io.StringIO()
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 4096
    writer.dump(_copy(dict(values)), stream)
    return stream.getvalue()
