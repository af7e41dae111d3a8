"""The documents say what is true: names, keys, commands and examples."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from attnsearch.cli.app import app
from attnsearch.config.base import members, tag_of
from attnsearch.config.experiment import OptimizerSettings, TrainSettings
from attnsearch.config.load import load_experiment, load_study
from attnsearch.config.model import ModelConfig
from attnsearch.config.reference import reference, with_metric_tables
from attnsearch.config.yaml_reader import list_names
from attnsearch.metrics.base import Metric
from attnsearch.metrics.registry import all_metrics
from attnsearch.models import build_model
from attnsearch.tasks.classification import LinearHeads
from tests.documents import ROOT, blocks, commands, run_example, undocumented

README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
PACKAGE = ROOT / "attnsearch"
RESULTS_README = ROOT / "results/README.md"


def verbs(group: typer.Typer, prefix: str = "") -> list[str]:
    """The commands that a user may write, `data check` for one inside a group."""
    own = [
        prefix + (command.name or command.callback.__name__.replace("_", "-"))
        for command in group.registered_commands
        if command.callback is not None and not command.hidden
    ]
    inner = [verb for one in group.registered_groups for verb in verbs(one.typer_instance, f"{one.name} ")]  # type: ignore[arg-type]
    return own + inner


def table_cells(path: Path) -> list[str]:
    """What stands between backticks at the start of a table's row."""
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return [row.split("`")[1] for row in rows]


def test_key_reference_is_up_to_date() -> None:
    written = (ROOT / "configs/README.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m attnsearch.config.reference > configs/README.md"


def test_every_verb_stands_in_the_readme() -> None:
    found = verbs(app)
    assert len(found) >= 12
    shown = [" ".join(word for word in cell.split() if not word.isupper()) for cell in table_cells(README)]
    missing = sorted(set(found) - set(shown))
    assert not missing, f"README.md, table of commands: add a row for {', '.join(missing)}"


@pytest.mark.parametrize("name", [tag for one in members(ModelConfig) if (found := tag_of(one)) for tag in found[1:]])
def test_every_model_stands_in_the_readme(name: str) -> None:
    assert name in table_cells(README), f"README.md, first table of models: add a row for {name}"


def models_table() -> dict[str, tuple[str, str]]:
    """Model -> its cells of maps and of settings, of the second table of models."""
    text = README.read_text(encoding="utf-8")
    _, _, table = text.partition("| model | maps | settings to search |")
    table, _, _ = table.partition("\n\n")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("| `"): (row[1], row[2]) for row in rows}


def test_maps_and_settings_of_the_readme_exist() -> None:
    table = models_table()
    missing = {str(tag[1]) for settings in members(ModelConfig) if (tag := tag_of(settings))} - table.keys()
    assert not missing, (
        f"README.md, table of models with maps and settings to search: add a row for {', '.join(sorted(missing))}"
    )
    trained = {*TrainSettings.model_fields, *OptimizerSettings.model_fields}
    for settings in members(ModelConfig):
        name = tag_of(settings)[1]  # type: ignore[index]
        maps, keys = (re.findall(r"`([^`]+)`", cell) for cell in table[name])
        assert not [knob for knob in keys if knob.split(".")[-1] not in {*settings.model_fields, *trained}], name
        if name == "intr":
            assert re.fullmatch(r"layer_L/predicted/head_N", maps[0])
            continue
        small = {"backbone": "deit_tiny_patch16_224"} if name == "dcal" else {"backbone": "resnet10t"}
        model = build_model(settings(**small), LinearHeads(2))
        assert [one for one in maps if one in model.map_names] == maps, name


@pytest.mark.parametrize("path", [README, RESULTS_README], ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_of_metrics_are_up_to_date(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    assert written == with_metric_tables(written), f"run: python -m attnsearch.config.reference {path}"


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: metric.name)
def test_every_metric_is_listed(metric: Metric) -> None:
    assert metric.name in table_cells(RESULTS_README if metric.is_score else README)


def test_nouns_of_the_readme_exist() -> None:
    nouns = [cell for cell in table_cells(README) if cell.isidentifier() and cell[0].isupper()]
    classes = {match for path in PACKAGE.rglob("*.py") for match in re.findall(r"^class (\w+)", path.read_text(), re.M)}
    assert len(nouns) >= 8
    assert set(nouns) <= classes


def test_files_that_the_architecture_names_exist() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text) if "<" not in name]
    assert len(named) >= 10
    assert not [name for name in named if not ((PACKAGE / name).is_file() or (PACKAGE.parent / name).is_file())]


def test_commands_of_the_readme_exist() -> None:
    known, words = verbs(app), commands(README)
    assert len(words) >= 6
    for first, *rest in words:
        assert first in ("attnsearch", "bash", "optuna-dashboard")
        if first == "bash":
            assert (ROOT / rest[0]).is_file()
        if first == "attnsearch":
            assert rest[0] in known or " ".join(rest[:2]) in known


def test_settings_in_commands_of_the_readme_are_valid() -> None:
    found = [
        words[1:] for words in commands(README) if words[:2] in (["attnsearch", "search"], ["attnsearch", "train"])
    ]
    assert found
    for verb, name, *rest in found:
        profile = rest[rest.index("--profile") + 1] if "--profile" in rest else None
        overrides = [word for word in rest if "=" in word]
        load = load_study if verb == "search" else load_experiment
        assert load(name, profile=profile, overrides=overrides)


def test_studies_and_profiles_stand_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    for name in (*list_names("studies"), *list_names("configs/profiles")):
        assert name in text


@pytest.mark.parametrize("path", [README, RESULTS_README], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_examples_run(path: Path, finished_run: Path) -> None:
    examples = [code for code in blocks(path, "python") if "hypSearch.db" not in code]
    assert len(examples) >= 2
    for code in examples:
        run_example(code, finished_run, "demo")


def test_every_file_of_a_run_is_documented(finished_run: Path) -> None:
    experiment_dir = finished_run / "demo"
    assert len(list(experiment_dir.rglob("*.npy"))) >= 6
    assert undocumented(experiment_dir, "br_npa_low_res", RESULTS_README) == []


def test_every_column_is_documented(finished_run: Path) -> None:
    text = RESULTS_README.read_text(encoding="utf-8")
    trial = finished_run / "demo/br_npa_low_res/trials/00000"
    header = (trial / "images_val.csv").read_text().splitlines()[0]
    assert [column for column in header.split(",") if f"`{column}`" not in text] == []
    for column in (trial / "epochs.csv").read_text().splitlines()[0].split(","):
        plain = column.removeprefix("train_").removeprefix("val_")
        pattern = "loss_<term>" if plain.startswith("loss_") else plain
        assert any(f"`{shown}`" in text for shown in (column, plain, f"<split>_{pattern}"))
