"""YAML that is odd, hostile or damaged is read by the rules or refused with file, line and key."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from attnsearch.config.load import load_experiment, load_study
from attnsearch.config.study import MAX_TRIALS, MAX_WORKERS
from attnsearch.config.yaml_nodes import MAX_BYTES, MAX_DEPTH, MAX_NODES
from attnsearch.config.yaml_reader import read_overrides, read_yaml
from attnsearch.errors import ConfigError
from tests.config.mutations import cases, is_accepted, put

SOUND = """\
name: tiny
data: {name: synthetic}
model: {name: cnn}
"""
STUDY = """\
name: hunt
base: tiny
space:
  train.optimizer.name: {kind: choice, choices: [adam, sgd]}
"""


def problems(text: str | bytes, overrides: list[str] | None = None) -> list[str]:
    """The lines about `bad.yaml`, which is a sound config with `text` below."""
    path = Path("bad.yaml")
    path.write_bytes(text if isinstance(text, bytes) else (SOUND + text).encode())
    with pytest.raises(ConfigError) as caught:
        load_experiment(str(path), overrides=overrides or [])
    return str(caught.value).splitlines()


def study_problems(text: str, overrides: list[str] | None = None, profile: str | None = None) -> list[str]:
    Path("hunt.yaml").write_text(STUDY + text)
    with pytest.raises(ConfigError) as caught:
        load_study("hunt.yaml", overrides=overrides or [], profile=profile)
    return str(caught.value).splitlines()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.yaml").write_text(SOUND)
    monkeypatch.chdir(tmp_path)


def test_merged_keys_keep_the_lines_that_they_are_written_in() -> None:
    text = "train:\n  optimizer: &shared\n    lr: 0.5\n    momentum: 2\n  schedule: {name: step}\n"
    Path("good.yaml").write_text(SOUND + text.replace("momentum: 2", "weight_decay: 0.1"))
    assert load_experiment("good.yaml").train.optimizer.lr == 0.5
    merged = read_yaml(_written("a: &a\n  x: 1\n  y: 2\nb:\n  <<: *a\n  y: 3\nc: {<<: [{y: 5, z: 6}, *a]}\n"))
    assert merged.values == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"y": 5, "z": 6, "x": 1}}
    assert (merged.origin(("b", "x")), merged.origin(("b", "y"))) == ("some.yaml:2", "some.yaml:6")
    (line,) = problems("train:\n  optimizer: &o\n    lr: -1.0\nevaluation:\n  scores: {<<: {n_steps: 1}}\n")[:1]
    assert line.startswith("bad.yaml:6: train.optimizer.lr: ")


def _written(text: str) -> Path:
    Path("some.yaml").write_text(text)
    return Path("some.yaml")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("2001-99-99", "is a date, which no setting takes; quote it if it is text, got '2001-99-99'"),
        ("2001-12-31", "is a date"),
        ("!!int abc", "must be a whole number, got 'abc'"),
        ("-_", "must be a whole number, got '-_'"),
        ("9" * 5000, "must fit in 64 bits, got '99"),
        ("0x" + "f" * 5000, "must fit in 64 bits"),
        (str(2**63), "must fit in 64 bits"),
        ("1e999", "must be a finite number, got '1e999'"),
        (".nan", "must be a finite number"),
        ("!!omap [a: 1]", "has the tag !!omap, which is not read; remove it"),
        ("!!set {a, b}", "has the tag !!set"),
        ("!!python/object:os.system x", "has the tag !!python/object:os.system"),
        ('"\\0"', "holds a character that cannot be printed"),
        ('"\\ud800"', "holds a character that cannot be printed"),
        ('"\\UFFFFFFFF"', "is not valid YAML"),
        ("{<<: 3}", "must name a block or a list of blocks"),
        ("&a [*a]", "the alias *a is inside of what it names"),
        ("*a", "the alias *a has no anchor above it"),
        ("{[1]: 2}", "has a list or a block as a key"),
        ("[" * 3000, f"is nested over {MAX_DEPTH} levels"),
        ("[" * 3000 + "]" * 3000, f"is nested over {MAX_DEPTH} levels"),
        ("{a: " * 101 + "1" + "}" * 101, f"is nested over {MAX_DEPTH} levels"),
        ("{" + "a." * 60 + "a: {" + "a." * 60 + "a: 1}}", f"is nested over {MAX_DEPTH} levels"),
        ("[" + "1, " * MAX_NODES + "1]", f"is beyond the {MAX_NODES} keys and values"),
    ],
    ids=lambda value: value[:16],
)
def test_odd_value_is_refused_in_a_file_and_on_the_command_line(value: str, said: str) -> None:
    (line, *_) = problems(f"experiment: x\nseed: {value}\n")
    assert line.startswith("bad.yaml:5: ")
    assert said in line
    assert "seed" in line or "not valid YAML" in line
    (line, *_) = read_overrides([f"seed={value}"]).problems
    assert line.startswith("command line: seed")
    assert said in line


def test_aliases_that_multiply_are_refused_before_they_are_followed() -> None:
    text = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    names = "abcdefgh"
    text += "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in pairwise(names))
    (line,) = problems(text)
    assert line.startswith("bad.yaml:7: d.")
    assert f"is beyond the {MAX_NODES} keys and values" in line


def test_blocks_over_a_hundred_levels_are_refused() -> None:
    (line,) = problems("".join(" " * level + "a:\n" for level in range(400)))
    assert line.startswith(f"bad.yaml:{3 + MAX_DEPTH + 1}: a.a.")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name: x\n# \xe9\n", "bad.yaml:2: is not UTF-8 text, got the byte 0xe9; save it as UTF-8"),
        (SOUND.encode("utf-16"), "bad.yaml:1: is not UTF-8 text"),
        (b"name: x\nseed: \0\n", r"bad.yaml:2: holds the character '\x00'; remove it"),
        (b"%YAML 1.1\n---\nname: x\n", "bad.yaml:2: is read as YAML 1.2; remove the line %YAML"),
        (b"name: x\n---\nname: y\n", "bad.yaml:2: holds a second document; remove the line ---"),
        (b"#" * (MAX_BYTES + 1), f"bad.yaml: must have at most {MAX_BYTES // 1024} KiB"),
    ],
)
def test_text_that_is_no_settings_file_is_refused(content: bytes, said: str) -> None:
    (line,) = problems(content)
    assert line.startswith(said)


def test_byte_order_mark_and_line_ends_of_windows_are_read() -> None:
    Path("good.yaml").write_bytes(SOUND.replace("\n", "\r\n").encode("utf-8-sig"))
    assert load_experiment("good.yaml").name == "tiny"


@pytest.mark.parametrize(
    "name", ["configs", "configs/", "./", "a\0.yaml", "a" * 5000, "a" * 5000 + ".yaml", "/dev/zero"]
)
def test_name_of_no_file_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file|unknown name"):
        load_experiment(name)


@pytest.mark.parametrize("text", ["", "=", "=1", ".=1", "a..b=1", "a.=1", ".a=1", "a b=1", "\udcff=1", "train"])
def test_override_without_a_dotted_key_is_refused(text: str) -> None:
    (line,) = read_overrides([text]).problems
    assert line.startswith("command line: overrides are written key=value, with dots")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "train.epochs: 3\ntrain: {epochs: 4}\n",
            "bad.yaml:5: train.epochs: is given twice, also at bad.yaml:4; keep one",
        ),
        ("train: 3\ntrain.epochs: 3\n", "bad.yaml:5: train.epochs: is given twice, also at bad.yaml:4; keep one"),
        ("name: x\n", "bad.yaml:4: name: is a duplicate key, first written in line 1; keep one"),
    ],
)
def test_key_that_is_given_twice_is_refused(text: str, line: str) -> None:
    assert line in problems(text)


@pytest.mark.parametrize("second", ["train={epochs: 2}", "train=3"])
def test_setting_that_two_overrides_spell_differently_is_refused(second: str) -> None:
    (line,) = read_overrides(["train.epochs=1", second]).problems
    assert line.endswith(": is given twice, also by another override; keep one")


def test_last_override_of_a_key_counts() -> None:
    read = read_overrides(["train.epochs=1", "seed=3", "train.epochs=2"])
    assert (read.values, read.problems) == ({"train.epochs": 2, "seed": 3}, ())


def test_keys_of_a_config_may_be_dotted() -> None:
    Path("dotted.yaml").write_text(SOUND + "train.epochs: 7\ntrain: {batch_size: 4}\n")
    assert load_experiment("dotted.yaml").train.epochs == 7


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("profiles: text\n", ["hunt.yaml:5: profiles: must hold `key: value` lines, got 'text'"]),
        ("profiles: {demo: 3}\n", ["hunt.yaml:5: profiles.demo: must hold `key: value` lines, got 3"]),
        ("  seed: {kind: int, low: 1, high: 2, when: {train.optimizer.name: []}}\n",
         ["hunt.yaml:5: space.seed.when.train.optimizer.name: must have at least 1 items, got []"]),
        ("  train.epoch: {kind: int, low: 1, high: 2}\n",
         ["hunt.yaml:5: space.train.epoch: is not a key of an experiment (did you mean 'train.epochs'?), "
          "got {'kind': 'int', 'low': 1, 'high': 2}"]),
        (f"n_trials: {MAX_TRIALS + 1}\nn_workers: {MAX_WORKERS + 1}\n",
         [f"hunt.yaml:5: n_trials: must be less than or equal to {MAX_TRIALS}, got {MAX_TRIALS + 1}",
          f"hunt.yaml:6: n_workers: must be less than or equal to {MAX_WORKERS}, got {MAX_WORKERS + 1}"]),
        ("enqueue:\n  - {seed: 3}\n",
         ["hunt.yaml:6: enqueue.0.seed: names 'seed', which is no hyperparameter; known: ['train.optimizer.name']"]),
        ("overrides:\n  train.epochs: 3\n  train: {epochs: 4}\n",
         ["hunt.yaml:7: overrides.train.epochs: is given twice, also at hunt.yaml:6; keep one"]),
    ],
)  # fmt: skip
def test_problem_of_a_study_has_its_line(text: str, lines: list[str]) -> None:
    assert study_problems(text) == lines


@pytest.mark.parametrize(
    "override",
    [
        "space.seed={kind: float, low: -1e308, high: 1e308}",
        "space.seed={kind: float, low: 0, high: 1e300, step: 1e-300}",
        "space.seed={kind: int, low: -9223372036854775807, high: 9223372036854775807}",
    ],
)
def test_range_that_no_sampler_can_draw_from_is_refused(override: str) -> None:
    (line,) = study_problems("", [override])
    assert line.startswith("command line: space.seed: ")


def test_all_problems_of_a_command_are_reported_at_once() -> None:
    lines = study_problems("", ["train.epoch=3", "n_trial=4", "model.backbon=x"])
    assert len(lines) == 3
    for key, near in {"train.epoch": "epochs", "n_trial": "n_trials", "model.backbon": "backbone"}.items():
        assert any(line.startswith(f"command line: {key}: ") and f"did you mean '{near}'?" in line for line in lines)


def test_problems_of_all_files_are_reported_with_those_of_the_overrides_each_once() -> None:
    Path("configs/tiny.yaml").write_text(SOUND + "train:\n  epochs: none\n")
    Path("configs/profiles").mkdir()
    Path("configs/profiles/low.yaml").write_text("n_trials: 0\noverrides:\n  seed: 2001-99-99\n  train.clip_norm: -1\n")
    lines = study_problems("monitor: x\nsampler: {name: tp}\n", ["a..b=1", "model.name=cn"], "low")
    assert [line.split(" ")[0:2] for line in sorted(lines)] == [
        ["command", "line:"],
        ["command", "line:"],
        ["configs/profiles/low.yaml:1:", "n_trials:"],
        ["configs/profiles/low.yaml:3:", "overrides.seed:"],
        ["configs/profiles/low.yaml:4:", "train.clip_norm:"],
        ["configs/tiny.yaml:5:", "train.epochs:"],
        ["hunt.yaml:5:", "monitor:"],
        ["hunt.yaml:6:", "sampler.name:"],
    ]


def test_file_that_cannot_be_read_hides_no_other_problem() -> None:
    lines = study_problems("base: tiny\n", ["n_trial=4", "model.backbon=x"], "unknown")
    assert any("unknown name 'unknown'" in line for line in lines)
    assert any(line.startswith("hunt.yaml:5: base: is a duplicate key") for line in lines)
    assert any(line.startswith("command line: model.backbon: ") for line in lines)
    assert not any("required" in line for line in lines)


def test_unknown_base_has_the_line_that_names_it() -> None:
    lines = study_problems("", ["base=tinny"])
    assert [line.startswith("command line: base: unknown name 'tinny' (did you mean 'tiny'?)") for line in lines] == [
        True
    ]


@pytest.mark.slow
def test_damaged_files_and_overrides_are_taken_or_refused() -> None:
    found = set()
    for case in cases(seed=2, n_cases=150):
        put(case, Path())
        found.add(is_accepted(case))
    assert found == {True, False}
