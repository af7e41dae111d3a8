"""Writes `configs/README.md`, the list of all keys, out of the settings classes.

`python -m attnsearch.config.reference > configs/README.md` writes the file after a change of the settings;
`python -m attnsearch.config.reference docs/reference/metrics.md results/README.md` rewrites tables of metrics.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from attnsearch.config.base import field_annotation, settings_classes, tag_of
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.study import Scalar, StudyConfig
from attnsearch.config.yaml_nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES
from attnsearch.metrics.base import Metric
from attnsearch.metrics.registry import all_metrics, score_metrics

HEAD = f"""\
# Every key

Made from the settings classes by `python -m attnsearch.config.reference > configs/README.md`; a test keeps it current.

An *experiment* (a file in `configs/`) is one training run. A *study* (a file in `studies/`) is a search around one:
`base` names the experiment, `space` says what is varied. On the command line every key is written `dotted.key=value`,
by the rules of YAML 1.2 (`null` is nothing, `[a, b]` a list). Writing another `name` into a block that is chosen by its
name replaces the whole block. A *profile* (a file in `configs/profiles/`) is merged over a study with `--profile`: keys
of the study as they are, those of the experiment under `overrides:`; `null` removes a hyperparameter from the space.

In a file, too, keys may be dotted; a setting that is written in two ways is refused. Of one `key=` written twice on the
command line the last one counts. Aliases and `<<:` are read; dates, tags other than `!!str` and its kin, numbers beyond
64 bits and other versions of YAML than 1.2 are refused. A file has at most {MAX_BYTES // 1024} KiB, {MAX_DEPTH} levels,
and {MAX_NODES} keys and values, counted again for each alias.

Rates and probabilities lie in [0, 1]; a key without a default must be written.
"""
METRIC_HEAD = """\
## Metrics

What `monitor`, `objectives` and `constraints` may name, as `val/NAME` or `train/NAME`.
"""
SCORE_HEAD = """\
Measured of the saliency of the best checkpoint alone: `objectives` and `constraints` may name them, as `val/NAME`, and
`monitor` may not. Each one is described in `results/README.md`. Raw areas (`deletion`,
`insertion`) compare maps of one model, not models: optimise `relevance_gain` or `deletion_gain`.
"""
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_TYPE_NAMES: dict[Any, str] = {
    **{str: "text", int: "whole number", float: "number", bool: "true or false"},
    **{NoneType: "null", Scalar: "value"},
}

Row = tuple[str, ...]


def reference() -> str:
    """The page as Markdown."""
    parts = [HEAD, "## Keys of an experiment\n", *_sections(ExperimentConfig, ())]
    return "\n".join([*parts, "## Keys of a study\n", *_sections(StudyConfig, ()), METRIC_HEAD, _metrics()])


def _metrics() -> str:
    of_epochs = [metric for metric in all_metrics() if not metric.is_score]
    tables = [
        _table([(f"`{metric.name}`", metric.better) for metric in metrics], head=("name", "better"))
        for metrics in (of_epochs, score_metrics())
    ]
    return f"\n{SCORE_HEAD}\n".join(tables)


def _sections(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[str]:
    """A table of the plain keys of a settings class, then one part for each block inside it."""
    types = {name: field_annotation(field) for name, field in model.model_fields.items()}
    blocks = {name: classes for name, annotation in types.items() if (classes := _block_classes(annotation))}
    yield from _tables([_row(model, name, prefix) for name in types if name not in blocks])
    for name, classes in blocks.items():
        has_free_keys = _mapping_value(types[name]) is not None  # such as `space`
        place = (*prefix, f"{name}.KEY" if has_free_keys else name)
        yield f"{'#' * (2 + len(place))} `{'.'.join(place)}`\n"
        yield _sentence(model.model_fields[name]) + "\n"
        yield from _sections(classes[0], place) if len(classes) == 1 else _union_sections(classes, place)


def _union_sections(classes: Sequence[type[BaseModel]], place: tuple[str, ...]) -> Iterator[str]:
    """What most members of a union have in common, then what is each one's own."""
    values = {member: tag for member in classes if (tag := tag_of(member))}
    key, _ = values[classes[0]]
    rows = {member: [_row(member, name, place) for name in member.model_fields if name != key] for member in values}
    shared = _shared_rows(list(rows.values()))
    yield f"Chosen by `{key}`: {', '.join(f'`{value}`' for _, value in values.values())}.\n"
    yield from _tables(shared)
    for member, (_, value) in values.items():
        yield f"**`{key}: {value}`** {' '.join((member.__doc__ or '').split())}\n"
        yield from _tables([row for row in rows[member] if row not in shared])


def _shared_rows(tables: Sequence[Sequence[Row]]) -> list[Row]:
    """Of the keys that all members have, the rows that more than half of them have: the others show their own."""
    common = set.intersection(*({key for key, *_ in table} for table in tables))
    counts = Counter(row for table in tables for row in table)
    shared = {row[0]: row for row, count in counts.items() if row[0] in common and 2 * count > len(tables)}
    return [shared[key] for key, *_ in tables[0] if key in shared]


def _tables(rows: Sequence[Row]) -> Iterator[str]:
    """The table of some keys; none where there are none."""
    if rows:
        yield _table(rows, head=("key", "type", "default", "meaning"))


def _table(rows: Sequence[Row], *, head: Row) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines) + "\n"


def _row(model: type[BaseModel], name: str, prefix: tuple[str, ...]) -> Row:
    field = model.model_fields[name]
    kind = _registered(field) or _type_name(field_annotation(field)) + _bounds(field)
    return (f"`{'.'.join((*prefix, name))}`", kind, _default(field), _meaning(field))


def _registered(field: FieldInfo) -> str:
    """The type of a list whose allowed values are registered, as `known` in the field's `json_schema_extra` gives."""
    extra = field.json_schema_extra
    values = extra.get("known") if isinstance(extra, dict) else None
    return f"list of {{ {' '.join(f'`{value}`' for value in values)} }}" if isinstance(values, list) else ""


def _meaning(field: FieldInfo) -> str:
    """The description in one style: no full stop, a small first letter unless it is a symbol."""
    text = (field.description or "").rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _sentence(field: FieldInfo) -> str:
    text = _meaning(field)
    return f"{text[:1].upper()}{text[1:]}.{' Absent by default.' if field.default is None else ''}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True)
    return f"`{json.dumps(value, default=lambda other: other.model_dump(mode='json'))}`".replace('"', "")


def _type_name(annotation: Any) -> str:
    """A type in words, such as `list of whole numbers` or `text or null`."""
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " ".join(f"`{choice}`" for choice in args)
    if origin is Annotated:
        return _type_name(args[0])
    if (inner := _mapping_value(annotation)) is not None:
        return "block" if inner is JsonValue else f"key → {_type_name(inner)}"
    if origin is tuple:
        name = _type_name(args[0])
        return f"list of {name}s" if name.isalpha() else f"list of {{ {name} }}"
    return " or ".join(dict.fromkeys(map(_type_name, args))) or "block"


def _bounds(field: FieldInfo) -> str:
    """The limits of a number, as ` in [0, 1)` or ` ≥ 1`; limits of text and lists are in their descriptions."""
    limits = {sign: getattr(mark, sign) for mark in field.metadata for sign in _SIGNS if hasattr(mark, sign)}
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        return f" in {'[' if 'ge' in limits else '('}{low}, {high}{']' if 'le' in limits else ')'}"
    return "".join(f" {_SIGNS[sign]} {limit}" for sign, limit in limits.items())


def _block_classes(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that a key holds, directly or under free keys."""
    return settings_classes(annotation) or settings_classes(_mapping_value(annotation))


def _mapping_value(annotation: Any) -> Any:
    """The type of the values of a mapping; None for any other type."""
    origin = get_origin(annotation)
    return get_args(annotation)[1] if isinstance(origin, type) and hasattr(origin, "keys") else None


def with_metric_tables(page: str) -> str:
    """A page with its tables of metrics, which are found by their heads, as they are registered."""
    for head, is_score in (("metric", False), ("score", True)):
        rows = [row for metric in all_metrics() if metric.is_score == is_score for row in _metric_rows(metric)]
        table = _table(rows, head=(head, "better", "what it is"))
        first, _, _ = table.partition("\n")
        page = re.sub(rf"^{re.escape(first)}\n(?:\|.*\n)*", table.replace("\\", r"\\"), page, flags=re.MULTILINE)
    return page


def _metric_rows(metric: Metric) -> list[Row]:
    better = "higher" if metric.better == "maximize" else "lower"
    rows: list[Row] = [(f"`{metric.name}`", better, metric.summary)]
    if metric.has_second_fill:
        again = "the same under a second fill, the one it is named after; full measure only"
        rows.append((f"`{metric.name}_blur`", better, again))
    return rows


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(with_metric_tables(Path(name).read_text(encoding="utf-8")), encoding="utf-8")
    if not sys.argv[1:]:
        sys.stdout.write(reference())
