"""`weights import` and `weights export`, in this process, on checkpoints made here."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from attnsearch.cli import main
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment
from attnsearch.models import build_model
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.models.intr import to_official
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


def test_a_published_checkpoint_comes_and_goes_back_unchanged(state: dict[str, torch.Tensor]) -> None:
    assert main(["weights", "import", "intr", "checkpoint.pth", "foreign.yaml", "--classes", "classes.txt"]) == 0
    kept = read_model_checkpoint("checkpoint.pth.safetensors")
    assert (kept.class_names, kept.val_hash) == (("a", "b", "c", "d", "e"), "")
    assert main(["weights", "export", "intr", "checkpoint.pth.safetensors", "back.pth"]) == 0
    back = torch.load("back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_a_missing_checkpoint_is_told_before_missing_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "import", "br_npa", "nope.pt", "br_npa_low_res"]) == 2
    assert capsys.readouterr().err.startswith("error: nope.pt: no such file")
