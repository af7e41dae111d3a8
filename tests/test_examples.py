"""The examples: their parts pass the contract suites, and each runs as a script, a notebook and a plugin."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML

from attnsearch import plugins
from attnsearch.cli import main
from attnsearch.cli.app import app
from attnsearch.config.images import DataSettings
from attnsearch.config.load import load_study as load_study_file
from attnsearch.config.model import BackboneSettings
from attnsearch.errors import INTERRUPTED, MISUSED, TRANSIENT, ConfigError
from attnsearch.evaluation.evaluation import load_model
from attnsearch.results.reader import load_study
from attnsearch.testing import temporary_parts
from attnsearch.testing.data_set import DataSetContract
from attnsearch.testing.model import ModelContract
from attnsearch.types import URL_VARIABLE

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("*.py"))
SHIPPED = ("configs", "studies")


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
        *("own_model.py", "own_metric.py", "own_dataset.py", "explain.ipynb"),
        *("kubernetes.yaml", "Dockerfile"),
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


def parsed(words: list[str]) -> dict[str, Any]:
    """The options of a command line that attnsearch accepts."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    with group.make_context("attnsearch", words, resilient_parsing=False) as context:
        command = group.get_command(context, words[0])
        assert command is not None
        return command.make_context(words[0], words[1:], parent=context).params


def manifest() -> dict[str, Any]:
    """Name -> document of the Kubernetes manifest."""
    documents = YAML(typ="safe").load_all((EXAMPLES / "kubernetes.yaml").read_text())
    return {document["metadata"]["name"]: document for document in documents}


def container(job: dict[str, Any]) -> dict[str, Any]:
    (found,) = job["spec"]["template"]["spec"]["containers"]
    return found


def test_the_manifest_runs_commands_that_there_are() -> None:
    create, work = (container(manifest()[f"attnsearch-{name}"]) for name in ("create", "workers"))
    assert create["command"][0] == work["command"][0] == "attnsearch"
    created, worked = parsed(create["command"][1:]), parsed(work["command"][1:])
    assert created["create_only"] is True
    assert worked["study"] == f"CUB/{created['study']}"
    assert created["results"] == worked["results"] == Path("/results")
    loaded = load_study_file(created["study"], overrides=created["overrides"])
    assert (loaded.experiment.experiment, loaded.study.name) == tuple(worked["study"].split("/"))


def test_pods_of_the_manifest_have_what_a_worker_needs() -> None:
    documents = manifest()
    for name in ("attnsearch-create", "attnsearch-workers"):
        pod, one = documents[name]["spec"]["template"]["spec"], container(documents[name])
        assert URL_VARIABLE in {variable["name"] for variable in one["env"]}
        assert {mount["name"] for mount in one["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert "/results" in {mount["mountPath"] for mount in one["volumeMounts"]}
        assert pod["restartPolicy"] == "Never"
    assert documents["attnsearch-results"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_manifest_knows_the_exit_codes_of_a_worker() -> None:
    spec = manifest()["attnsearch-workers"]["spec"]
    rules = [rule for rule in spec["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
    codes = {code: rule["action"] for rule in rules for code in rule["onExitCodes"]["values"]}
    assert codes == {MISUSED: "FailJob", TRANSIENT: "Ignore", INTERRUPTED: "Ignore"}
    assert "completions" not in spec  # one success ends it


def test_the_image_holds_what_an_installation_needs() -> None:
    lines = [line for line in (EXAMPLES / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    words = [line.split() for line in lines]
    assert words[0][0] == "FROM"
    assert ["ENTRYPOINT", '["attnsearch"]'] in words
    copied = {source for line in words if line[0] == "COPY" for source in line[1:-1]}
    assert {"setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "attnsearch", *SHIPPED} <= copied
    assert all((EXAMPLES.parent / source).exists() for source in copied)
    extras = {extra for line in lines for extra in re.findall(r"/attnsearch\[(\w+)\]", line)}
    settings = ConfigParser()
    settings.read(EXAMPLES.parent / "setup.cfg")
    assert extras == {"postgres"} <= set(settings["options.extras_require"])


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
