"""The documents say what is true: names, keys, commands and examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

import attnsearch as at
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
DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
COMMANDS, MODELS, METRICS = (DOCS / f"reference/{name}.md" for name in ("commands", "models", "metrics"))
PACKAGE = ROOT / "attnsearch"
RESULTS_README = ROOT / "results/README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", RESULTS_README, *sorted(DOCS.rglob("*.md"))]


def with_blocks(language: str) -> list[Any]:
    """The pages that have fenced blocks of a language, as parameters of a test."""
    found = [path for path in PAGES if blocks(path, language)]
    return [pytest.param(path, id=path.relative_to(ROOT).as_posix()) for path in found]


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


def test_every_command_has_a_row() -> None:
    found = verbs(app)
    assert len(found) >= 12
    shown = [" ".join(word for word in cell.split() if not word.isupper()) for cell in table_cells(COMMANDS)]
    missing = sorted(set(found) - set(shown))
    assert not missing, f"{COMMANDS}: add a row for {', '.join(missing)}"


@pytest.mark.parametrize("name", [tag for one in members(ModelConfig) if (found := tag_of(one)) for tag in found[1:]])
def test_every_model_has_a_row(name: str) -> None:
    assert name in table_cells(MODELS), f"{MODELS}, first table: add a row for {name}"


def models_table() -> dict[str, tuple[str, str]]:
    """Model -> its cells of maps and of settings, of the second table of models."""
    text = MODELS.read_text(encoding="utf-8")
    _, _, table = text.partition("| model | maps | settings to search |")
    table, _, _ = table.partition("\n\n")
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("| `"): (row[1], row[2]) for row in rows}


def test_maps_and_settings_of_the_table_exist() -> None:
    table = models_table()
    missing = {str(tag[1]) for settings in members(ModelConfig) if (tag := tag_of(settings))} - table.keys()
    assert not missing, f"{MODELS}, table of maps and settings to search: add a row for {', '.join(sorted(missing))}"
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


@pytest.mark.parametrize("path", [METRICS, RESULTS_README], ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_of_metrics_are_up_to_date(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    assert written == with_metric_tables(written), f"run: python -m attnsearch.config.reference {path}"


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: metric.name)
def test_every_metric_is_listed(metric: Metric) -> None:
    assert metric.name in table_cells(RESULTS_README if metric.is_score else METRICS)


def test_types_that_the_architecture_names_exist() -> None:
    nouns = [cell for cell in table_cells(ARCHITECTURE) if cell.isidentifier() and cell[0].isupper()]
    classes = {match for path in PACKAGE.rglob("*.py") for match in re.findall(r"^class (\w+)", path.read_text(), re.M)}
    assert len(nouns) >= 8
    assert set(nouns) <= classes


def test_files_that_the_architecture_names_exist() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    named = [name for name in re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", text) if "<" not in name]
    assert len(named) >= 10
    assert not [name for name in named if not ((PACKAGE / name).is_file() or (PACKAGE.parent / name).is_file())]


@pytest.mark.parametrize("path", with_blocks(""))
def test_commands_of_a_page_exist(path: Path) -> None:
    known = verbs(app)
    for first, *rest in commands(path):
        name = Path(first).name
        assert name in ("attnsearch", "bash", "optuna-dashboard"), first
        if name == "bash":
            assert (ROOT / rest[0]).is_file()
        if name == "attnsearch":
            assert rest[0] in known or " ".join(rest[:2]) in known


@pytest.mark.parametrize("path", with_blocks(""))
def test_settings_in_commands_of_a_page_are_valid(path: Path) -> None:
    for first, *words in commands(path):
        if Path(first).name != "attnsearch" or words[0] not in ("search", "train"):
            continue
        verb, name, *rest = words
        profile = rest[rest.index("--profile") + 1] if "--profile" in rest else None
        load = load_study if verb == "search" else load_experiment
        assert load(name, profile=profile, overrides=[word for word in rest if "=" in word])


def test_pages_have_commands() -> None:
    assert len(with_blocks("")) >= 10
    assert sum(len(commands(path)) for path in PAGES) >= 40


def test_studies_and_profiles_are_documented() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in (*list_names("studies"), *list_names("configs/profiles")):
        assert name in text


@pytest.mark.parametrize("path", with_blocks("python"))
def test_python_examples_run(path: Path, finished_run: Path) -> None:
    examples = [code for code in blocks(path, "python") if "hypSearch.db" not in code]
    assert examples
    for code in examples:
        run_example(code, finished_run, "demo")


def test_the_readme_fits_a_landing_page() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    assert any(line.startswith("![") for line in lines[:8])


def test_links_of_pages_that_no_site_checks_lead_somewhere() -> None:
    for page in (README, ROOT / "CONTRIBUTING.md"):
        links = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


def test_every_public_name_is_in_the_python_reference_once() -> None:
    page = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: attnsearch\.(\w+)$", page, re.M)) == at.__all__


def test_every_page_is_in_the_navigation() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r": ([\w/]+\.md)$", site.partition("\nnav:\n")[2], re.M))
    assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


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
