"""What a settings class is, what names may look like, and how settings classes are walked."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$"
METRIC_KEY = r"^(train|val)/[a-z0-9_]+$"
DEVICE = r"^(auto|cpu|cuda|cuda:\d+)$"
KEY = r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$"


TAGS = ("name", "kind")


def members(annotation: Any) -> list[Any]:
    """The alternatives of a type: the parts of a union without None, the type itself otherwise."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [part for arg in get_args(annotation) if arg is not NoneType for part in members(arg)]
    return [annotation]


def settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes among the alternatives of a type."""
    return [part for part in members(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def tag_of(model: type[BaseModel]) -> tuple[str, str] | None:
    """(`name` or `kind`, its one value) of a class that stands in a tagged union, else None."""
    for tag in TAGS:
        field = model.model_fields.get(tag)
        if field is not None and get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return tag, str(get_args(field.annotation)[0])
    return None


def class_at(model: type[BaseModel], values: Any, path: tuple[str, ...]) -> type[BaseModel] | None:
    """The settings class that describes the block at `path` of `values`, or None where there is none.

    Args:
        values: what the user wrote for `model`, used to choose among tagged classes.
    """
    current: type[BaseModel] | None = model
    annotation: Any = model
    for key in path:
        if current is None:  # inside a free mapping such as `space`
            annotation = get_args(annotation)[-1]
        elif key in current.model_fields:
            annotation = field_annotation(current.model_fields[key])
        else:
            return None
        values = values.get(key) if isinstance(values, dict) else None
        current = _choose(settings_classes(annotation), values)
    return current


def keys_named(name: str, model: type[BaseModel]) -> list[str]:
    """The dotted keys that end in `name`, in whichever block of a model has one."""
    found: list[str] = []
    for key, field in model.model_fields.items():
        for inner in settings_classes(field_annotation(field)):
            found += [f"{key}.{name}"] * (name in inner.model_fields)
            found += [f"{key}.{below}" for below in keys_named(name, inner)]
    return list(dict.fromkeys(found))


def field_annotation(field: FieldInfo) -> Any:
    """The type of a field; pydantic moves `Annotated` parts out of it, which does not matter here."""
    return field.annotation


def _choose(classes: list[type[BaseModel]], values: Any) -> type[BaseModel] | None:
    if len(classes) == 1:
        return classes[0]
    for model in classes:
        tag = tag_of(model)
        if tag and isinstance(values, dict) and values.get(tag[0]) == tag[1]:
            return model
    return None


def possible_classes(classes: list[type[BaseModel]], values: Any) -> list[type[BaseModel]]:
    """The class that the tag in `values` chooses, or all of them where it chooses none."""
    chosen = _choose(classes, values)
    return classes if chosen is None else [chosen]


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """Every dotted key below a settings class, whichever members of its unions are chosen."""
    found: list[str] = []
    for key, field in model.model_fields.items():
        inner = settings_classes(field_annotation(field))
        found += [key, *(f"{key}.{below}" for one in inner for below in dotted_keys(one))]
    return list(dict.fromkeys(found))


def is_tagged(model: type[BaseModel], values: Any, path: tuple[str, ...]) -> bool:
    """Whether the block at `path` is one of several classes, chosen by its tag."""
    found = class_at(model, values, path)
    return bool(path) and found is not None and tag_of(found) is not None


class Settings(BaseModel):
    """Frozen, strict settings; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class PlacedError(ValueError):
    """Faults of a settings class that lie at places inside of it."""

    def __init__(self, faults: Mapping[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(f"{'.'.join(place)} {message}" for place, message in faults.items()))
        self.faults = faults
