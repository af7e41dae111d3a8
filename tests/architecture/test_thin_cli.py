"""A file of the command line parses one command and prints its result; what it does stands in the packages below."""

from __future__ import annotations

import ast

from tests.architecture.sources import Function, Module, modules
from tests.architecture.test_owners import is_in

ALLOWED = (
    *(
        "progress",
        "results",
        "search.run",
        "search.confirm",
        "search.extend",
        "search.plan",
        "search.launchers",
        "api",
        "config",
        "report",
        "explorer.server",
    ),
    *(
        "progress",
        "errors",
        "types",
        "plugins",
        "metrics.registry",
        "cli._console",
        "cli._data_card",
        "cli._ending",
        "cli._forecast",
        "cli._options",
        "cli._placing",
        "cli._progress",
        "cli._scores",
    ),
)
"""What the file of a command may import: checks, starts and readers, and nouns of the ground."""
ALSO = {"data": ("data",)}
EXCEPTIONS = {"store.export", "store.retention", "store.urls"}
"""May only shrink; never models, training or evaluation."""
MAX_LINES = 150
MAX_COMMAND = 20


def command_files() -> list[Module]:
    files = [module for name, module in modules().items() if is_in(name, ("cli",)) and not module.is_package]
    return [module for module in files if not module.path.name.startswith("_") and module.name != "cli.app"]


def commands() -> list[Function]:
    """The functions that Typer calls: those that the list of commands imports or a decorator registers."""
    app_names = {
        alias.asname or alias.name
        for node in modules()["cli.app"].nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnsearch.cli.")
        for alias in node.names
    }
    top = [function for module in command_files() for function in module.functions if not function.is_nested]
    return [function for function in top if function.node.name in app_names or function.node.decorator_list]


def test_a_command_imports_starts_and_readers_only() -> None:
    assert len(command_files()) > 15
    wrong = {
        module.place: targets
        for module in command_files()
        if (
            targets := {
                target
                for target in module.inner_targets(with_typing=False)
                if target and not is_in(target, (*ALLOWED, *ALSO.get(module.path.stem, ()), module.name))
            }
        )
    }
    assert set().union(*wrong.values()) <= EXCEPTIONS, f"move what needs these into results or search: {wrong}"


def test_files_of_the_command_line_are_short() -> None:
    assert {module.place: len(module.lines) for module in command_files() if len(module.lines) > MAX_LINES} == {}


def test_commands_are_short() -> None:
    assert len(commands()) > 18
    longer = {function.node.name: n for function in commands() if (n := function.n_body_lines) > MAX_COMMAND}
    assert longer == {}
