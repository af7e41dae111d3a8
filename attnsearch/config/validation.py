"""Collects the problems of a command, one line each: `file:line: key: message, got value`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from attnsearch.config.base import (
    DEVICE,
    KEY,
    METRIC_KEY,
    NAME,
    PlacedError,
    dotted_keys,
    field_annotation,
    possible_classes,
    settings_classes,
    tag_of,
)
from attnsearch.config.study import STOPPING_HALVING
from attnsearch.config.yaml_layers import INVALID, Layer
from attnsearch.config.yaml_nodes import Place, format_error, shortened
from attnsearch.errors import ConfigError, suggest

T = TypeVar("T", bound=BaseModel)
NONE: Mapping[Place, str] = MappingProxyType({})
NEED_ALL_LAYERS = ("missing", "union_tag_not_found", "value_error")
"""Problems that are certain only where every layer could be read."""
MAX_LINES = 50
"""Problems that are listed; more of them usually have one cause."""
MAX_MEMBERS = 8
"""Problems that pydantic reports of one value at most: one for each member of a union."""

PATTERNS = {
    NAME: "may hold up to 100 letters A-Z, digits, '_', '-' and '.', and starts with none of '-' and '.'",
    METRIC_KEY: "must be `train/metric` or `val/metric`; nothing is chosen on test images",
    KEY: "must be a dotted key of an experiment, in letters a-z, digits and '_'",
    DEVICE: "must be auto, cpu, cuda or cuda:N",
}

MESSAGES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text",
    "bool_type": "must be true or false",
    "none_required": "must be null",
    "tuple_type": "must be a list",
    "mapping_type": "must be a block",
    "dict_type": "must be a block",
    "model_type": "must be a block",
    "model_attributes_type": "must be a block",
}

MOVED_KEYS = {
    "lr": "write train.optimizer.lr",
    "train.lr": "write train.optimizer.lr",
    "train.weight_decay": "write train.optimizer.weight_decay",
    "train.momentum": "write train.optimizer.momentum",
    "optim": "write train.optimizer.name",
    "epochs": "write train.epochs",
    "batch_size": "write train.batch_size",
    "max_batch_size": "write train.batch_size, and train.accumulation to save memory",
    "dropout": "write model.dropout",
    "backbone": "write model.backbone",
    "stride_lay2": "write model.stride_stage2",
    "stride_lay3": "write model.stride_stage3",
    "stride_lay4": "write model.stride_stage4",
    "nb_att_maps": "write model.n_vectors",
    "model_id": "write name",
    "exp_id": "write experiment",
    "optuna_trial_nb": "write n_trials in the study",
}


@dataclass
class Problems:
    """Collects the problems of one command, so that all of them are reported at once.

    `is_complete` is false once a file could not be read: then nothing can be said about keys that are missing.
    """

    lines: list[str] = field(default_factory=list)
    is_complete: bool = True

    def read(self, read: Callable[[], Layer], *, origin: str = "") -> Layer:
        """What `read` returns, or an empty layer; `origin` is where its file is named."""
        try:
            layer = read()
        except ConfigError as error:
            self.lines += [f"{origin}{line}" for line in str(error).splitlines()]
            self.is_complete = False
            return Layer()
        self.lines += layer.problems
        return layer

    def block(self, layer: Layer, key: str, *, inside: str = "") -> Layer:
        """The block under a key of a layer, which is itself `inside` of another; anything else is a problem."""
        value = layer.values.get(key)
        if not (value is None or value is INVALID or isinstance(value, dict)):
            message = f"must hold `key: value` lines, got {short(value)}"
            place = (inside, key) if inside else (key,)
            self.lines.append(format_error(layer.origin((key,)), place, message))
        return layer.part(key)

    def check(self, model: type[T], layer: Layer, known: Mapping[Place, str] = NONE) -> T | None:
        """The settings that a layer describes, or None where it has problems.

        Args:
            known: problems that were found before, by their places; nothing more is reported of these places.
        """
        try:
            settings = model.model_validate_json(json.dumps(layer.values, default=lambda _: None))
        except ValidationError as error:
            known = {**known, **unknown_keys(model, layer)}
            details = error.errors(include_url=False)
            if not self.is_complete:
                details = [detail for detail in details if detail["type"] not in NEED_ALL_LAYERS]
            self.lines += [*known.values(), *_lines(details, layer, known)]
            return None
        self.lines += known.values()
        return settings

    def settled(self, settings: T | None) -> T:
        """The settings, if no problem was collected.

        Raises:
            ConfigError: one line per problem.
        """
        lines = list(dict.fromkeys(self.lines))
        if len(lines) > MAX_LINES:
            lines = [*lines[:MAX_LINES], f"and {len(lines) - MAX_LINES} more problems"]
        if lines:
            raise ConfigError("\n".join(lines))
        assert settings is not None
        return settings


def validate(model: type[T], layer: Layer) -> T:
    """The settings that a layer describes.

    Raises:
        ConfigError: one line per problem, all problems at once.
    """
    problems = Problems(list(layer.problems))
    return problems.settled(problems.check(model, layer))


def _lines(details: Sequence[ErrorDetails], layer: Layer, known: Mapping[Place, str]) -> Iterator[str]:
    """A line for each place that pydantic refuses, apart from those whose problem is known."""
    at_place: dict[Place, list[ErrorDetails]] = defaultdict(list)
    for detail in details[: MAX_LINES * MAX_MEMBERS]:
        place = _place(detail, layer.values)
        is_known = any(place[: len(other)] == other for other in known)
        if not (is_known or _follows_from_items(detail) or _value_at(layer.values, place) is INVALID):
            at_place[place].append(detail)
    for place, here in at_place.items():
        yield from _describe(here, place, layer)


def _follows_from_items(detail: ErrorDetails) -> bool:
    """Whether a list has too few values only because some of its items have problems."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _describe(details: Sequence[ErrorDetails], place: Place, layer: Layer) -> Iterator[str]:
    """The lines for what pydantic finds at one place: several findings are those of the alternatives of a union."""
    first = details[0]
    error = first.get("ctx", {}).get("error")
    if isinstance(error, PlacedError):
        yield from (format_error(layer.origin(inner), inner, message) for inner, message in error.problems.items())
        return
    message = " or ".join(dict.fromkeys(_message(detail, place) for detail in details)).replace(" or must be ", " or ")
    names_value = first["type"] in ("missing", "value_error", "union_tag_invalid")
    got = "" if names_value else f", got {short(first['input'])}"
    yield format_error(layer.origin(place), place or ("file",), f"{message}{got}")


def _message(detail: ErrorDetails, place: Place) -> str:
    """What is wrong, without the value."""
    kind, context = detail["type"], detail.get("ctx", {})
    match kind:
        case "union_tag_invalid":
            tag, names = str(context["tag"]), _names(context["expected_tags"])
            return f"unknown {place[-1]} {shortened(tag)!r}{suggest(tag, names)}; known: {', '.join(names)}"
        case "union_tag_not_found":
            return f"needs a {context['discriminator']}"
        case "literal_error":
            names = _names(context["expected"])
            return f"must be one of {', '.join(names)}{suggest(str(detail['input']), names)}"
        case "value_error":
            return str(context["error"])
        case "string_pattern_mismatch":
            return PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
        case "missing" if isinstance(detail["loc"][-1], int):
            return "has too few values"
        case "missing":
            return f"is required and missing; write {'.'.join(place)}=…"
        case "too_short":
            return f"must have at least {context['min_length']} items"
        case "too_long":
            return f"must have at most {context['max_length']} items"
    return MESSAGES.get(kind, detail["msg"].replace("Input should be", "must be"))


def _names(quoted: str) -> list[str]:
    """The names in a list as pydantic writes it, `'a', 'b' or 'c'`."""
    return str(quoted).replace("'", "").replace(" or ", ", ").split(", ")


def unknown_keys(model: type[BaseModel], layer: Layer) -> dict[Place, str]:
    """A line for each key that no settings class has which is possible at its place."""
    unknown = islice(_unknown([model], layer.values, ()), MAX_LINES)
    return {place: _unknown_key(place, owners, layer, model) for place, owners in unknown}


def _unknown(
    owners: Sequence[type[BaseModel]], values: Mapping[str, Any], place: Place
) -> Iterator[tuple[Place, Sequence[type[BaseModel]]]]:
    """(place, classes that could stand around it) of each unknown key."""
    for key, inner in values.items():
        annotations = [field_annotation(owner.model_fields[key]) for owner in owners if key in owner.model_fields]
        if not annotations:
            yield (*place, key), owners
        elif isinstance(inner, dict):
            classes = [part for annotation in annotations for part in settings_classes(annotation)]
            if below := possible_classes(classes, inner):
                yield from _unknown(below, inner, (*place, key))


def _unknown_key(place: Place, owners: Sequence[type[BaseModel]], layer: Layer, model: type[BaseModel]) -> str:
    """A line for one unknown key, with what to write instead where that is known."""
    key = ".".join(place)
    if key in MOVED_KEYS:
        message = f"is not a key here; {MOVED_KEYS[key]}"
    elif len(place) == 1 and (below := elsewhere(key, model)):
        message = f"is not a key here{below}"
    else:
        tag = tag_of(owners[0]) if len(owners) == 1 else None
        names = sorted({name for owner in owners for name in owner.model_fields})
        block = f" of {tag[1]}" if tag else ""
        message = f"is not a key{block}{suggest(place[-1], names)}; known: {', '.join(names)}"
    return format_error(layer.origin(place), place, f"{message}, got {short(_value_at(layer.values, place))}")


def pruner_problem(study: Layer) -> list[str]:
    """A line where a study that is to start has a pruner that costs it its best trials.

    Stored studies of before stay readable. Measured on a smooth trade-off, the median pruner took 16 % of the volume of
    the front.
    """
    objectives, pruner = study.values.get("objectives"), study.values.get("pruner")
    name = pruner.get("name") if isinstance(pruner, dict) else pruner
    if name == STOPPING_HALVING:
        message = "is no longer offered, as it ends trials that become the best ones; write pruner: halving"
    elif name in (None, "halving") or not isinstance(objectives, dict) or len(objectives) < 2:
        return []
    else:
        message = (
            f"judges trials by the monitor alone and so cuts the front of {len(objectives)} objectives; write "
            "pruner: halving or pruner: null"
        )
    return [format_error(study.origin(("pruner",)), ("pruner",), f"{message}, got {short(name)}")]


def elsewhere(name: str, model: type[BaseModel]) -> str:
    """`; write data.x` where a bare name is a key of some blocks of a model, else nothing."""
    keys = [key for key in dotted_keys(model) if key != name and key.split(".")[-1] == name]
    return f"; write {' or '.join(keys)}" if keys else ""


def _place(detail: ErrorDetails, values: Any) -> Place:
    """The place in the file; pydantic adds the members of unions to its locations, which no file holds."""
    place: list[str] = []
    for step in detail["loc"]:
        if isinstance(values, dict) and step in values:
            place, values = [*place, str(step)], values[str(step)]
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            place, values = [*place, str(step)], values[step]
    if detail["type"] == "missing":
        place.append(str(detail["loc"][-1]))
    if detail["type"] == "union_tag_invalid":
        place.append(detail["ctx"]["discriminator"].strip("'"))
    return tuple(place)


def _value_at(values: Any, place: Place) -> Any:
    """The value at a place; of a place that is not there, that of the closest block around it."""
    for key in place:
        if isinstance(values, dict) and key in values:
            values = values[key]
        elif isinstance(values, list) and int(key) < len(values):
            values = values[int(key)]
    return values


def short(value: Any) -> str:
    """A value as a message shows it."""
    return "a value that cannot be read" if value is INVALID else shortened(repr(value))
