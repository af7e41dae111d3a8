"""The tests of a module stand at its place: `tests/a/test_b.py` tests `attnsearch/a/b.py`."""

from __future__ import annotations

from pathlib import Path

from tests.architecture.sources import PACKAGE, ROOT

SUITES = ("_contract", "_golden")
"""Endings of files that hold all members of a family of modules, or one module, to something from outside."""
WITHOUT_A_MODULE = {
    *("cli/test_readers", "cli/test_storage", "cli/test_terminal", "search/test_faults"),
    *("explorer/test_browser", "explorer/test_browser_pixels", "explorer/test_browser_study", "explorer/test_damage"),
    *("explorer/test_browser_failures", "explorer/test_browser_upload", "explorer/test_browser_scales"),
}
"""Tests of several modules at once."""
MAX_WITHOUT_A_MODULE = 11


def files_of_tests() -> list[Path]:
    """Relative to `tests`, without their suffix; those of the whole package stand at the top."""
    paths = [path.relative_to(ROOT / "tests").with_suffix("") for path in (ROOT / "tests").rglob("test_*.py")]
    return [path for path in paths if len(path.parts) > 1 and path.parts[0] != "architecture"]


def test_every_test_file_stands_where_its_module_does() -> None:
    assert len(files_of_tests()) > 80
    alone = {
        path.as_posix()
        for path in files_of_tests()
        if not path.name.endswith(SUITES)
        and not (ROOT / PACKAGE / path.parent / f"{path.name.removeprefix('test_')}.py").is_file()
    }
    assert alone - WITHOUT_A_MODULE == set(), "merge it into the file of its module"
    assert len(alone) <= MAX_WITHOUT_A_MODULE
