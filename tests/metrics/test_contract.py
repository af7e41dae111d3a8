"""Every registered metric keeps the contract, one from outside too; closed forms of a model whose answer is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from attnsearch.config.evaluation import ScoreSettings, all_families, full_score_settings
from attnsearch.config.reference import reference
from attnsearch.errors import ConfigError
from attnsearch.evaluation.scorer import SaliencyScorer
from attnsearch.metrics.base import Metric
from attnsearch.metrics.perturbation import Curves, RemovalSettings, SaliencyCase
from attnsearch.metrics.registry import (
    all_metrics,
    better_direction,
    find_metric,
    higher_is_better,
    register_metric,
    score_metrics,
)
from attnsearch.tasks.classification import ClassTarget
from attnsearch.testing import temporary_parts
from attnsearch.testing.metric import MetricContract, make_case, make_maps, measured
from attnsearch.types import Batch, Followed
from tests.tiny import on_cpu

WEIGHTS = torch.arange(1.0, 17.0).view(1, 4, 4) / 136  # of the cells, as in an additive model


class TestMetrics(MetricContract):
    @pytest.fixture(params=[metric.name for metric in score_metrics()])
    def metric(self, request: pytest.FixtureRequest) -> Metric:
        return find_metric(request.param)


def blur_insertion(case: SaliencyCase) -> Tensor:
    return case.area("insertion", fill="blur")


class TestMetricFromOutside(MetricContract):
    @pytest.fixture
    def metric(self) -> Iterator[Metric]:
        with temporary_parts():
            register_metric(Metric("blur_insertion", group="mine", summary="area under a blur"), blur_insertion)
            yield find_metric("blur_insertion")

    def test_it_is_measured_where_its_group_is_selected(self, metric: Metric) -> None:
        rows = score_some(ScoreSettings(families=("mine",)))
        assert list(rows[0].values) == ["blur_insertion"]
        assert 0.0 < rows[0].values["blur_insertion"] < 1.0
        assert "blur_insertion" not in score_some(ScoreSettings())[0].values

    def test_it_stands_in_the_reference_and_among_the_families(self, metric: Metric) -> None:
        assert "| `blur_insertion` | maximize |" in reference()
        assert "mine" in full_score_settings("classification").families
        with pytest.raises(ValueError, match=r"no family 'mina' .did you mean 'mine'"):
            ScoreSettings(families=("mina",))


def test_a_registered_metric_is_forgotten_with_its_test() -> None:
    assert "mine" not in all_families()


class Net(nn.Module):
    """The fraction of light in the upper half as the probability of class 0."""

    def forward(self, batch: Batch, *, maps: None = None) -> SimpleNamespace:
        seen = batch.images.mean(dim=(1, 3))
        return SimpleNamespace(logits=torch.stack([seen[:, :12].mean(dim=1), seen[:, 12:].mean(dim=1)], dim=1))


def score_some(settings: ScoreSettings) -> list:
    case = make_case(make_maps())
    zeros = torch.zeros(len(case.images), dtype=torch.int64)
    batch = Batch(case.images, zeros, tuple(case.image_ids), zeros)
    scorer = SaliencyScorer(on_cpu(Net()), settings)
    return scorer.score(batch, case.saliency, ClassTarget(zeros), case.regions)


def additive_case(n_steps: int = 16) -> SaliencyCase:
    """One image of 4 x 4 pixels of ones; its score is the sum of the weights of the cells that are seen."""

    def follow(masked: Tensor, rows: Tensor) -> Curves:
        return {"score": ((masked[:, 0] > 0.5) * WEIGHTS).sum(dim=(1, 2))}

    return SaliencyCase(torch.ones(1, 3, 4, 4), WEIGHTS, follow, settings=RemovalSettings(n_steps, n_random=1))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deletion", 0.34375),
        ("insertion", 0.65625),
        ("relevance_gain", 0.3125),
        ("masked_score", 0.0),
        ("deletion_correlation", 1.0),
        ("insertion_correlation", 1.0),
        ("gini", 15 / 3 / 16),  # of 1 … n it is (n - 1) / 3n
        ("saliency_sparsity", 8.5 / 16),
    ],
)
def test_values_of_an_additive_model(name: str, expected: float) -> None:
    assert float(measured(find_metric(name), additive_case()).flatten()[0]) == pytest.approx(expected, abs=1e-4)


def test_metrics_share_the_curves_of_a_case() -> None:
    case, asked = additive_case(), []

    def follow(masked: Tensor, rows: Tensor) -> Mapping[Followed, Tensor]:
        asked.append(len(masked))
        return additive_case().follow(masked, rows)

    counted = SaliencyCase(case.images, case.saliency, follow, settings=case.settings)
    for metric in score_metrics():
        if metric.group in ("faithfulness", "correlation") and metric.needs is None:
            measured(metric, counted)
    assert sum(asked) == 2 + 3 * 15  # both ends once; the inner steps of most, least and random first
    assert list(counted.own_curves()) == ["deletion", "least_first", "insertion", "random_deletion"]


def test_another_fill_classifies_the_untouched_image_no_second_time() -> None:
    case = additive_case()
    untouched = case.untouched
    assert case.under("white").untouched is untouched
    assert float(case.under("white").masked_score()) == pytest.approx(1.0)  # white passes for evidence
    assert float(case.masked_score()) == 0.0


@pytest.mark.parametrize("key", ["val/relevance_gain_blur", "val/accuracy_glca", "val/accuracy"])
def test_variants_of_a_metric_have_its_direction(key: str) -> None:
    assert better_direction(key) == "maximize"


def test_losses_of_single_terms_are_better_when_smaller() -> None:
    assert better_direction("train/loss_gate_sparsity") == "minimize"


def test_an_unknown_metric_is_an_error_but_for_tables_of_others() -> None:
    with pytest.raises(ConfigError, match=r"unknown metric 'accurcy' .did you mean 'accuracy'"):
        better_direction("val/accurcy")
    assert better_direction("val/accurcy", "minimize") == "minimize"
    assert higher_is_better("train/seconds")


@pytest.mark.parametrize("name", ["Gain", "my-metric", "", "a@b"])
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="lower-case letters"):
        register_metric(Metric(name, summary="x"), blur_insertion)


def test_a_name_of_the_package_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"metric 'gini' is attnsearch\.metrics\.complexity:gini_of"):
        register_metric(Metric("gini", summary="x"), blur_insertion)


def test_a_score_needs_its_function() -> None:
    with pytest.raises(ConfigError, match="'alone' needs the function"):
        register_metric(Metric("alone", summary="x"))


def test_functions_of_all_metrics_can_be_imported() -> None:
    assert [metric.name for metric in all_metrics() if metric.is_score and metric.function is None] == []
