"""Plain values that remember where each came from, and how one layer of them is laid over another."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML

from attnsearch.config.base import TAGS, is_tagged
from attnsearch.config.yaml_nodes import Place

INVALID = object()
"""Stands for a value that could not be read and whose problem is already reported."""


@dataclass(frozen=True)
class Layer:
    """Nested plain values, and for each place the `file:line` (or `command line`) that wrote it.

    `problems` are those of the reading; they stay with the layer that was read.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[Place, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def origin(self, place: Place) -> str:
        """Where the value at `place`, or the closest block around it, was written."""
        while place and place not in self.origins:
            place = place[:-1]
        return self.origins.get(place, "defaults")

    def part(self, key: str) -> Layer:
        """The block under `key` as a layer; empty where there is none."""
        values = self.values.get(key)
        if not isinstance(values, dict):
            return Layer()
        origins = {place[1:]: origin for place, origin in self.origins.items() if place[:1] == (key,)}
        return Layer(values, origins)

    def without(self, *keys: str) -> Layer:
        """This layer without some top-level keys."""
        return self.only({key for key in self.values if key not in keys})

    def only(self, keys: Collection[str]) -> Layer:
        """This layer with some of its top-level keys, and with what is known of the whole."""
        values = {key: value for key, value in self.values.items() if key in keys}
        return Layer(values, {place: origin for place, origin in self.origins.items() if not place or place[0] in keys})


def merge(base: Layer, over: Layer, model: type[BaseModel]) -> Layer:
    """`over` laid on `base`: blocks but `objectives` are joined key by key, everything else is replaced.

    Keys of `over` may be dotted. A block that is chosen by a tag is replaced whole when its tag changes; tags come
    first, so that what `over` sets beside one stays.
    """
    result = Layer(_copy(base.values), dict(base.origins))
    for key, value in sorted(over.values.items(), key=lambda item: item[0].split(".")[-1] not in TAGS):
        place = split_key(key, result.values)
        for inner, leaf in _leaves(value, place):
            _set(result, inner, leaf, origin=over.origin((key,)), model=model)
        for inner, written in _places(value, place, (key,)):
            result.origins[inner] = over.origin(written)
    return result


def split_key(key: str, values: Mapping[str, Any]) -> Place:
    """The place of a dotted key; names in a `space` have dots themselves, and those in `values` stay whole."""
    head, _, rest = key.partition(".")
    if head != "space" or not rest:
        return tuple(key.split("."))
    space = values.get("space")
    for name in sorted(space, key=len, reverse=True) if isinstance(space, dict) else ():
        if rest == name or rest.startswith(f"{name}."):
            return ("space", name, *filter(None, rest.removeprefix(name).split(".")))
    return ("space", rest)


def _leaves(value: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    """(place, value) below a value; the tag of a block comes first, as it may replace it.

    A bare name of a pruner is its tag, so that a later layer can set a key beside it.
    """
    if place == ("pruner",) and isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not value or place == ("objectives",):
        yield place, value
        return
    for key, inner in sorted(value.items(), key=lambda item: item[0] not in TAGS):
        yield from _leaves(inner, (*place, *_steps(key, place)))


def _places(value: Any, place: Place, written: Place) -> Iterator[tuple[Place, Place]]:
    """(place, place as it is written) of a value and of all below it."""
    yield place, written
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*place, *_steps(key, place)), (*written, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from ((place + below, written + below) for below in _below(inner, (str(index),)))


def _below(value: Any, place: Place) -> Iterator[Place]:
    """A place and all below it, where keys stay whole, as they do in lists."""
    yield place
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _below(inner, (*place, str(key)))


def _steps(key: str, place: Place) -> Place:
    return (key,) if place[0] == "space" else tuple(key.split("."))


def _set(layer: Layer, place: Place, value: Any, *, origin: str, model: type[BaseModel]) -> None:
    block = layer.values
    above, last = place[:-1], place[-1]
    for index, key in enumerate(above):
        if not isinstance(block.get(key), dict):
            block[key] = {}
            layer.origins[place[: index + 1]] = origin
        block = block[key]
    if last in TAGS and block.get(last, value) != value and is_tagged(model, layer.values, above):
        block.clear()
        for inner in [inner for inner in layer.origins if len(inner) > len(above) and inner[: len(above)] == above]:
            del layer.origins[inner]
    block[last] = value


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
