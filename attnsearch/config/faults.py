"""Turns pydantic's findings into one line each: `file:line: key: message, got value`."""

from __future__ import annotations

import difflib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from attnsearch.config.layers import Layer, Place
from attnsearch.config.patterns import DEVICE, METRIC_KEY, NAME
from attnsearch.config.schema import class_at, keys_named, tag_of
from attnsearch.errors import ConfigError

T = TypeVar("T", bound=BaseModel)

PATTERNS = {
    NAME: "may hold up to 100 letters A-Z, digits, '_', '-' and '.', and starts with none of '-' and '.'",
    METRIC_KEY: "must be `train/metric` or `val/metric`; nothing is chosen on test images",
    DEVICE: "must be auto, cpu, cuda or cuda:N",
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
    "stride_lay3": "write model.stride_stage3",
    "stride_lay4": "write model.stride_stage4",
    "nb_att_maps": "write model.n_vectors",
    "model_id": "write name",
    "exp_id": "write experiment",
    "optuna_trial_nb": "write n_trials in the study",
}


def validate(model: type[T], layer: Layer) -> T:
    """The settings that a layer describes.

    Raises:
        ConfigError: one line per fault, all faults at once.
    """
    try:
        return model.model_validate_json(json.dumps(layer.values))
    except ValidationError as error:
        lines = [describe(detail, layer, model) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def describe(detail: ErrorDetails, layer: Layer, model: type[BaseModel]) -> str:
    """One line for one finding of pydantic."""
    place = _place(detail["loc"], layer.values)
    if detail["type"] == "union_tag_invalid":
        place = (*place, detail["ctx"]["discriminator"].strip("'"))
    key = ".".join(place) or "file"
    got = "" if detail["type"] == "missing" else f", got {_short(detail['input'])}"
    message = _message(detail, place, layer, model)
    if detail["type"] in ("value_error", "union_tag_invalid"):
        got = ""  # the message holds the value
    return f"{layer.origin(place)}: {key}: {message}{got}"


def _message(detail: ErrorDetails, place: Place, layer: Layer, model: type[BaseModel]) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(place, layer, model)
    if kind == "union_tag_invalid":
        tag, known = str(context["tag"]), str(context["expected_tags"]).replace("'", "").split(", ")
        return f"unknown {place[-1]} {tag!r}{near(tag, known)}; known: {', '.join(known)}"
    if kind == "union_tag_not_found":
        return f"needs a {context['discriminator']}"
    if kind == "literal_error":
        known = str(context["expected"]).replace("'", "").replace(" or ", ", ").split(", ")
        return f"must be one of {', '.join(known)}{near(str(detail['input']), known)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    if kind == "missing":
        return f"is required and missing; write {'.'.join(place)}=…"
    return (
        detail["msg"]
        .replace("Input should be", "must be")
        .replace("valid integer", "whole number")
        .replace("valid string", "text")
    )


def _unknown_key(place: Place, layer: Layer, model: type[BaseModel]) -> str:
    dotted = ".".join(place)
    if dotted in MOVED_KEYS:
        return f"is no key here; {MOVED_KEYS[dotted]}"
    owner = class_at(model, layer.values, place[:-1])
    known = sorted(owner.model_fields) if owner else []
    family = f" of {tag[1]}" if owner and (tag := tag_of(owner)) else ""
    if len(place) == 1 and (below := elsewhere(dotted, model)):
        return f"is no key here{below}"
    return f"is no key{family}{near(place[-1], known)}; known: {', '.join(known)}"


def elsewhere(name: str, model: type[BaseModel]) -> str:
    """`; write data.x` where a bare name is a key of some blocks of a model, else nothing."""
    found = keys_named(name, model)
    return f"; write {' or '.join(found)}" if found else ""


def near(name: str, known: list[str]) -> str:
    """` (did you mean 'x'?)` where a known name is close, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _place(loc: tuple[int | str, ...], values: Any) -> Place:
    """The place in the file; pydantic adds the tag of a union to its locations, which no file holds."""
    place: list[str] = []
    for index, step in enumerate(loc):
        inside = values.get(step) if isinstance(values, dict) else None
        is_tag = isinstance(values, dict) and step not in values and step in (values.get("name"), values.get("kind"))
        if is_tag and index < len(loc):
            continue
        place.append(str(step))
        values = values[step] if isinstance(values, list) and isinstance(step, int) and step < len(values) else inside
    return tuple(place)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
