"""Each library, name of a file and settings class is known where it belongs, and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.architecture.sources import Module, modules

OPTUNA = ("search", "results", "explorer.dashboards")
"""The last one serves Optuna's own dashboard."""
MAY_NAME_FILES = (
    "store.layout",
    "store.trial_layout",
    "config.yaml_reader",
    "data",
    "testing",
    "models.weights",
    "cli._console",
)
"""Modules that spell names of files by themselves: the layout of results, and files that are no results."""
MAY_LOOK_FOR_FILES = ("files", "store.export", "store.inspection", "figures.selection")
"""Modules that look for files that are no results: temporary ones, Optuna's scripts, images of a user's folder."""
FILE_NAME = re.compile(r"[\w*{}-]+\.(yaml|csv|json|npy|lock|db|safetensors)|.*\.(lock|log)|.*(^|/)trials/.*")
MAY_TELL_SETTINGS_APART = (
    "config",
    "data",
    "models",
    "tasks",
    "search.space",
    "search.study",
    "search.samplers",
    "cli.data",
)
"""What builds parts of their settings: also samplers, pruners and hyperparameters, and the commands of data sets."""


def is_in(name: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of the places or stands below one."""
    return f"{name}.".startswith(tuple(f"{place}." for place in places))


def importers_of(package: str) -> set[str]:
    return {
        name for name, module in modules().items() if any(one.target.split(".")[0] == package for one in module.imports)
    }


def test_only_the_store_knows_the_database() -> None:
    importers = importers_of("sqlalchemy")
    assert len(importers) > 3
    assert {name for name in importers if not is_in(name, ("store",))} == set()


def test_no_engine_leaves_the_store() -> None:
    engines = {name for name, module in modules().items() if "engine" in module.text.lower()}
    assert "store.database" in engines
    assert {name for name in engines if not is_in(name, ("store",))} <= {"device"}  # an error message of cuDNN


def test_only_search_and_results_know_optuna() -> None:
    importers = importers_of("optuna") | importers_of("optuna_dashboard")
    assert len(importers) > 5
    assert {name for name in importers if not is_in(name, OPTUNA)} == set()


def file_names(module: Module) -> set[str]:
    """The texts of a module, docstrings and sentences apart, that are the name of a file."""
    texts = {node.value for node in module.nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if FILE_NAME.fullmatch(text)}


def test_names_of_result_files_stand_in_the_layout() -> None:
    names = {name: names for name, module in modules().items() if (names := file_names(module))}
    assert len(names["store.layout"]) > 10
    assert {name: names[name] for name in names if not is_in(name, MAY_NAME_FILES)} == {}


def test_only_the_layout_looks_for_result_files() -> None:
    searching = {name for name, module in modules().items() if "glob(" in module.text}
    assert "store.layout" in searching
    assert {name for name in searching if not is_in(name, (*MAY_NAME_FILES, *MAY_LOOK_FOR_FILES))} == set()


def settings_classes() -> set[str]:
    """Names of the classes below `Settings` in `config/`."""
    bases = {
        node.name: {ast.unparse(base).split(".")[-1] for base in node.bases}
        for name, module in modules().items()
        if is_in(name, ("config",))
        for node in module.classes
    }
    classes = {"Settings"}
    while more := {name for name, parents in bases.items() if parents & classes} - classes:
        classes |= more
    return classes


def distinguished_classes(module: Module) -> Iterator[tuple[int, str]]:
    """(line, name) of the classes in `isinstance(value, ...)` and `case Class(...)`."""
    for node in module.nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and len(node.args) == 2:
            yield from ((node.lineno, name) for name in re.findall(r"\w+", ast.unparse(node.args[1])))
        elif isinstance(node, ast.MatchClass):
            yield node.cls.lineno, ast.unparse(node.cls).split(".")[-1]


def test_only_what_builds_the_parts_tells_settings_classes_apart() -> None:
    settings = settings_classes()
    distinguished = {name: list(distinguished_classes(module)) for name, module in modules().items()}
    assert len(settings) > 40
    assert sum(map(len, distinguished.values())) > 100
    assert [
        f"{modules()[name].place}:{line}: {class_} (ask its fields, or the registry)"
        for name, places in distinguished.items()
        if not is_in(name, MAY_TELL_SETTINGS_APART)
        for line, class_ in places
        if class_ in settings
    ] == []
