"""Training on several ranks over gloo, held to accumulation on one: equal weights, shared failures, resumes.

The ranks of each number are started once, and train all of their cases one after the other.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.errors import RankLost
from attnsearch.store.epochs import read_csv
from attnsearch.store.film import read_film_frame, read_film_images
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.parallel import ALONE
from tests.tiny import reid_config
from tests.training.ranks import outcome, run_case, run_ranks

RESNET = {"backbone": "resnet10t", "width": 0.25}
FAMILIES: dict[str, dict[str, Any]] = {
    "br_npa": {"name": "br_npa", **RESNET, "dropout": 0.3, "random_vectors": True},
    "loupe": {"name": "loupe", **RESNET},
    "intr": {"name": "intr", **RESNET, "n_encoder_layers": 1, "n_decoder_layers": 1, "d_model": 16, "n_heads": 2},
    "dcal": {"name": "dcal", "width": 0.34, "depth": 2, "weights": "none", "drop_path": 0.3},
}
"""`intr` has a dropout of 0.1, `dcal` pairs the images of each part at random."""
BATCH = {2: 10, 3: 15, 4: 20}
"""Parts of five images; the 57 images leave a last batch of 7, of 12 or of 17, which the parts divide unevenly."""
WEIGHTS_ATOL = {"sgd": 2e-5, "adamw": 6e-6}
"""Ten times what a prototype differed by with four parts in two epochs; two parts add up in one order only."""
SCALES = {"shorter_px": [48, 64, 80], "longest_px": 96, "crop_from_px": [56, 72], "crop_px": [40, 64]}


def config_of(model: Mapping[str, Any], *, n_parts: int, accumulation: int = 1, **changes: Any) -> dict[str, Any]:
    """A run of two epochs on three classes of birds."""
    counts = {"n_classes": 3, "n_train_per_class": 19, "n_val_per_class": 15, "n_test_per_class": 2}
    config: dict[str, Any] = {
        "name": "parallel",
        "data": {"name": "synthetic", "image_size_px": 64, **counts},
        "model": dict(model),
        "train": {
            **{"epochs": 2, "batch_size": BATCH[n_parts], "accumulation": accumulation, "precision": "fp32"},
            **{"clip_norm": 1.0, "optimizer": {"name": "sgd", "lr": 0.01}},
        },
        "runtime": {"device": "cpu", "n_threads": 1},
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value}
    return config


def reid_of(**changes: Any) -> dict[str, Any]:
    """Batches of four identities x two images, of which a part has two identities."""
    task = {"images_per_identity": 2, "centre_weight": 0.01}
    return reid_config(task=task, **{"train": {"epochs": 2}, **changes}).model_dump(mode="json")


def many_scales(**train: Any) -> dict[str, Any]:
    data = {"image_size_px": 96, "crop_ratio": 1.0, "resize": "pad", "multi_scale": SCALES}
    return config_of(FAMILIES["intr"], n_parts=2, data=data, train={"epochs": 1, **train})


def failing_of(**train: Any) -> dict[str, Any]:
    return config_of(FAMILIES["br_npa"], n_parts=2, train={"batch_size": 12, **train})


def shared_norms(**train: Any) -> dict[str, Any]:
    """Nothing is drawn in training, so that the parts of a batch do not matter but for batch norm."""
    return config_of({"name": "br_npa", **RESNET}, n_parts=2, train={"shared_batch_norm": True, **train})


CASES_OF_TWO: dict[str, dict[str, Any]] = {
    "reid": {"config": reid_of()},
    "reid_uneven": {"config": reid_of(train={"epochs": 2, "accumulation": 2, "batch_size": 12})},
    "many_scales": {"config": many_scales()},
    "one_validation_batch": {"config": config_of(FAMILIES["loupe"], n_parts=2, data={"n_val_per_class": 2})},
    "shared_norms": {"config": shared_norms()},
    "shared_norms_halved": {"config": shared_norms(batch_size=12, halve_on_oom=True), "harm": "memory:1:3"},
    "halved": {"config": failing_of(halve_on_oom=True), "harm": "memory:1:3"},
    "too_large": {"config": failing_of(), "harm": "memory:1:3"},
    "no_number": {"config": failing_of(), "harm": "loss:1:2"},
    "bug": {"config": failing_of(), "harm": "bug:1:2"},
    "taken_over": {"config": failing_of(), "harm": "lease:0:2"},
    "pruned": {"config": failing_of(), "prune_after": 1},
    "stopped": {"config": failing_of(), "harm": "stop:0:7"},
    "copied": {"config": failing_of(), "harm": "stop:0:7"},
    "continued": {"config": failing_of(), "directory": "stopped", "attempt": 2},
    "uninterrupted": {"config": failing_of()},
    "killed": {"config": failing_of(), "harm": "kill:1:7"},
}
"""The last one ends the ranks."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tmp_path_factory.mktemp("parallel")


@pytest.fixture(scope="module")
def ranks_of(folder: Path) -> Callable[[int], Path]:
    """The folder with what so many ranks have left; they are started at the first call."""

    def run(n_ranks: int) -> Path:
        place = folder / str(n_ranks)
        if not place.exists():
            cases = {name: {"config": config_of(model, n_parts=n_ranks)} for name, model in FAMILIES.items()}
            adaptive = config_of(
                FAMILIES["br_npa"], n_parts=n_ranks, train={"optimizer": {"name": "adamw", "lr": 1e-4}}
            )
            cases["adamw"] = {"config": adaptive}
            codes = run_ranks(place, n_ranks, {**cases, **(CASES_OF_TWO if n_ranks == 2 else {})})
            assert codes == ([0, -9] if n_ranks == 2 else [0] * n_ranks), (place / "stderr.0").read_text()
        return place

    return run


@pytest.fixture(scope="module")
def alone(folder: Path) -> Callable[..., dict[str, Any]]:
    """What one process makes of a case, which is trained once."""
    known: dict[str, dict[str, Any]] = {}

    def run(name: str, config: dict[str, Any], **case: Any) -> dict[str, Any]:
        if name not in known:
            torch.set_num_threads(1)
            known[name] = run_case(folder / "alone", name, {"config": config, **case}, ALONE)
        return known[name]

    return run


def measured(case: dict[str, Any]) -> dict[str, float]:
    """The metrics of the best epoch, without the number of parts where another one was asked for."""
    return {key: value for key, value in case["metrics"].items() if key != "train/accumulation"}


def is_statistic(name: str) -> bool:
    return "running_" in name


def largest_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Between the states of two models, running statistics apart."""
    assert found.keys() == expected.keys()
    gaps = [found[name].double() - expected[name].double() for name in expected if not is_statistic(name)]
    return max(float(gap.abs().max()) for gap in gaps)


def assert_same_statistics(found: dict[str, Tensor], expected: dict[str, Tensor], rtol: float) -> None:
    for name in filter(is_statistic, expected):
        torch.testing.assert_close(found[name], expected[name], rtol=rtol, atol=rtol)


def accumulated(name: str, n_parts: int) -> dict[str, Any]:
    """The same run on one device with as many parts."""
    optimizer = {"optimizer": {"name": "adamw", "lr": 1e-4}} if name == "adamw" else {}
    model = FAMILIES["br_npa" if name == "adamw" else name]
    return config_of(model, n_parts=n_parts, accumulation=n_parts, train=optimizer)


def film_of(place: Path, name: str) -> NDArray[np.float32]:
    """(2, 8, h, w) the frames of a case of two epochs."""
    layout = TrialLayout(place / "cases" / name)
    assert layout.film_epochs() == [1, 2]
    return np.stack([read_film_frame(layout, epoch, len(read_film_images(layout))) for epoch in (1, 2)])


@pytest.mark.slow
def test_the_film_has_the_images_of_all_ranks(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]], folder: Path
) -> None:
    alone("br_npa_2", accumulated("br_npa", 2))
    alone("reid", reid_of(train={"epochs": 2, "accumulation": 2}))
    for name, single in (("br_npa", "br_npa_2"), ("reid", "reid")):
        found, expected = film_of(ranks_of(2), name), film_of(folder / "alone", single)
        assert (found.max(axis=(2, 3)) > 0).all()  # no image is missing
        np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.02 * expected.max())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, "adamw"])
def test_two_ranks_equal_two_parts_on_one_device_bit_for_bit(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]], name: str
) -> None:
    one, two = alone(f"{name}_2", accumulated(name, 2)), outcome(ranks_of(2), name)
    other = outcome(ranks_of(2), name, rank=1)
    assert len(one["models"]) == 2
    for expected, first, second in zip(one["models"], two["models"], other["models"], strict=True):
        assert largest_gap(first, expected) == 0.0
        assert_same_statistics(first, expected, rtol=1e-6)
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert measured(two) == pytest.approx(measured(one), rel=1e-5)
    assert two["metrics"]["val/accuracy"] == one["metrics"]["val/accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [3, 4])
@pytest.mark.parametrize("name", [*FAMILIES, "adamw"])
def test_more_ranks_differ_by_the_order_of_sums(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]], name: str, n_ranks: int
) -> None:
    one, several = alone(f"{name}_{n_ranks}", accumulated(name, n_ranks)), outcome(ranks_of(n_ranks), name)
    first = several["models"][-1]
    for rank in range(1, n_ranks):
        other = outcome(ranks_of(n_ranks), name, rank)["models"][-1]
        assert all(torch.equal(first[key], other[key]) for key in first)
    limit = WEIGHTS_ATOL["adamw" if name == "adamw" else "sgd"]
    for found, expected in zip(several["models"], one["models"], strict=True):
        assert largest_gap(found, expected) <= limit
        assert_same_statistics(found, expected, rtol=limit)
    assert measured(several) == pytest.approx(measured(one), rel=1e-3)


@pytest.mark.slow
def test_identities_stay_whole_and_all_galleries_are_ranked(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]]
) -> None:
    one, two = alone("reid", reid_of(train={"epochs": 2, "accumulation": 2})), outcome(ranks_of(2), "reid")
    # the centres of one rank's identities move by a difference, which rounds once more
    assert largest_gap(two["models"][0], one["models"][0]) <= 1e-7
    assert largest_gap(two["models"][1], one["models"][1]) <= 2e-6
    for key in ("val/mAP", "val/rank1", "val/mINP"):
        assert two["metrics"][key] == pytest.approx(one["metrics"][key], abs=1e-6)


@pytest.mark.slow
def test_images_are_padded_to_the_largest_of_the_whole_batch(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]]
) -> None:
    one, two = alone("many_scales", many_scales(accumulation=2)), outcome(ranks_of(2), "many_scales")
    assert largest_gap(two["models"][0], one["models"][0]) == 0.0


@pytest.mark.slow
def test_a_rank_may_have_nothing_to_validate(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]]
) -> None:
    config = config_of(FAMILIES["loupe"], n_parts=2, accumulation=2, data={"n_val_per_class": 2})
    one, two = alone("one_validation_batch", config), outcome(ranks_of(2), "one_validation_batch")
    assert measured(two) == pytest.approx(measured(one), rel=1e-5)


@pytest.mark.slow
def test_memory_that_runs_out_on_one_rank_halves_the_parts_on_all(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]]
) -> None:
    one, two = alone("halved", failing_of(accumulation=4)), outcome(ranks_of(2), "halved")
    assert two["state"] == "complete"
    assert two["metrics"]["train/accumulation"] == 4
    assert largest_gap(two["models"][-1], one["models"][-1]) <= WEIGHTS_ATOL["sgd"]


@pytest.mark.slow
def test_shared_batch_norms_see_the_whole_batch(
    ranks_of: Callable[[int], Path], alone: Callable[..., dict[str, Any]]
) -> None:
    one, two = alone("shared_norms", shared_norms()), outcome(ranks_of(2), "shared_norms")
    for found, expected in zip(two["models"], one["models"], strict=True):
        assert largest_gap(found, expected) <= WEIGHTS_ATOL["sgd"]
        assert_same_statistics(found, expected, rtol=1e-5)
    assert measured(two) == pytest.approx(measured(one), rel=1e-3)


@pytest.mark.slow
def test_a_rank_that_fails_between_shared_batch_norms_fails_all(ranks_of: Callable[[int], Path]) -> None:
    two = outcome(ranks_of(2), "shared_norms_halved")
    assert two["state"] == "complete"
    assert two["metrics"]["train/accumulation"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("too_large", "OutOfMemory", "6 images of 64 x 64 px"),
        ("no_number", "NonFiniteLoss", "on device 2 of 2: no number"),
        ("bug", "UnexpectedError", "on device 2 of 2: unexpected KeyError: 'a bug'"),
        ("taken_over", "LeaseLost", ""),
        ("stopped", "TrialInterrupted", ""),
    ],
)
def test_what_one_rank_raises_all_raise(ranks_of: Callable[[int], Path], name: str, error: str, text: str) -> None:
    first, second = (outcome(ranks_of(2), name, rank) for rank in (0, 1))
    assert (first["error"], second["error"]) == (error, error if name != "bug" else "KeyError")
    assert text in first["text"]


@pytest.mark.slow
def test_a_pruned_trial_ends_on_all_ranks(ranks_of: Callable[[int], Path]) -> None:
    first, second = (outcome(ranks_of(2), "pruned", rank) for rank in (0, 1))
    assert first["state"] == "pruned"
    assert len(first["models"]) == len(second["models"]) == 1
    assert "error" not in second


@pytest.mark.slow
def test_only_the_first_rank_writes(ranks_of: Callable[[int], Path]) -> None:
    directory = ranks_of(2) / "cases" / "uninterrupted"
    assert {path.name for path in directory.iterdir()} == {
        *("log.txt", "epochs.csv", "film", "best.safetensors", "resume.1.pt")
    }
    assert list(read_csv(TrialLayout(directory).epochs_csv)["epoch"]) == [1, 2]


@pytest.mark.slow
def test_a_stopped_trial_continues_as_if_it_had_not_stopped(ranks_of: Callable[[int], Path]) -> None:
    found, expected = (outcome(ranks_of(2), name)["models"][-1] for name in ("continued", "uninterrupted"))
    assert len(outcome(ranks_of(2), "continued")["models"]) == 1
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["copied", "killed"])
def test_one_device_continues_what_two_have_begun(ranks_of: Callable[[int], Path], folder: Path, name: str) -> None:
    """It keeps the parts of the two, and so computes what they would have."""
    two = ranks_of(2)
    if name == "killed":
        assert outcome(two, name)["error"] == RankLost.__name__
    shutil.copytree(two / "cases" / name, folder / "alone" / "cases" / name)
    torch.set_num_threads(1)
    continued = run_case(folder / "alone", name, {"config": failing_of(), "attempt": 2}, ALONE)
    expected = outcome(two, "uninterrupted")
    assert len(continued["models"]) == 1
    assert largest_gap(continued["models"][0], expected["models"][-1]) == 0.0
    assert_same_statistics(continued["models"][0], expected["models"][-1], rtol=1e-6)
    assert continued["metrics"]["train/accumulation"] == 2
