"""Files, profiles and overrides become settings, also those of the package; problems are reported with their place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnsearch.config.load import (
    LoadedStudy,
    load_experiment,
    load_stored_settings,
    load_stored_study,
    load_study,
    resolved_study,
    starts_from,
    with_settings,
)
from attnsearch.config.study import HalvingPruner, MedianPruner, StudyConfig
from attnsearch.config.yaml_layers import Layer, merge
from attnsearch.config.yaml_reader import read_overrides, read_yaml
from attnsearch.errors import ConfigError
from attnsearch.search.space import extreme_experiments

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))
PROFILES = [None, *sorted(path.stem for path in (ROOT / "configs/profiles").glob("*.yaml"))]
OVERRIDES = {"photos": ["data.root=images"]}
BASE = """\
name: tiny
experiment: here
data: {name: synthetic, image_size_px: 32}
model:
  name: br_npa
  backbone: resnet10t
  n_vectors: 4
train:
  epochs: 3
  optimizer: {lr: 1e-3}
"""
STUDY = """\
name: hunt
base: configs/tiny.yaml
overrides:
  train.epochs: 2
objectives: {val/accuracy: maximize}
n_trials: 5
space:
  train.optimizer.name: {kind: choice, choices: [adam, sgd]}
  train.optimizer.momentum: {kind: float, low: 0, high: 0.9, when: {train.optimizer.name: [sgd]}}
  train.optimizer.lr: {kind: float, low: 1e-4, high: 1e-2, log: true}
profiles:
  demo:
    n_trials: 2
    overrides: {model.n_vectors: 2}
    space: {train.optimizer.name: null, train.optimizer.momentum: null}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder, text in {
        "configs/tiny.yaml": BASE,
        "studies/hunt.yaml": STUDY,
        "configs/profiles/demo.yaml": "n_trials: 3\noverrides: {experiment: demo, train: {epochs: 1}}\n",
    }.items():
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems(path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_experiment(str(path))
    return str(caught.value).splitlines()


def test_objectives_are_replaced_and_not_joined(here: Path) -> None:
    study = load_study("hunt", overrides=["objectives={val/mAP: maximize}", "monitor=val/mAP"]).study
    assert study.objectives == {"val/mAP": "maximize"}


def test_bare_name_and_override_reach_the_experiment(here: Path) -> None:
    loaded = load_experiment("tiny", overrides=["train.optimizer.lr=0.5", "seed=7"])
    assert loaded.train.optimizer.lr == 0.5
    assert loaded.seed == 7
    assert loaded.model.n_vectors == 4  # type: ignore[union-attr]


def test_study_layers_are_laid_in_order(here: Path) -> None:
    plain, demo = load_study("hunt"), load_study("hunt", profile="demo")
    assert (plain.study.n_trials, demo.study.n_trials) == (5, 2)  # the study's own section wins over the profile
    assert (plain.experiment.train.epochs, demo.experiment.train.epochs) == (2, 1)
    assert demo.experiment.experiment == "demo"
    assert demo.experiment.model.n_vectors == 2  # type: ignore[union-attr]
    assert list(demo.study.space) == ["train.optimizer.lr"]


def test_overrides_are_split_between_study_and_experiment(here: Path) -> None:
    loaded = load_study(
        "hunt", overrides=["n_trials=9", "train.epochs=4", "space.train.optimizer.lr.high=0.5", "name=other"]
    )
    assert loaded.study.n_trials == 9
    assert loaded.experiment.train.epochs == 4
    assert loaded.study.space["train.optimizer.lr"].limits() == (1e-4, 0.5)
    assert loaded.experiment.name == "other"


def test_changed_tag_replaces_its_block(here: Path) -> None:
    loaded = load_experiment("tiny", overrides=["model.name=cnn"])
    assert loaded.model.name == "cnn"
    assert loaded.model.backbone == "resnet50"  # the old block is gone, with its backbone


def test_changed_tag_keeps_what_is_set_beside_it_in_whatever_order(here: Path) -> None:
    loaded = load_experiment("tiny", overrides=["model.backbone=resnet18", "model.name=cnn"])
    assert (loaded.model.name, loaded.model.backbone) == ("cnn", "resnet18")


def test_resolved_study_loads_to_the_same_settings(here: Path) -> None:
    loaded = load_study("hunt", profile="demo", overrides=["train.optimizer.lr=0.02"])
    (here / "resolved.yaml").write_text(resolved_study(loaded))
    again = load_study("resolved.yaml")
    assert again.experiment == loaded.experiment
    assert again.study.space == loaded.study.space


def test_all_problems_are_reported_at_once_with_line_key_and_value(here: Path) -> None:
    text = BASE.replace("epochs: 3", "epochs: none").replace("n_vectors", "n_vektors").replace("1e-3", "-1.0")
    lines = problems(here / "bad.yaml", text)
    assert len(lines) == 3
    assert any(
        "bad.yaml:7: model.n_vektors" in line and "did you mean 'n_vectors'?" in line and "got 4" in line
        for line in lines
    )
    assert any("bad.yaml:9: train.epochs" in line and "got 'none'" in line for line in lines)
    assert any(
        "bad.yaml:10: train.optimizer.lr" in line and "greater than 0" in line and "got -1.0" in line for line in lines
    )


def test_unknown_choice_lists_the_known_ones(here: Path) -> None:
    (line,) = problems(here / "bad.yaml", BASE.replace("name: br_npa", "name: br_nap"))
    assert "bad.yaml:5: model.name: unknown name 'br_nap'" in line
    assert "did you mean 'br_npa'?" in line
    (line,) = problems(here / "bad.yaml", BASE.replace("{lr: 1e-3}", "{name: adamm}"))
    assert "did you mean 'adam" in line
    assert "'adamm'" in line


def test_moved_key_says_what_to_write(here: Path) -> None:
    (line,) = problems(here / "bad.yaml", BASE + "lr: 0.1\n")
    assert "write train.optimizer.lr" in line
    assert "got 0.1" in line


def test_missing_key_is_named(here: Path) -> None:
    (line,) = problems(here / "bad.yaml", BASE.replace("name: tiny\n", ""))
    assert line.endswith("bad.yaml:1: name: is required and missing; write name=…")


def test_duplicate_key_is_refused(here: Path) -> None:
    (line,) = problems(here / "bad.yaml", BASE + "name: again\n")
    assert "bad.yaml" in line
    assert "duplicate key" in line


@pytest.mark.parametrize("text", ["- 1\n", "just text\n", ""])
def test_file_without_keys_is_refused(here: Path, text: str) -> None:
    (line,) = problems(here / "bad.yaml", text)
    assert "bad.yaml:1: must hold `key: value` lines" in line


def test_yaml_1_2_rules_hold(here: Path) -> None:
    read = read_overrides(["a.b=1e-4", "c=yes", "d=null", "e=[1, x]", "f=", "g=0x1F", "h=007", "i='1'"])
    assert read.values == {"a.b": 1e-4, "c": "yes", "d": None, "e": [1, "x"], "f": None, "g": 31, "h": 7, "i": "1"}
    assert not read.problems


def test_override_without_sign_is_refused() -> None:
    (line,) = read_overrides(["train.epochs"]).problems
    assert "'train.epochs'" in line


def test_problem_of_an_override_names_the_command_line(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: train\.epochs: .*got 'x'"):
        load_experiment("tiny", overrides=["train.epochs=x"])


def test_unknown_name_lists_the_known_ones(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"'hnt' \(did you mean 'hunt'\?\); known: .*hunt"):
        load_study("hnt")


def test_reversed_range_names_both_ends(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"0\.01 > 0\.0001; swap them"):
        load_study("hunt", overrides=["space.train.optimizer.lr.low=0.01", "space.train.optimizer.lr.high=0.0001"])


def test_pruner_is_refused_with_several_objectives(here: Path) -> None:
    several = "objectives={val/accuracy: maximize, val/sparsity: minimize}"
    with pytest.raises(ConfigError, match=r"command line: pruner: judges trials by the monitor alone.*'median'"):
        load_study("hunt", overrides=[several, "pruner={name: median}"])
    assert load_study("hunt", overrides=["pruner={name: median}"]).study.pruner is not None
    assert load_study("hunt", overrides=[several, "pruner=null"]).study.pruner is None


def test_bare_name_of_a_pruner_stands_for_its_defaults(here: Path) -> None:
    several = "objectives={val/accuracy: maximize, val/sparsity: minimize}"
    loaded = load_study("hunt", overrides=[several, "pruner=halving"])
    assert loaded.study.pruner == HalvingPruner(name="halving")


def test_key_of_a_pruner_is_set_beside_its_bare_name(here: Path) -> None:
    study = here / "studies" / "hunt.yaml"
    study.write_text(f"{study.read_text().replace('name: hunt', 'name: halved')}\npruner: halving\n")
    study.rename(study.with_name("halved.yaml"))
    loaded = load_study("halved", overrides=["pruner.first_epochs=4"])
    assert loaded.study.pruner == HalvingPruner(name="halving", first_epochs=4)
    assert load_study("halved", overrides=["pruner={name: median}"]).study.pruner == MedianPruner(name="median")


def test_pruner_that_is_gone_is_refused_at_a_start_and_read_where_it_is_stored(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"pruner: is no longer offered.*write pruner: halving"):
        load_study("hunt", overrides=["pruner={name: successive_halving, reduction: 4}"])
    with pytest.raises(ConfigError, match=r"is no longer offered.*got 'successive_halving'$"):
        load_study("hunt", overrides=["pruner=successive_halving"])
    path = here / "study.yaml"
    text = resolved_study(load_study("hunt", overrides=["pruner={name: median}"]))
    path.write_text(re.sub(r"(?m)^pruner:\n(  .*\n)+", "pruner: {name: successive_halving, min_epochs: 1}\n", text))
    assert load_stored_settings(path).pruner is None
    with pytest.raises(ConfigError, match="is no longer offered"):
        load_study(str(path))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "space.train.epochs={kind: int, low: 1, high: 3}",
            "pruner: halving ranks trials of one length.*write pruner: null",
        ),
        ("sampler={name: gp}", "pruner: halving leaves gp few complete trials.*write pruner: null"),
    ],
)
def test_halving_is_refused_where_it_cannot_rank_or_teach(here: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study("hunt", overrides=["pruner=halving", override])


def test_stored_study_with_a_pruner_and_several_objectives_stays_readable(here: Path) -> None:
    loaded = load_study("hunt", overrides=["pruner={name: median}"])
    several = loaded.study.model_copy(update={"objectives": {"val/accuracy": "maximize", "val/sparsity": "minimize"}})
    path = here / "study.yaml"
    path.write_text(resolved_study(LoadedStudy(several, loaded.experiment)))
    assert load_stored_study(path).study == load_stored_settings(path)
    with pytest.raises(ConfigError, match="write pruner: halving or pruner: null"):
        load_study(str(path))


def test_condition_on_no_axis_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: space\.seed\.when\S*: names 'train\.nothing'"):
        load_study("hunt", overrides=["space.seed={kind: int, low: 1, high: 2, when: {train.nothing: [1]}}"])


def test_merge_keeps_the_origin_of_each_value(here: Path) -> None:
    base = read_yaml(Path("studies/hunt.yaml"))
    merged = merge(base, Layer({"n_trials": 1}, {("n_trials",): "over"}), StudyConfig)
    assert merged.origin(("n_trials",)) == "over"
    assert merged.origin(("space", "train.optimizer.lr", "low")) == "studies/hunt.yaml:10"


def test_digest_ignores_the_machine_and_the_place_of_the_data(here: Path) -> None:
    loaded = load_experiment("tiny")
    assert with_settings(loaded, {"runtime.n_threads": 2}).digest() == loaded.digest()
    folder = with_settings(loaded, {"data": {"name": "folder", "root": "a"}})
    assert with_settings(folder, {"data.root": "b"}).digest() == folder.digest()
    assert with_settings(loaded, {"seed": 5}).digest() != loaded.digest()


def test_bad_name_says_what_names_may_hold(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"command line: name: may hold up to 100 letters .*got '\.\./x'"):
        load_experiment("tiny", overrides=["name=../x"])


def test_misspelled_key_of_a_study_is_found_among_all_keys(here: Path) -> None:
    with pytest.raises(ConfigError, match=r"n_trails: .*did you mean 'n_trials'\?.*got 3"):
        load_study("hunt", overrides=["n_trails=3"])


@pytest.mark.parametrize("metric", ["loss", "cross_entropy", "sparsity"])
def test_smaller_monitor_is_better_where_the_metric_says_so(here: Path, metric: str) -> None:
    loaded = load_study("hunt", overrides=[f"monitor=val/{metric}"])
    assert loaded.study.monitor_direction == loaded.experiment.monitor_direction == "minimize"
    with pytest.raises(ConfigError, match=f"monitor val/{metric} is better when smaller; write monitor_direction: min"):
        load_experiment("tiny", overrides=[f"monitor=val/{metric}"])
    written = load_experiment("tiny", overrides=[f"monitor=val/{metric}", "monitor_direction=minimize"])
    assert written.monitor_direction == "minimize"


def test_files_are_found() -> None:
    assert len(CONFIGS) >= 3
    assert len(STUDIES) >= 3
    assert {"demo", "photos"} <= set(PROFILES)
    others = [path for kind in ("configs", "studies") for path in (ROOT / kind).rglob("*") if path.is_file()]
    assert {path.suffix for path in others} <= {".yaml", ".md"}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_validates_and_bears_its_file_name(path: Path, profile: str | None) -> None:
    assert load_experiment(str(path), profile=profile, overrides=OVERRIDES.get(profile or "", [])).name == path.stem


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_validates_at_every_limit_of_its_space(path: Path, profile: str | None) -> None:
    loaded = load_study(str(path), profile=profile, overrides=OVERRIDES.get(profile or "", []))
    assert loaded.study.name == path.stem
    assert loaded.study.space
    assert len(extreme_experiments(loaded)) > len(loaded.study.space)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name])
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_profile_never_mixes_with_a_real_study(path: Path, profile: str) -> None:
    overrides = OVERRIDES.get(profile, [])
    profiled = load_study(str(path), profile=profile, overrides=overrides).experiment
    name = {"demo": "demo", "photos": "images"}[profile]  # the folder of the photographs
    assert profiled.experiment == (name if profiled.task.name == "classification" else f"{profile}_reid")
    assert not load_study(str(path)).experiment.experiment.startswith(profile)


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_demo_starts_with_the_default_point(path: Path) -> None:
    loaded = load_study(str(path), profile="demo")
    (point,) = loaded.study.enqueue
    assert "train.optimizer.lr" in point
    assert with_settings(loaded.experiment, dict(point)) == loaded.experiment


def test_space_of_the_low_resolution_model_is_that_of_its_authors() -> None:
    """As in the released `trainVal.py`, in its order, without the branches that its script never takes."""
    space = load_study("br_npa_low_res").study.space
    assert list(space) == [
        "train.optimizer.lr",
        "train.optimizer.name",
        "train.batch_size",
        "model.dropout",
        "train.optimizer.weight_decay",
        "train.optimizer.momentum",
        "train.schedule.name",
    ]
    assert space["train.optimizer.lr"].limits() == (1e-4, 1e-2)
    assert space["train.batch_size"].limits() == (12, 130)
    assert space["train.optimizer.momentum"].when == {"train.optimizer.name": ("sgd",)}


@pytest.mark.parametrize("model", ["br_npa", "of_a_plugin"])
def test_what_a_stored_study_starts_from_is_read_without_its_plugins(tmp_path: Path, model: str) -> None:
    overrides = ["model.weights=best.safetensors", "train.teacher.checkpoint=teacher.safetensors"]
    text = resolved_study(load_study("br_npa_low_res", profile="demo", overrides=overrides))
    assert text.count("name: br_npa\n") == 1
    path = tmp_path / "study.yaml"
    path.write_text(
        text.replace("name: br_npa\n", f"name: {model}\n").replace("base:\n", "base:\n  plugins: [absent.py]\n")
    )
    assert [Path(name).name for name in starts_from(path)] == ["best.safetensors", "teacher.safetensors"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["train.batch_size=16", "runtime.devices_per_trial=3"],
            "devices_per_trial 3 x train.accumulation 1 must divide",
        ),
        (
            ["runtime.devices_per_trial=2", "runtime.trials_per_device=2"],
            "trials_per_device must be 1 where devices_per_trial is 2, got 2",
        ),
    ],
)
def test_devices_of_a_trial_have_whole_parts_and_no_other_trial(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_experiment("br_npa_low_res", profile="demo", overrides=overrides)


def test_the_number_of_devices_is_no_part_of_the_digest() -> None:
    one, two = (
        load_experiment("br_npa_low_res", profile="demo", overrides=[f"runtime.devices_per_trial={n}"]) for n in (1, 2)
    )
    assert one.digest() == two.digest()
