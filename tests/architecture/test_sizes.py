"""Files, functions and lists of imports stay small; the ceilings of today may only sink."""

from __future__ import annotations

import ast

from tests.architecture.sources import Function, functions, modules

MAX_MODULES = 199
GROWING = ("models", "data", "tasks", "cli", "search.launchers", "loggers")
"""Where one file more is a new part, as docs/architecture.md asks for: a family, a data set, a command, a logger."""
MAX_FILE = 400
MAX_FUNCTION = 40
P90_FUNCTION = 16
MAX_BRANCHES = 10
MAX_BRANCHED = 0
MAX_PARAMETERS = 6
MAX_WITH_MANY_PARAMETERS = 2
MAX_INNER_IMPORTS = 14
MANY_INNER_IMPORTS = {
    *("report/page.py", "results/full_scores.py", "results/study.py", "results/visualize.py"),
    *("results/trial.py", "evaluation/evaluation.py", "evaluation/scorer.py", "evaluation/score_archive.py"),
    *("search/space.py", "search/publish.py", "training/setup.py", "training/trainer.py", "results/explained.py"),
    "evaluation/base.py",
}
MAX_OF_MANY = 20
BRANCHES = (ast.If, ast.For, ast.While, ast.IfExp, ast.ExceptHandler, ast.comprehension, ast.Assert)


def test_the_package_has_few_modules() -> None:
    """Few places to look for what all parts share; new parts are not counted."""
    files = [module for module in modules().values() if not module.is_package]
    shared = [module.place for module in files if not f"{module.name}.".startswith(tuple(f"{one}." for one in GROWING))]
    assert 90 < len(shared) <= MAX_MODULES


def test_files_are_short() -> None:
    lengths = {module.place: len(module.lines) for module in modules().values()}
    long = {place: length for place, length in lengths.items() if length > MAX_FILE}
    assert long == {}


def test_functions_are_short() -> None:
    lengths = {function.place: function.n_code_lines for function in functions()}
    assert len(lengths) > 1500
    assert {place: length for place, length in lengths.items() if length > MAX_FUNCTION} == {}
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= P90_FUNCTION


def complexity(function: Function) -> int:
    """Cyclomatic: one more than the branches, loops and further operands of `and` and `or`."""
    nodes = list(ast.walk(function.node))
    operands = sum(len(node.values) - 1 for node in nodes if isinstance(node, ast.BoolOp))
    return 1 + sum(isinstance(node, BRANCHES) for node in nodes) + operands


def test_few_functions_branch_much() -> None:
    branched = {function.place: n for function in functions() if (n := complexity(function)) > MAX_BRANCHES}
    assert len(branched) <= MAX_BRANCHED, branched


def test_few_functions_take_many_parameters() -> None:
    """The options of a command apart."""
    many = {
        function.place: n
        for function in functions()
        if function.module.part != "cli" and (n := len(function.parameters)) > MAX_PARAMETERS
    }
    assert len(many) <= MAX_WITH_MANY_PARAMETERS, many


def test_modules_import_few_others() -> None:
    """The lists of commands and of public names apart."""
    lists = ("", "cli.app")
    counts = {module.place: len(set(module.inner_targets())) for name, module in modules().items() if name not in lists}
    many = {place: n for place, n in counts.items() if n > MAX_INNER_IMPORTS}
    assert many.keys() <= MANY_INNER_IMPORTS, many
    assert max(counts.values()) <= MAX_OF_MANY, many
