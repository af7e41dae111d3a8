"""Which module may import and name what, read from the sources, so that no module has to be loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = (
    ("errors", "types", "geometry", "normalisation"),
    ("plugins", "files", "progress"),
    ("device", "metrics"),
    ("config",),
    ("data", "models", "store"),
    ("figures", "tasks"),
    ("training", "evaluation"),
    ("search",),
    ("results",),
    ("explorer", "api"),
    ("report",),
    ("cli",),
    ("testing",),
    ("__main__",),
    ("",),
)
"""From the ground up; packages of one row never import each other."""
ROWS = {name: row for row, names in enumerate(ORDER) for name in names}
TORCH_FREE = (
    *("types", "errors", "geometry", "plugins", "files", "progress", "normalisation"),
    *("config", "device", "metrics.registry", "store", "search.trials"),
    *("results", "report", "explorer", "cli", "api"),
)
TORCH = ("torch", "torchvision", "timm", "safetensors")


@dataclass(frozen=True)
class Import:
    """One import; `is_run` tells whether importing the module runs it."""

    target: str
    is_run: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted((ROOT / "attnsearch").rglob("*.py"))}


@cache
def imports_of(name: str) -> list[Import]:
    return list(_walk(ast.parse(PATHS[name].read_text(encoding="utf-8")), is_run=True))


def _walk(node: ast.AST, *, is_run: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, is_run) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            yield from (Import(_resolve(child.module or "", alias.name), is_run) for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(ast.Module(child.body, []), is_run=False)
            yield from _walk(ast.Module(child.orelse, []), is_run=is_run)
        else:
            yield from _walk(child, is_run=is_run and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _resolve(module: str, name: str) -> str:
    """`from a import b` means the module `a.b` where there is one, else `a`."""
    return f"{module}.{name}" if f"{module}.{name}" in PATHS else module


def inner_targets(name: str, *, only_run: bool = False) -> list[str]:
    found = [one.target for one in imports_of(name) if one.is_run or not only_run]
    return [target for target in found if target in PATHS and target != name]


def part(name: str) -> str:
    """`attnsearch.config.load` -> `config`; empty for the package itself."""
    return [*name.split("."), ""][1]


def test_the_package_is_found_and_every_part_has_a_row() -> None:
    assert len(PATHS) > 50
    assert {part(name) for name in PATHS} - {""} <= set(ROWS)


def test_every_folder_is_a_package() -> None:
    """A folder without `__init__.py` would be missing from the wheel."""
    folders = {path.parent for path in PATHS.values()}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_imports_point_to_lower_rows_only() -> None:
    wrong = [
        f"{name} imports {target}"
        for name in PATHS
        for target in inner_targets(name)
        if part(target) and part(target) != part(name) and ROWS[part(target)] >= ROWS[part(name)]
    ]
    assert not wrong


def test_no_import_is_circular() -> None:
    graph = {name: set(inner_targets(name)) - {"attnsearch"} for name in PATHS}  # its version; its names are lazy
    while ends := [name for name, targets in graph.items() if not targets]:
        graph = {name: targets - set(ends) for name, targets in graph.items() if name not in ends}
    assert not graph, f"on or above a circle: {sorted(graph)}"


def torch_free_modules() -> list[str]:
    return [
        name for name in PATHS if f"{name}.".removeprefix("attnsearch.").startswith(tuple(f"{p}." for p in TORCH_FREE))
    ]


def with_parents(name: str) -> list[str]:
    """A module and the packages that importing it runs first."""
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


@pytest.mark.parametrize("name", torch_free_modules())
def test_torch_is_not_imported_by(name: str) -> None:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            outside = [one.target for one in imports_of(module) if one.is_run and one.target.split(".")[0] in TORCH]
            assert not outside, f"{module} imports {outside[0]}"
            waiting += [parent for target in inner_targets(module, only_run=True) for parent in with_parents(target)]


@pytest.mark.slow
def test_python_agrees_that_torch_is_not_imported() -> None:
    code = f"import sys, {', '.join(torch_free_modules())}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


SUITES = ("_contract", "_golden")
"""Endings of files that hold all members of a family of modules, or one module, to something from outside."""
WITHOUT_A_MODULE = {
    *("cli/test_logs", "cli/test_quality", "cli/test_readers", "cli/test_storage", "config/test_files"),
    *("explorer/test_browser", "explorer/test_browser_pixels", "explorer/test_damage", "explorer/test_real_run"),
    *("search/test_faults", "search/test_lost_connections", "search/test_outage", "search/test_outcome"),
    *("search/test_processes", "search/test_recover", "search/test_returned", "search/test_scoring"),
    *("search/test_staging", "store/test_postgresql", "metrics/test_contract", "models/test_state_names"),
}
"""To be merged into the files of the modules that they test, but for tests of several modules at once."""


def test_every_test_file_stands_where_its_module_does() -> None:
    places = [path.relative_to(ROOT / "tests").with_suffix("") for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(places) > 80
    alone = [
        place.as_posix()
        for place in places
        if len(place.parts) > 1
        and not place.name.endswith(SUITES)
        and not (ROOT / "attnsearch" / place.parent / f"{place.name.removeprefix('test_')}.py").is_file()
    ]
    assert sorted(set(alone) - WITHOUT_A_MODULE) == []


def modules_that_import(package: str) -> set[str]:
    return {
        name.removeprefix("attnsearch.")
        for name in PATHS
        if any(one.target.split(".")[0] == package for one in imports_of(name))
    }


def test_only_the_store_knows_the_database() -> None:
    assert {name for name in modules_that_import("sqlalchemy") if not name.startswith("store.")} == set()
    engines = {name for name in PATHS if part(name) != "store" and "engine" in PATHS[name].read_text().lower()}
    assert engines <= {"attnsearch.device"}  # an error message of cuDNN


def test_only_search_and_results_know_optuna() -> None:
    others = {name for name in modules_that_import("optuna") if part(f"attnsearch.{name}") not in ("search", "results")}
    assert others <= {"cli._progress", "explorer.server"}


MAY_NAME_FILES = ("store.layout", "config.load", "data", "testing", "models.weights", "cli._console", "cli.found")
"""Modules that spell names of files by themselves: the layout of results, and files that are no results."""
MAY_LOOK_FOR_FILES = ("files", "store.export", "store.inspection", "figures.selection")
"""Modules that look for files that are no results: temporary ones, Optuna's scripts, images of a user's folder."""
FILE_NAME = re.compile(r"[\w*{}-]+\.(yaml|csv|json|npy|lock|db|safetensors)|.*\.(lock|log)|.*(^|/)trials/.*")


def may(name: str, allowed: tuple[str, ...]) -> bool:
    return f"{name}.".removeprefix("attnsearch.").startswith(tuple(f"{one}." for one in allowed))


def file_names(tree: ast.AST) -> Iterator[str]:
    """The texts of a module, docstrings and sentences apart, that are the name of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and FILE_NAME.fullmatch(node.value):
            yield node.value


def test_names_of_result_files_stand_in_the_layout() -> None:
    named = {
        name: found
        for name in PATHS
        if not may(name, MAY_NAME_FILES) and (found := set(file_names(ast.parse(PATHS[name].read_text()))))
    }
    assert named == {}


def test_only_the_layout_looks_for_result_files() -> None:
    searching = {
        name
        for name in PATHS
        if not may(name, (*MAY_NAME_FILES, *MAY_LOOK_FOR_FILES)) and re.search(r"glob\(", PATHS[name].read_text())
    }
    assert searching == set()
