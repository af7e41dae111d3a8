"""Foreign checkpoints become ours, and ours are opened on their data."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment
from attnsearch.errors import ConfigError
from attnsearch.models import build_model
from attnsearch.models.intr import to_official
from attnsearch.results.checkpoints import find_checkpoint, find_trial, import_file, open_evaluation
from attnsearch.store.study_files import read_test_evaluations
from attnsearch.tasks.classification import LinearHeads

CONFIG = """\
name: foreign
data: {name: synthetic, n_classes: 5}
model:
  name: intr
  backbone: resnet18
  n_encoder_layers: 1
  n_decoder_layers: 1
  d_model: 16
  n_heads: 2
  feedforward_width: 32
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExperimentConfig:
    monkeypatch.chdir(tmp_path)
    Path("foreign.yaml").write_text(CONFIG)
    Path("classes.txt").write_text("a\nb\nc\n\nd\ne\n")
    return load_experiment("foreign.yaml")


@pytest.fixture
def state(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """What lies in `checkpoint.pth`, written as INTR's authors do."""
    torch.manual_seed(1)
    state = to_official(build_model(config.model, LinearHeads(5)).state_dict())
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4)}, "checkpoint.pth")
    return state


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a\nb\n", "checkpoint.pth has 5 classes, and 2 are named; give the classes it was trained on"),
        ("a\na\nb\n", "must hold at least two names, one a line, none twice; got 3"),
    ],
)
def test_a_wrong_list_of_classes_writes_nothing(
    config: ExperimentConfig, state: dict[str, torch.Tensor], names: str, said: str
) -> None:
    Path("classes.txt").write_text(names)
    with pytest.raises(ConfigError, match=said):
        import_file("intr", Path("checkpoint.pth"), config, classes=Path("classes.txt"), held_out=False, to=Path("x"))
    assert not Path("x").exists()


def test_nothing_is_written_over(config: ExperimentConfig, state: dict[str, torch.Tensor]) -> None:
    Path("mine.safetensors").write_text("precious")
    to = Path("mine.safetensors")
    with pytest.raises(ConfigError, match=r"mine\.safetensors exists already"):
        import_file("intr", Path("checkpoint.pth"), config, classes=Path("classes.txt"), held_out=False, to=to)
    assert to.read_text() == "precious"


def test_a_test_evaluation_of_a_trial_is_logged(finished_run: Path) -> None:
    trial = find_trial("br_npa_low_res", None, finished_run)
    before = len(read_test_evaluations(trial.study.layout))
    for source, n_new in ((trial, 1), (trial.checkpoint, 1)):  # a file belongs to no study
        with open_evaluation(source, "test", ()) as evaluation:
            assert 0.0 <= evaluation.run("test")["test/accuracy"] <= 1.0
        assert len(read_test_evaluations(trial.study.layout)) == before + n_new
    assert find_checkpoint("br_npa_low_res", 0, finished_run) == trial.checkpoint
