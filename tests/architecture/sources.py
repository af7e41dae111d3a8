"""The modules of the package as their sources tell, each read and parsed once; nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "attnsearch"
Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One import.

    Attributes:
        is_run: whether importing the module runs it.
        is_typing: whether only type checkers run it.
    """

    target: str
    is_run: bool
    is_typing: bool


@dataclass(frozen=True)
class Function:
    """A function or method at the top of a module or class, or inside another function.

    Attributes:
        owner: name of the class of a method.
        is_nested: whether it stands inside another function.
    """

    module: Module
    node: Definition
    owner: str | None
    is_nested: bool

    @property
    def place(self) -> str:
        """`config/load.py:12 load_study`."""
        name = f"{self.owner}.{self.node.name}" if self.owner else self.node.name
        return f"{self.module.place}:{self.node.lineno} {name}"

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def parameters(self) -> list[ast.arg]:
        """All of them, but for the `self` or `cls` of a method."""
        arguments = self.node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
        return [argument for argument in parameters if argument.arg not in ("self", "cls")]

    @property
    def n_code_lines(self) -> int:
        """From `def` to the end."""
        return self._n_from(self.node.lineno)

    @property
    def n_body_lines(self) -> int:
        """Without the signature."""
        return self._n_from(self.node.body[0].lineno)

    def _n_from(self, start: int) -> int:
        return sum(start <= line <= (self.node.end_lineno or start) for line in self.module.code_lines)


@dataclass(frozen=True)
class Module:
    """One source file; `name` leaves out the package: `config.load`, empty for `attnsearch` itself."""

    name: str
    path: Path

    @property
    def place(self) -> str:
        return self.path.relative_to(ROOT / PACKAGE).as_posix()

    @property
    def part(self) -> str:
        """The package or module below `attnsearch` to which it belongs: `config.load` -> `config`."""
        return self.name.split(".")[0]

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, is_run=True, is_typing=False))

    @cached_property
    def functions(self) -> list[Function]:
        return list(_functions(self, self.tree, owner=None, is_nested=False))

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return [node for node in self.nodes if isinstance(node, ast.ClassDef)]

    @cached_property
    def code_lines(self) -> list[int]:
        """Numbers of the lines that hold code: no empty lines, comments or docstrings."""
        docs = {line for node in self.nodes for line in _docstring_lines(node)}
        return [
            number
            for number, line in enumerate(self.lines, 1)
            if number not in docs and line.strip() and not line.lstrip().startswith("#")
        ]

    def inner_targets(self, *, only_run: bool = False, with_typing: bool = True) -> list[str]:
        """Names of the modules of the package that this one imports.

        Args:
            only_run: leaves out imports that importing the module does not run.
            with_typing: also imports that only type checkers run.
        """
        imports = [one for one in self.imports if one.is_run or not only_run]
        targets = [one.target for one in imports if with_typing or not one.is_typing]
        inner = [_inner_name(target) for target in targets if target.split(".")[0] == PACKAGE]
        return [target for target in inner if target in modules() and target != self.name]


@cache
def modules() -> dict[str, Module]:
    """All modules by name."""
    return {module.name: module for path in sorted((ROOT / PACKAGE).rglob("*.py")) for module in [_module_at(path)]}


@cache
def functions() -> list[Function]:
    """All functions and methods, nested ones too."""
    return [function for module in modules().values() for function in module.functions]


def _module_at(path: Path) -> Module:
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return Module(".".join(parts[:-1] if parts[-1] == "__init__" else parts), path)


def _inner_name(target: str) -> str:
    return target.removeprefix(PACKAGE).removeprefix(".")


def _imports(node: ast.AST, *, is_run: bool, is_typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, is_run, is_typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            targets = (_resolve(child.module or "", alias.name) for alias in child.names)
            yield from (Import(target, is_run, is_typing) for target in targets)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _imports(ast.Module(child.body, []), is_run=False, is_typing=True)
            yield from _imports(ast.Module(child.orelse, []), is_run=is_run, is_typing=is_typing)
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            is_later = isinstance(child, Definition)
            yield from _imports(child, is_run=is_run and not is_later, is_typing=is_typing)


def _resolve(module: str, name: str) -> str:
    """`from a import b` means the module `a.b` where there is one, else `a`."""
    target = f"{module}.{name}"
    return target if target.startswith(PACKAGE) and _inner_name(target) in modules() else module


def _functions(module: Module, node: ast.AST, *, owner: str | None, is_nested: bool) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            yield Function(module, child, owner, is_nested)
            yield from _functions(module, child, owner=None, is_nested=True)
        elif isinstance(child, ast.ClassDef):
            yield from _functions(module, child, owner=child.name, is_nested=is_nested)
        elif isinstance(child, ast.stmt):
            yield from _functions(module, child, owner=owner, is_nested=is_nested)


def _docstring_lines(node: ast.AST) -> range:
    body = getattr(node, "body", None)
    if isinstance(node, ast.Module | ast.ClassDef | Definition) and body and isinstance(body[0], ast.Expr):
        value = body[0].value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return range(value.lineno, (value.end_lineno or value.lineno) + 1)
    return range(0)
