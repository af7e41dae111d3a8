"""The examples: their parts pass the contract suites, and each runs as a script, a notebook and a plugin."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnsearch import plugins
from attnsearch.cli import main
from attnsearch.config.images import DataSettings
from attnsearch.config.model import BackboneSettings
from attnsearch.errors import ConfigError
from attnsearch.evaluation.evaluation import load_model
from attnsearch.results.reader import load_study
from attnsearch.testing import temporary_parts
from attnsearch.testing.data_set import DataSetContract
from attnsearch.testing.model import ModelContract

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The parts of all examples, until the end of the module."""
    with temporary_parts():
        for path in SCRIPTS:
            sys.modules.pop(path.stem, None)
        plugins.load(map(str, SCRIPTS))
        yield
    for path in SCRIPTS:
        sys.modules.pop(path.stem, None)


class TestOwnModel(ModelContract):
    @pytest.fixture
    def settings(self, registered: None) -> BackboneSettings:
        settings: BackboneSettings = plugins.find("model", "gated").settings(backbone="resnet10t", width=0.25)
        return settings


class TestOwnDataSet(DataSetContract):
    @pytest.fixture
    def settings(self, registered: None, tmp_path: Path) -> DataSettings:
        sys.modules["own_dataset"].draw(tmp_path / "squares")
        settings: DataSettings = plugins.find("dataset", "named_files").settings(root=str(tmp_path / "squares"))
        return settings


def test_there_is_an_example_of_each_part() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        *("own_model.py", "own_metric.py", "own_dataset.py", "explain.ipynb")
    }


def test_a_command_takes_an_example_as_a_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(
        "name: own\nmodel: {name: gated, backbone: resnet10t, width: 0.25}\n"
        "data: {name: synthetic, n_classes: 2, n_train_per_class: 2, n_val_per_class: 2, n_test_per_class: 2}\n"
    )
    assert main(["validate", "own.yaml", "--plugin", str(EXAMPLES / "own_model.py")]) == 0
    assert "own.yaml is valid" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_as_a_script(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (study_yaml,) = tmp_path.glob("results/examples/*/study.yaml")
    assert str(path) in study_yaml.read_text()
    study = load_study(study_yaml)
    assert set(study.trials["state"]) == {"complete"}


@pytest.mark.slow
def test_a_study_of_an_unknown_model_is_read_and_names_the_plugin(tmp_path: Path) -> None:
    script = EXAMPLES / "own_model.py"
    subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, check=True)
    with temporary_parts():
        plugins._parts["model"].pop("gated")
        plugins._loaded.discard(str(script))
        study = load_study(tmp_path / "results/examples/gated")
        assert study.summary().n_done == 2
        assert len(study.epochs) > 0
        assert main(["list", "--results", str(tmp_path / "results")]) == 0
        with pytest.raises(ConfigError, match=r"own_model.py"):
            load_model(study.best.checkpoint)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(EXAMPLES / "explain.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
