"""Docstrings tell the truth: their arguments, attributes and errors exist, and functions on arrays name shapes."""

from __future__ import annotations

import ast
import builtins
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache

import pytest

from tests.architecture.sources import PACKAGE, Definition, Function, Module, functions, modules
from tests.architecture.test_owners import is_in

HEADING = re.compile(r"[A-Z]\w+:")
ENTRY = re.compile(r"^    (\S[^:]*?)(?: \([^)]*\))?:(?:\s|$)")
ARRAY = re.compile(r"(?<!\[str, )\b(torch\.)?(Tensor|ndarray|NDArray)\b")
"""The values of a mapping apart: states of models, losses by name."""
SHAPE = re.compile(
    r"\((?:\.\.\.|[A-Z]\w*|[hwkdnrst]|n_\w+|\d+|[\w ]+[·*/+-][\w· */+-]+)(?:,| or \d)[^()]*(?:\([^()]*\)[^()]*)*\)"
)
NO_AXES = re.compile(r"\b(scalar|0-d|0-dimensional|any shape|one number|state dict)\b|\(\)")
SHAPED = ("models", "tasks", "metrics", "evaluation.scorer", "figures")
MIN_SHAPED = 0.95


def entries(doc: str, section: str) -> list[str]:
    """Names under a heading of a docstring: `a, b: …` are two."""
    names: list[str] = []
    heading = ""
    for line in doc.splitlines():
        if line and not line.startswith(" "):
            heading = line.removesuffix(":") if HEADING.fullmatch(line) else ""
        elif heading == section and (entry := ENTRY.match(line)):
            names += [name.strip(" `*") for name in re.split(r",| and | or ", entry[1])]
    return names


@cache
def classes() -> dict[str, tuple[Module, ast.ClassDef]]:
    return {node.name: (module, node) for module in modules().values() for node in module.classes}


def fields(node: ast.ClassDef) -> set[str]:
    """Names that objects of a class have: class variables, methods, what is set on `self`, and those of its bases."""
    names = {child.name for child in node.body if isinstance(child, Definition)}
    for child in ast.walk(node):
        if isinstance(child, ast.AnnAssign | ast.Assign):
            targets = child.targets if isinstance(child, ast.Assign) else [child.target]
            names |= {ast.unparse(target).removeprefix("self.") for target in targets}
    bases = [ast.unparse(base).split("[")[0].split(".")[-1] for base in node.bases]
    return names.union(*(fields(classes()[base][1]) for base in bases if base in classes()))


def test_arguments_in_docstrings_are_parameters() -> None:
    documented = [(function, name) for function in functions() for name in entries(function.doc, "Args")]
    assert len(documented) > 300
    assert [
        f"{PACKAGE}/{function.place}: Args names {name!r}, which is no parameter"
        for function, name in documented
        if name not in {parameter.arg for parameter in function.parameters}
    ] == []


def test_attributes_in_docstrings_exist() -> None:
    documented = [
        (module, node, name)
        for module in modules().values()
        for node in module.classes
        for section in ("Attributes", "Args")
        for name in entries(ast.get_docstring(node) or "", section)
    ]
    assert len(documented) > 150
    initial = {function.owner: function for function in functions() if function.node.name == "__init__"}

    def parameters(name: str) -> set[str]:
        return {parameter.arg for parameter in initial[name].parameters} if name in initial else set()

    assert [
        f"{PACKAGE}/{module.place}:{node.lineno} {node.name}: names {name!r}, which is no field"
        for module, node, name in documented
        if name not in fields(node) | parameters(node.name)
    ] == []


def test_errors_in_docstrings_are_exceptions() -> None:
    documented = [(function, name) for function in functions() for name in entries(function.doc, "Raises")]
    assert len(documented) > 200
    known = {name for name, value in vars(builtins).items() if isinstance(value, type)}
    known |= {name for name, (_module, node) in classes().items() if {ast.unparse(base) for base in node.bases} & known}
    known |= {node.name for node in modules()["errors"].classes}
    assert [
        f"{PACKAGE}/{function.place}: Raises names {name!r}, which is no exception"
        for function, name in documented
        if name.split(".")[-1] not in known and "." not in name
    ] == []


@cache
def comments(module: Module) -> dict[int, str]:
    tokens = tokenize.generate_tokens(io.StringIO(module.text).readline)
    return {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}


def takes_arrays(function: Function) -> bool:
    annotations = [parameter.annotation for parameter in function.parameters] + [function.node.returns]
    return any(annotation is not None and ARRAY.search(ast.unparse(annotation)) for annotation in annotations)


def names_shape(function: Function) -> bool:
    """Whether the docstring or a comment of a function says how its arrays are laid out."""
    lines = range(function.node.lineno, (function.node.end_lineno or 0) + 1)
    texts = [function.doc, *(text for line, text in comments(function.module).items() if line in lines)]
    nested = [node for node in ast.walk(function.node) if isinstance(node, Definition)]
    texts += [ast.get_docstring(node) or "" for node in nested]
    return any(SHAPE.search(text) or NO_AXES.search(text) for text in texts)


def without_shape() -> Iterator[Function]:
    return (function for function in array_functions() if not names_shape(function))


def array_functions() -> list[Function]:
    """Functions of the numerical packages that take or return arrays; nested ones belong to their outer one."""
    candidates = (function for function in functions() if is_in(function.module.name, SHAPED))
    return [function for function in candidates if not function.is_nested and takes_arrays(function)]


def test_functions_on_arrays_name_shapes() -> None:
    assert len(array_functions()) > 150
    missing = [function.place for function in without_shape()]
    assert 1 - len(missing) / len(array_functions()) >= MIN_SHAPED, "\n".join(missing)


@pytest.mark.parametrize(
    ("text", "is_shape"),
    [
        ("(B, K, h, w)", True),
        ("maps (B,)", True),
        ("(n_classes, D)", True),
        ("(h·w, C)", True),
        ("(see above, or not)", False),
        ("a scalar", True),
    ],
)
def test_shapes_are_recognised(text: str, is_shape: bool) -> None:
    assert bool(SHAPE.search(text) or NO_AXES.search(text)) == is_shape


def test_entries_of_docstrings_are_found() -> None:
    arguments = "Args:\n    first, second: two values\n        in two lines: no name\n    third: one."
    doc = f"Does.\n\n{arguments}\n\nReturns:\n    x: y"
    assert entries(doc, "Args") == ["first", "second", "third"]
