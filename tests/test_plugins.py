"""Parts under names: registered once, found with near names, imported when they are named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from attnsearch import plugins
from attnsearch.errors import ConfigError


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty registry and no installed plugins."""
    monkeypatch.setattr(plugins, "_parts", {})
    monkeypatch.setattr(plugins, "_loaded", set())
    monkeypatch.setattr(plugins, "entry_points", lambda group: [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


class Part: ...


class OtherPart: ...


def written(folder: Path, name: str, text: str = "") -> str:
    path = folder / f"{name}.py"
    path.write_text(
        f"from attnsearch import plugins\nclass Part: ...\n{text}\nplugins.register('model', {name!r}, Part)\n"
    )
    return str(path)


def test_a_registered_part_is_found_under_its_name() -> None:
    plugins.register("model", "one", Part)
    assert plugins.find("model", "one") is Part
    assert plugins.names("model") == ["one"]
    assert plugins.names("dataset") == []


def test_text_names_an_attribute_that_is_imported_on_use() -> None:
    plugins.register("model", "sqrt", "math:sqrt")
    assert plugins.find("model", "sqrt")(4) == 2


def test_a_taken_name_is_refused_and_both_parts_are_named() -> None:
    plugins.register("model", "one", Part)
    plugins.register("model", "one", Part)
    with pytest.raises(ConfigError, match=r"model 'one' is .*:Part, so .*:OtherPart needs another name"):
        plugins.register("model", "one", OtherPart)


def test_a_missing_name_is_told_with_a_near_one_and_the_list() -> None:
    plugins.register("model", "resnet", Part)
    plugins.register("model", "vit", OtherPart)
    with pytest.raises(ConfigError, match=r"unknown model 'resmet' \(did you mean 'resnet'\?\); known: resnet, vit"):
        plugins.find("model", "resmet")


def test_a_file_is_run_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    path = written(
        tmp_path, "my_file_parts", f"from pathlib import Path\nwith Path({str(log)!r}).open('a') as log: log.write('x')"
    )
    plugins.load([path, path])
    plugins.load([path])
    assert plugins.names("model") == ["my_file_parts"]
    assert log.read_text() == "x"


def test_a_module_is_found_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "my_module_parts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    plugins.load(["my_module_parts"])
    assert plugins.names("model") == ["my_module_parts"]


@pytest.mark.parametrize(
    ("text", "reason"), [("1 / 0", "ZeroDivisionError: division by zero"), ("import absent_parts", "No module named")]
)
def test_a_plugin_that_fails_is_named_with_its_reason_every_time(tmp_path: Path, text: str, reason: str) -> None:
    path = written(tmp_path, "broken", text)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"plugin .*broken.py: .*{reason}"):
            plugins.load([path])


def test_an_absent_module_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"plugin absent_parts: .*No module named 'absent_parts'"):
        plugins.load(["absent_parts"])
    with pytest.raises(ConfigError, match=r"plugin absent/parts.py: .*No such file"):
        plugins.load(["absent/parts.py"])


def test_installed_plugins_are_imported_once_when_a_name_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def installed(group: str) -> list[EntryPoint]:
        asked.append(group)
        return [EntryPoint("broken", "absent_parts", group), EntryPoint("math", "math", group)]

    monkeypatch.setattr(plugins, "entry_points", installed)
    plugins.register("model", "one", Part)
    plugins.find("model", "one")
    assert not asked
    for _ in range(2):
        with pytest.raises(ConfigError, match="unknown model 'two'"):
            plugins.find("model", "two")
    assert asked == ["attnsearch.plugins"]


def test_parts_of_the_running_script_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.register("model", "one", Part)
    assert plugins.of_main() == []
    monkeypatch.setattr(OtherPart, "__module__", "__main__")
    plugins.register("metric", "two", OtherPart)
    assert plugins.of_main() == ["metric two"]
