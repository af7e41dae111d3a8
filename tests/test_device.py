"""Device, arithmetic and seeds."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from attnsearch import device
from attnsearch.errors import ConfigError


def test_import_does_not_import_torch() -> None:
    code = "import sys, attnsearch.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_takes_the_processor_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto") == torch.device("cpu")


def test_auto_takes_the_first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.pick_device("auto") == torch.device("cuda", 0)
    assert device.pick_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("setting", ["cuda", "cuda:3"])
def test_an_absent_gpu_is_refused(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=f"'{setting}', but torch sees 0"):
        device.pick_device(setting)


@pytest.mark.parametrize(
    ("flags", "precision"),
    [({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
)
def test_auto_precision_follows_the_processor(
    flags: dict[str, bool], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert device.pick_precision("auto", torch.device("cpu")) == precision


@pytest.mark.parametrize("setting", ["bf16", "fp32"])
def test_a_named_precision_is_taken_at_its_word(setting: str) -> None:
    assert device.pick_precision(setting, torch.device("cpu")) == setting


def test_autocast_computes_in_bf16_and_leaves_weights_in_fp32() -> None:
    layer = torch.nn.Linear(4, 2)
    with device.Arithmetic(torch.device("cpu"), "bf16").autocast():
        assert layer(torch.ones(3, 4)).dtype == torch.bfloat16
    with device.Arithmetic(torch.device("cpu"), "fp32").autocast():
        assert layer(torch.ones(3, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_evaluation_batches_are_some_times_a_training_part_up_to_a_limit() -> None:
    assert [device.evaluation_batch_size(n_images) for n_images in (1, 8, 100)] == [4, 32, 64]


def test_seeds_depend_on_every_part() -> None:
    def draw(*parts: int | str) -> float:
        device.seed_torch(*parts)
        return float(torch.rand(()))

    draws = [draw(1, 2, "train"), draw(1, 3, "train"), draw(2, 2, "train"), draw(12, "train")]
    assert draw(1, 2, "train") == draws[0]
    assert len(set(draws)) == 4


def test_threads_are_left_alone_without_a_number() -> None:
    n_threads = torch.get_num_threads()
    assert device.set_threads(None) == n_threads
    assert device.set_threads(1) == 1
    device.set_threads(n_threads)
    assert device.describe_device(torch.device("cpu")).endswith(f"{n_threads} threads)")
