"""What is registered under a name: models, data sets, metrics and tasks.

The parts of the package are registered as text, `module:function`, so that listing them imports no torch. Parts of
others come in by a call of `register` in a module that is named (`--plugin`, `plugins=`), or that an installed package
names as an entry point of the group `attnsearch.plugins`. What a results folder names is never imported by reading it.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from attnsearch.errors import AttnSearchError, ConfigError, suggest

logger = logging.getLogger(__name__)

GROUP = "attnsearch.plugins"
_parts: dict[str, dict[str, Any]] = {}
_loaded: set[str] = set()


def register(kind: str, name: str, part: Any) -> None:
    """Puts a part under a name; the same part again, as when a notebook's cell runs twice, takes its own place.

    Args:
        kind: "model", "dataset", "metric" or "task".
        part: any object, or "module:attribute", which `find` imports.
    Raises:
        ConfigError: another part has this name.
    """
    parts = _parts.setdefault(kind, {})
    if name in parts and origin(parts[name]) != origin(part):
        raise ConfigError(
            f"{kind} {name!r} is {origin(parts[name])}, so {origin(part)} needs another name; names are taken once"
        )
    parts[name] = part


def find(kind: str, name: str) -> Any:
    """The part under a name; those of installed packages are imported when a name is first missing.

    Raises:
        ConfigError: there is none; the message has a near name and all names.
    """
    if name not in names(kind):
        _load_installed()
    if name not in names(kind):
        raise ConfigError(f"unknown {kind} {name!r}{suggest(name, names(kind))}; known: {', '.join(names(kind))}")
    return resolve(_parts[kind][name])


def names(kind: str) -> list[str]:
    """The names of a kind, in the order of registration."""
    return list(_parts.get(kind, ()))


def parts(kind: str) -> list[Any]:
    """What is registered of a kind, in the order of registration; a part of the package may be "module:attribute"."""
    return list(_parts.get(kind, {}).values())


def resolve(part: Any) -> Any:
    """The object that "module:attribute" names; anything else is returned as it is."""
    if not isinstance(part, str):
        return part
    module, _, attribute = part.partition(":")
    return getattr(importlib.import_module(module), attribute)


def load(modules: Iterable[str]) -> None:
    """Imports modules by their name or `path/to/file.py`, each once, so that they register their parts.

    Raises:
        ConfigError: a module cannot be imported; the message names it and the reason.
    """
    for module in modules:
        if module not in _loaded:
            try:
                _import(module)
            except AttnSearchError as error:
                raise ConfigError(f"plugin {module}: {error}") from error
            except Exception as error:
                raise ConfigError(f"plugin {module}: cannot be imported: {type(error).__name__}: {error}") from error
            _loaded.add(module)


def is_loaded(module: str) -> bool:
    """Whether `load` has imported a module."""
    return module in _loaded


def of_main() -> list[str]:
    """The parts that the running script or notebook registered itself, as `kind name`: no other process has them.

    Those of a script that is itself named as a plugin are left out, since other processes import it.
    """
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and any(name.endswith(".py") and Path(name).resolve() == Path(script).resolve() for name in _loaded):
        return []
    return [
        f"{kind} {name}"
        for kind, parts in _parts.items()
        for name, part in parts.items()
        if origin(part).startswith("__main__:")
    ]


def origin(part: Any) -> str:
    """Where a part is defined, as `module:name`; a part may state it in an attribute `origin`."""
    if isinstance(part, str):
        return part
    stated = getattr(part, "origin", None)
    if isinstance(stated, str):
        return stated
    definition = part if hasattr(part, "__qualname__") else type(part)
    return f"{definition.__module__}:{definition.__qualname__}"


def _load_installed() -> None:
    """Imports the entry points of installed packages, once; one that fails is a warning, since no user named it."""
    if GROUP in _loaded:
        return
    _loaded.add(GROUP)
    for entry in entry_points(group=GROUP):
        try:
            entry.load()
        except Exception as error:
            logger.warning("plugin %s: cannot be imported: %s: %s", entry.value, type(error).__name__, error)


def _import(module: str) -> None:
    """Imports a module; modules in the working folder are found after all installed ones."""
    if module.endswith(".py"):
        _import_file(Path(module).resolve())
        return
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))
    importlib.import_module(module)


def _import_file(path: Path) -> None:
    """Runs a file as a module named like it, unless it is the script that runs or a module that is imported."""
    files = [Path(file) for module in list(sys.modules.values()) if (file := getattr(module, "__file__", None))]
    if any(file.name == path.name and file.resolve() == path for file in files):
        return
    name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(sys.modules)}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
