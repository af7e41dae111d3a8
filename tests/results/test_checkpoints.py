"""Foreign checkpoints become ours, and ours are opened on their data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.errors import ConfigError
from attnsearch.results.checkpoints import find_checkpoint, find_trial, import_file, open_evaluation
from attnsearch.store.evaluation_log import read_test_evaluations


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("a\nb\n", "checkpoint.pth has 5 classes, and 2 are named; give the classes it was trained on"),
        ("a\na\nb\n", "must hold at least two names, one a line, none twice; got 3"),
    ],
)
def test_a_wrong_list_of_classes_writes_nothing(
    foreign_config: ExperimentConfig, foreign_state: dict[str, torch.Tensor], names: str, said: str
) -> None:
    Path("classes.txt").write_text(names)
    with pytest.raises(ConfigError, match=said):
        import_file(
            "intr", Path("checkpoint.pth"), foreign_config, classes=Path("classes.txt"), held_out=False, to=Path("x")
        )
    assert not Path("x").exists()


def test_nothing_is_written_over(foreign_config: ExperimentConfig, foreign_state: dict[str, torch.Tensor]) -> None:
    Path("mine.safetensors").write_text("precious")
    to = Path("mine.safetensors")
    with pytest.raises(ConfigError, match=r"mine\.safetensors exists already"):
        import_file("intr", Path("checkpoint.pth"), foreign_config, classes=Path("classes.txt"), held_out=False, to=to)
    assert to.read_text() == "precious"


def test_a_test_evaluation_of_a_trial_is_logged(finished_run: Path) -> None:
    trial = find_trial("br_npa_low_res", None, finished_run)
    before = len(read_test_evaluations(trial.study.layout))
    for source, n_new in ((trial, 1), (trial.checkpoint, 1)):  # a file belongs to no study
        with open_evaluation(source, "test", ()) as evaluation:
            assert 0.0 <= evaluation.run("test")["test/accuracy"] <= 1.0
        assert len(read_test_evaluations(trial.study.layout)) == before + n_new
    assert find_checkpoint("br_npa_low_res", 0, finished_run) == trial.checkpoint
