"""A data set on the command line: a folder, a config, or settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.cli.data import data_settings
from attnsearch.errors import ConfigError


def test_settings_alone_describe_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "birds.csv").write_text("path,label,split\n")
    data = data_settings("data.name=csv", [f"data.root={tmp_path}/birds.csv"])
    assert (data.name, data.model_dump()["root"]) == ("csv", f"{tmp_path}/birds.csv")
    with pytest.raises(ConfigError, match="data: needs a 'name'"):
        data_settings("data.root=birds", [])


def test_a_folder_may_have_an_equals_sign_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert data_settings(str(folder), []).name == "folder"
