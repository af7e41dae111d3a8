"""What a settings class is, what names may look like, how settings classes are walked, and which text is expanded."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema

from attnsearch import plugins
from attnsearch.errors import ConfigError

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}$"
METRIC_KEY = r"^(train|val)/[A-Za-z0-9_]+$"
DEVICE = r"^(auto|cpu|cuda|cuda:\d+)$"
KEY = r"^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*$"
TAGS = ("name", "kind")
_VARIABLE = re.compile(r"\$(?:\$|(\w+)|\{(\w+)\})", re.ASCII)


def members(annotation: Any) -> list[Any]:
    """The alternatives of a type: the parts of a union without None, what is registered, else the type itself."""
    if get_origin(annotation) is Annotated:
        registered = [mark for mark in get_args(annotation)[1:] if isinstance(mark, Registered)]
        return registered[0].classes() if registered else members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [part for arg in get_args(annotation) if arg is not NoneType for part in members(arg)]
    return [annotation]


def settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes among the alternatives of a type."""
    return [part for part in members(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]


def tag_of(model: type[BaseModel]) -> tuple[str, str] | None:
    """(`name` or `kind`, its one value) of a class that is a member of a tagged union, else None."""
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


def field_annotation(field: FieldInfo) -> Any:
    """The type of a field with its `Registered` mark, which pydantic moves from the type to the metadata."""
    marks = [mark for mark in field.metadata if isinstance(mark, Registered)]
    return Annotated[field.annotation, marks[0]] if marks else field.annotation


def _choose(classes: list[type[BaseModel]], values: Any) -> type[BaseModel] | None:
    if len(classes) == 1:
        return classes[0]
    for model in classes:
        tag = tag_of(model)
        if tag and isinstance(values, dict) and values.get(tag[0]) == tag[1]:
            return model
    return None


def possible_classes(classes: list[type[BaseModel]], values: Any) -> list[type[BaseModel]]:
    """The class that the tag in `values` chooses, all of them without a tag, and none under a tag that is unknown."""
    if (model := _choose(classes, values)) is not None:
        return [model]
    tags = {tag[0] for model in classes if (tag := tag_of(model))}
    return [] if isinstance(values, dict) and tags & values.keys() else classes


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """Every dotted key below a settings class, whichever members of its unions are chosen."""
    keys: list[str] = []
    for key, field in model.model_fields.items():
        inner_classes = settings_classes(field_annotation(field))
        keys += [key, *(f"{key}.{below}" for inner in inner_classes for below in dotted_keys(inner))]
    return list(dict.fromkeys(keys))


def is_tagged(model: type[BaseModel], values: Any, path: tuple[str, ...]) -> bool:
    """Whether the block at `path` is one of several classes, chosen by its tag."""
    block = class_at(model, values, path)
    return bool(path) and block is not None and tag_of(block) is not None


class Settings(BaseModel):
    """Frozen, strict settings; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


@dataclass(frozen=True)
class Part:
    """A registered model or data set.

    Attributes:
        settings: its settings class, whose field `name` has the one value that chooses it.
        build: what is called with the settings, or "module:function", which is imported on use.
    """

    settings: type[Settings]
    build: Callable[..., Any] | str

    @property
    def origin(self) -> str:
        """Where the settings class is defined."""
        return f"{self.settings.__module__}:{self.settings.__qualname__}"


def register_part(kind: str, settings: type[Settings], build: Callable[..., Any] | str) -> None:
    """Registers a part under the value of its settings' `name`.

    Raises:
        ConfigError: the settings class has no such field, or another part has this name.
    """
    tag = tag_of(settings)
    if tag is None or tag[0] != "name" or settings.model_fields["name"].default != tag[1]:
        raise ConfigError(f'{settings.__qualname__} needs a field such as name: Literal["mine"] = "mine"')
    plugins.register(kind, tag[1], Part(settings, build))


@dataclass(frozen=True)
class Registered:
    """Marks a type in `Annotated`: the value is of the settings class that is registered under its `name`.

    Classes that are registered later are accepted too, and dumped with all of their own fields.
    """

    kind: str

    def classes(self) -> list[type[Settings]]:
        """The settings classes that are registered now."""
        return [plugins.find(self.kind, name).settings for name in plugins.names(self.kind)]

    def __get_pydantic_core_schema__(self, base: type[Settings], handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(value: Any, info: ValidationInfo) -> Settings:
            return value if isinstance(value, base) else self._validate(value, is_json=info.mode == "json")

        return core_schema.with_info_plain_validator_function(validate)

    def _validate(self, value: Any, *, is_json: bool) -> Settings:
        """The settings that a block describes; errors are those of a pydantic union with a discriminator."""
        if not isinstance(value, dict):
            raise PydanticKnownError("model_attributes_type")
        if "name" not in value:
            raise PydanticKnownError("union_tag_not_found", {"discriminator": "'name'"})
        try:
            settings: type[Settings] = plugins.find(self.kind, str(value["name"])).settings
        except ConfigError:
            names = ", ".join(f"'{name}'" for name in plugins.names(self.kind))
            context = {"discriminator": "'name'", "tag": str(value["name"]), "expected_tags": names}
            raise PydanticKnownError("union_tag_invalid", context) from None
        return settings.model_validate_json(json.dumps(value)) if is_json else settings.model_validate(value)


def digest_of(values: Any) -> str:
    """SHA-256 of plain values in hexadecimal; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class PlacedError(ValueError):
    """Problems of a settings class that lie at places inside of it."""

    def __init__(self, problems: Mapping[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(f"{'.'.join(place)} {message}" for place, message in problems.items()))
        self.problems = problems


def expand(text: str) -> str:
    """`text` with $NAME and ${NAME} replaced by their values; a name that is not set stays, `$$` is a dollar sign."""
    return _VARIABLE.sub(_value, text)


def _value(variable: re.Match[str]) -> str:
    name = variable[1] or variable[2]
    return os.environ.get(name, variable[0]) if name else "$"


def literal(text: str) -> str:
    """The text that `expand` turns into `text`: nothing in it is a variable."""
    return text.replace("$", "$$")


def variable_values(text: str) -> dict[str, str]:
    """Name -> value of the variables in `text` that are set."""
    names = [variable[1] or variable[2] for variable in _VARIABLE.finditer(text)]
    return {name: os.environ[name] for name in names if name and name in os.environ}


def is_variable(text: str) -> bool:
    """Whether `text` is the name of one variable and nothing else; its value is not looked up."""
    return text != "$$" and _VARIABLE.fullmatch(text) is not None
