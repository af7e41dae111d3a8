"""Variables are expanded where a person wrote them, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnsearch.config.data import FolderData
from attnsearch.config.load import load_stored_experiment, load_stored_study, with_settings
from attnsearch.config.variables import expand, is_variable, literal
from attnsearch.errors import ConfigError

RUN = "name: run\ndata: {name: folder, root: $BIRDS/cub}\nmodel: {name: cnn, backbone: resnet10t}\n"


@pytest.fixture(autouse=True)
def birds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDS", "/data/$BIRDS")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("$BIRDS/cub", "/data/$BIRDS/cub"),
        ("a${BIRDS}b", "a/data/$BIRDSb"),
        ("$UNSET ${UNSET} $ 5$", "$UNSET ${UNSET} $ 5$"),
        ("$$BIRDS $$$BIRDS", "$BIRDS $/data/$BIRDS"),
    ],
)
def test_variables_are_expanded_once(written: str, meant: str) -> None:
    assert expand(written) == meant
    assert expand(literal(written)) == written


@pytest.mark.parametrize(
    ("text", "answer"), [("$A", True), ("${A_1}", True), ("x$A", False), ("$A$B", False), ("$$", False), ("", False)]
)
def test_name_of_one_variable_is_told_from_other_text(text: str, answer: bool) -> None:
    assert is_variable(text) is answer


def test_data_root_of_a_stored_config_is_taken_as_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(RUN)
    stored = load_stored_experiment(file)
    assert isinstance(stored.data, FolderData)
    assert stored.data.root_path == Path("$BIRDS/cub")
    changed = with_settings(stored, {"data.root": "$BIRDS/cub"}).data
    assert isinstance(changed, FolderData)
    assert changed.root_path == Path("/data/$BIRDS/cub")


def test_stored_study_reads_no_other_file(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: hunt\nbase: /etc/passwd\n")
    with pytest.raises(ConfigError, match=r"study\.yaml: base: .*got '/etc/passwd'"):
        load_stored_study(file)
