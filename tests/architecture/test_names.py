"""One name means one thing: a public class or function is defined in one module only."""

from __future__ import annotations

import ast
from collections import defaultdict

from tests.architecture.sources import Definition, modules

TWICE = {
    *("build", "list_images"),  # what a family or a data set registers
    *("main", "compare", "validate"),  # commands bear the name of what they call
    "load_study",  # settings, and in Python the results
}
MAX_TWICE = 6


def public_definitions() -> dict[str, list[str]]:
    """The places of each public class and function at the top of a module, by its name."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules().values():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef | Definition) and not node.name.startswith("_"):
                places[node.name].append(f"{module.place}:{node.lineno}")
    return places


def test_a_public_name_is_defined_once() -> None:
    assert len(public_definitions()) > 700
    twice = {name: places for name, places in public_definitions().items() if len(places) > 1 and name not in TWICE}
    assert twice == {}, "give one of them another name, or make them one"


def test_few_names_are_excepted() -> None:
    assert len(TWICE) <= MAX_TWICE
    assert [name for name in TWICE if len(public_definitions()[name]) < 2] == []
