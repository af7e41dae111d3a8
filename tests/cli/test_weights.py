"""`weights import` and `weights export`, in this process, on checkpoints made here."""

from __future__ import annotations

import pytest
import torch

from attnsearch.cli import main
from attnsearch.models.checkpoint import read_model_checkpoint


def test_a_published_checkpoint_comes_and_goes_back_unchanged(foreign_state: dict[str, torch.Tensor]) -> None:
    assert main(["weights", "import", "intr", "checkpoint.pth", "foreign.yaml", "--classes", "classes.txt"]) == 0
    kept = read_model_checkpoint("checkpoint.pth.safetensors")
    assert (kept.class_names, kept.val_hash) == (("a", "b", "c", "d", "e"), "")
    assert main(["weights", "export", "intr", "checkpoint.pth.safetensors", "back.pth"]) == 0
    back = torch.load("back.pth", weights_only=True)["model"]
    assert back.keys() == foreign_state.keys()
    assert all(torch.equal(back[name], foreign_state[name]) for name in foreign_state)


def test_a_missing_checkpoint_is_told_before_missing_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "import", "br_npa", "nope.pt", "br_npa_low_res"]) == 2
    assert capsys.readouterr().err.startswith("error: nope.pt: no such file")
