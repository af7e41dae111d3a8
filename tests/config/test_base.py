"""Registered settings classes stand beside those of the package; variables are expanded in what a person wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError

from attnsearch.config.base import Settings, dotted_keys, expand, is_variable, literal, register_part
from attnsearch.config.data import FolderData
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.images import DataSettings
from attnsearch.config.load import (
    load_experiment,
    load_stored_experiment,
    load_stored_settings,
    load_stored_study,
    load_study,
    parse_experiment,
    resolved_study,
    with_settings,
)
from attnsearch.config.model import BackboneSettings, CnnSettings
from attnsearch.config.reference import reference
from attnsearch.config.yaml_reader import list_names
from attnsearch.errors import ConfigError
from attnsearch.plugins import load as load_plugins
from attnsearch.testing import temporary_parts

DIGESTS: dict[str, str] = json.loads((Path(__file__).parents[1] / "golden" / "digests.json").read_text())
RUN = "name: run\ndata: {name: folder, root: $BIRDS/cub}\nmodel: {name: cnn, backbone: resnet10t}\n"


class GateSettings(BackboneSettings):
    """A gate over the features."""

    name: Literal["gate"] = Field("gate", description="the model family")
    gate_size: int = Field(4, ge=1, le=9, description="cells of the gate")


class TableSettings(DataSettings):
    """Images in a table."""

    name: Literal["table"] = Field("table", description="the data set")
    files: tuple[str, ...] = Field(("a", "b"), description="files of the table")


@pytest.fixture(autouse=True)
def own_parts() -> Iterator[None]:
    with temporary_parts():
        register_part("model", GateSettings, "absent:build")
        register_part("dataset", TableSettings, "absent:list_images")
        yield


def experiment(**model: Any) -> ExperimentConfig:
    values = {"name": "x", "data": {"name": "table"}, "model": {"name": "gate", **model}}
    return ExperimentConfig.model_validate_json(json.dumps(values))


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return str(path)


def test_a_dump_keeps_the_fields_of_a_registered_class_and_is_read_again() -> None:
    config = experiment(gate_size=7)
    assert isinstance(config.model, GateSettings)
    dumped = json.loads(config.model_dump_json())
    assert dumped["model"]["gate_size"] == 7
    assert dumped["data"]["files"] == ["a", "b"]
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config
    assert ExperimentConfig.model_validate(config.model_dump()) == config


def test_the_digest_depends_on_the_fields_of_a_registered_class() -> None:
    assert experiment(gate_size=7).digest() != experiment(gate_size=8).digest()


def test_settings_that_are_built_already_are_taken_as_they_are() -> None:
    settings = GateSettings(gate_size=2)
    config = ExperimentConfig(name="x", data=TableSettings(), model=settings)
    assert config.model is settings
    with pytest.raises(ValidationError, match="valid dictionary or object"):
        ExperimentConfig(name="x", data=TableSettings(), model=TableSettings())


def test_dotted_settings_are_laid_over_a_registered_class() -> None:
    assert with_settings(experiment(), {"model.gate_size": 9}).model.model_dump()["gate_size"] == 9
    assert isinstance(with_settings(experiment(gate_size=9), {"model.name": "cnn"}).model, CnnSettings)
    assert "model.gate_size" in dotted_keys(ExperimentConfig)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gate_sise: 3", r"own.yaml:4: model.gate_sise: is not a key of gate \(did you mean 'gate_size'\?\)"),
        ("gate_size: 12", r"own.yaml:4: model.gate_size: must be less than or equal to 9, got 12"),
        ("gate_size: big", r"own.yaml:4: model.gate_size: must be a whole number, got 'big'"),
    ],
)
def test_messages_name_the_line_of_a_registered_key(tmp_path: Path, line: str, message: str) -> None:
    path = written(tmp_path, f"name: own\nmodel:\n  name: gate\n  {line}\ndata: {{name: table}}\n")
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


def test_an_unknown_name_is_told_with_the_registered_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "name: own\nmodel: {name: gaet}\ndata: {name: table}\n")
    with pytest.raises(ConfigError, match=r"model.name: unknown name 'gaet' \(did you mean 'gate'\?\); known: .*gate"):
        load_experiment(path)


def test_nothing_is_said_of_the_keys_of_an_unknown_name(tmp_path: Path) -> None:
    path = written(tmp_path, "name: own\nmodel: {name: spatial, n_channels: 8}\ndata: {name: table}\n")
    with pytest.raises(ConfigError, match="unknown name 'spatial'") as caught:
        load_experiment(path)
    assert "n_channels" not in str(caught.value)


def test_the_space_of_a_study_may_name_keys_of_a_registered_class(tmp_path: Path) -> None:
    base = "name: own\nbase: {name: own, model: {name: gate}, data: {name: table}}\n"
    text = base + "space:\n  model.gate_size: {kind: int, low: 1, high: 3}\n"
    assert "gate_size: 4" in resolved_study(load_study(written(tmp_path, text)))
    with pytest.raises(ConfigError, match=r"model.gate_sice: is not a key .*did you mean 'model.gate_size'"):
        load_study(written(tmp_path, text.replace("gate_size", "gate_sice")))


def test_the_reference_lists_registered_classes() -> None:
    assert "**`name: gate`** A gate over the features." in reference()
    assert "| `model.gate_size` | whole number in [1, 9] | `4` | cells of the gate |" in reference()


def test_a_settings_class_without_a_name_of_one_value_is_refused() -> None:
    class Nameless(Settings):
        size: int = 1

    with pytest.raises(ConfigError, match=r"Nameless needs a field such as name: Literal\[\"mine\"\] = \"mine\""):
        register_part("model", Nameless, "absent:build")


def test_a_name_of_the_package_is_taken() -> None:
    class Mine(BackboneSettings):
        name: Literal["cnn"] = "cnn"

    with pytest.raises(ConfigError, match=r"model 'cnn' is attnsearch.config.model:CnnSettings, so .*Mine needs"):
        register_part("model", Mine, "absent:build")


@pytest.mark.parametrize("key", DIGESTS)
def test_digests_of_shipped_files_never_change(key: str) -> None:
    """Studies that were started continue only under the same digest; these are those of version 0.1.

    Since then recipes follow their authors in two settings, which such a study continues without.
    """
    file, _, profile = key.partition(" --profile ")
    kind, name = file.split("/")
    overrides = ["train.optimizer.decay_norms=false", "train.schedule.per_epoch=false"]
    overrides += ["data.root=photos"] if profile == "photos" else []
    if kind == "configs":
        assert load_experiment(name, overrides=overrides).digest() == DIGESTS[key]
    else:
        assert load_study(name, profile=profile or None, overrides=overrides).experiment.digest() == DIGESTS[key]


@pytest.mark.parametrize("key", [key for key in DIGESTS if key.endswith(("demo", "photos"))])
def test_profiles_keep_their_digests_without_overrides(key: str) -> None:
    name, _, profile = key.removeprefix("studies/").partition(" --profile ")
    overrides = ["data.root=photos"] if profile == "photos" else []
    assert load_study(name, profile=profile, overrides=overrides).experiment.digest() == DIGESTS[key]


def test_digests_of_all_configs_are_held() -> None:
    held = {key.removeprefix("configs/") for key in DIGESTS if key.startswith("configs/")}
    assert held == set(list_names("configs"))


PLUGIN = """
from typing import Literal
from pydantic import Field
from attnsearch.config.base import register_part
from attnsearch.config.model import BackboneSettings
class FileSettings(BackboneSettings):
    name: Literal["from_file"] = Field("from_file", description="the model family")
    depth: int = Field(1, description="layers")
register_part("model", FileSettings, "absent:build")
"""


def plugin_and_config(tmp_path: Path) -> tuple[str, str]:
    plugin = tmp_path / "parts_in_a_file.py"
    plugin.write_text(PLUGIN)
    config = written(tmp_path, "name: own\nmodel: {name: from_file, depth: 3}\ndata: {name: table}\n")
    return str(plugin), config


def test_plugins_of_a_caller_are_imported_and_kept_and_change_no_digest(tmp_path: Path) -> None:
    plugin, config = plugin_and_config(tmp_path)
    loaded = load_experiment(config, plugins=[plugin])
    assert loaded.plugins == (plugin,)
    assert loaded.digest() == load_experiment(config).digest()
    assert "plugins" not in load_experiment(config).model_dump()


def test_plugins_of_a_file_are_imported_before_its_names_are_looked_up(tmp_path: Path) -> None:
    plugin, _ = plugin_and_config(tmp_path)
    text = f"name: own\nbase: {{name: x, plugins: [{plugin}], model: {{name: from_file}}, data: {{name: table}}}}\n"
    loaded = load_study(written(tmp_path, text + "space: {model.depth: {kind: int, low: 1, high: 2}}\n"))
    assert loaded.experiment.plugins == (plugin,)
    assert f"plugins:\n  - {plugin}" in resolved_study(loaded)


def test_a_reader_imports_nothing_and_names_the_plugin(tmp_path: Path) -> None:
    plugin, config = plugin_and_config(tmp_path)
    marker = tmp_path / "ran"
    Path(plugin).write_text(f"open({str(marker)!r}, 'w').close()\n{PLUGIN}")
    stored = tmp_path / "config.yaml"
    stored.write_text(Path(config).read_text() + f"plugins: [{plugin}]\n")
    with pytest.raises(ConfigError, match=r"(?s)unknown name .from_file.*add --plugin '.*in_a_file.py'"):
        load_stored_experiment(stored)
    assert not marker.exists()
    load_plugins([plugin])
    assert load_stored_experiment(stored).model.name == "from_file"


def test_the_settings_of_a_stored_study_are_read_without_its_model(tmp_path: Path) -> None:
    text = "name: own\nbase: {name: own, plugins: [absent_parts], model: {name: absent}, data: {name: table}}\n"
    stored = Path(written(tmp_path, text + "n_trials: 7\nspace: {model.depth: {kind: int, low: 1, high: 2}}\n"))
    assert load_stored_settings(stored).n_trials == 7
    with pytest.raises(ConfigError, match=r"unknown name 'absent'(.|\n)*add --plugin 'absent_parts'"):
        load_stored_study(stored)


def test_a_checkpoint_of_an_unknown_model_names_the_plugin() -> None:
    values = {"name": "x", "data": {"name": "table"}, "model": {"name": "absent"}, "plugins": ["absent_parts"]}
    with pytest.raises(ConfigError, match=r"unknown name 'absent'(.|\n)*add --plugin 'absent_parts'"):
        parse_experiment(json.dumps(values))
    assert parse_experiment(experiment(gate_size=3).model_dump_json()) == experiment(gate_size=3)


@pytest.fixture
def birds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIRDS", "/data/$BIRDS")
    monkeypatch.delenv("UNSET", raising=False)


@pytest.mark.usefixtures("birds")
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


@pytest.mark.usefixtures("birds")
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
