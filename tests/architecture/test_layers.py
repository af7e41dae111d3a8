"""Packages stand in rows and import from lower rows only; what lists and reports is free of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import PACKAGE, ROOT, modules

ORDER = (
    ("errors", "types", "geometry", "processes"),
    ("plugins", "files", "progress", "device"),
    ("metrics", "loggers"),
    ("config",),
    ("data", "models", "store"),
    ("figures", "tasks"),
    ("training", "evaluation"),
    ("search",),
    ("results",),
    ("explorer", "report", "api"),
    ("cli",),
    ("testing",),
    ("__main__",),
    ("",),
)
"""From the ground up; packages of one row never import each other."""
ROWS = {name: row for row, names in enumerate(ORDER) for name in names}
TORCH_FREE = (
    *("types", "errors", "geometry", "processes", "plugins", "files", "progress", "loggers"),
    *("config", "device", "metrics.registry", "store", "figures", "search.trials", "search.pareto"),
    *("results", "report", "explorer", "cli", "api"),
)
TORCH = ("torch", "torchvision", "timm", "safetensors")


def test_every_part_has_a_row() -> None:
    assert len(modules()) > 100
    assert {module.part for module in modules().values()} == set(ROWS)


def test_every_folder_is_a_package() -> None:
    """A folder without `__init__.py` would be missing from the wheel."""
    folders = {module.path.parent for module in modules().values()}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


def test_imports_point_to_lower_rows_only() -> None:
    edges = [(module, modules()[target]) for module in modules().values() for target in module.inner_targets()]
    assert len(edges) > 500
    wrong = [
        f"{module.place} imports {target.place}"
        for module, target in edges
        if target.part and target.part != module.part and ROWS[target.part] >= ROWS[module.part]
    ]
    assert not wrong, "a module imports from lower rows only"


def test_no_import_is_circular() -> None:
    graph = {name: set(module.inner_targets()) - {""} for name, module in modules().items()}  # the names of "" are lazy
    while ends := [name for name, targets in graph.items() if not targets]:
        graph = {name: targets - set(ends) for name, targets in graph.items() if name not in ends}
    assert not graph, f"on or above a circle: {sorted(graph)}"


def torch_free_modules() -> list[str]:
    return [name for name in modules() if f"{name}.".startswith(tuple(f"{free}." for free in TORCH_FREE))]


def with_parents(name: str) -> list[str]:
    """A module and the packages that importing it runs first, `attnsearch` apart."""
    parts = name.split(".")
    return [".".join(parts[: n + 1]) for n in range(len(parts))]


def torch_importers(name: str) -> set[str]:
    """The modules that importing one module runs and that import torch."""
    seen: set[str] = set()
    waiting = ["", *with_parents(name)]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            targets = modules()[current].inner_targets(only_run=True)
            waiting += [parent for target in targets for parent in with_parents(target)]
    return {
        current
        for current in seen
        if any(one.is_run and one.target.split(".")[0] in TORCH for one in modules()[current].imports)
    }


def test_torch_is_not_imported_by_what_lists_and_reports() -> None:
    assert len(torch_free_modules()) > 80
    wrong = {name: sorted(importers) for name in torch_free_modules() if (importers := torch_importers(name))}
    assert wrong == {}, "importing a module on the left imports torch in the modules on the right"


def test_importers_of_torch_are_found() -> None:
    assert "models.base" in torch_importers("training.loop")


@pytest.mark.slow
def test_python_agrees_that_torch_is_not_imported() -> None:
    names = ", ".join(f"{PACKAGE}.{name}" for name in torch_free_modules())
    code = f"import sys, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
