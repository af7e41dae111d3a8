"""A checkpoint as INTR's authors write it, and the config that it fits."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_experiment
from attnsearch.models import build_model
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


def write_config() -> ExperimentConfig:
    """Writes `foreign.yaml` and the names of its classes, `classes.txt`, into the working folder."""
    Path("foreign.yaml").write_text(CONFIG)
    Path("classes.txt").write_text("a\nb\nc\n\nd\ne\n")
    return load_experiment("foreign.yaml")


def write_checkpoint(config: ExperimentConfig) -> dict[str, torch.Tensor]:
    """Writes `checkpoint.pth` into the working folder; returns the tensors that lie in it."""
    torch.manual_seed(1)
    state = to_official(build_model(config.model, LinearHeads(5)).state_dict())
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-4)}, "checkpoint.pth")
    return state
