"""Metrics of the group `parts`: the scores of `part_interventions` as functions of a `SaliencyCase`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from attnsearch.metrics.base import BestSetting, OfAllImages
from attnsearch.metrics.part_interventions import (
    COMPLETENESS,
    THRESHOLDS,
    PartOutcomes,
    background_counts,
    background_independence,
    completeness,
    controlled_check,
    deletion_check,
    distractibility,
    explainability,
    flip_rate,
    preservation_check,
    saliency_on_parts,
    single_deletion,
    swap_agreement,
    target_sensitivity,
)
from attnsearch.metrics.perturbation import SaliencyCase

Measure = Callable[[PartOutcomes], Tensor]
Values = Callable[[SaliencyCase], Tensor]


def _of_case(measure: Measure, *, needs_order: bool = True) -> Values:
    """A function of outcomes as one of a case, on the device of its maps; NaN for a flat map, which has no order."""

    def measured(case: SaliencyCase) -> Tensor:
        values = measure(case.outcomes()).to(case.saliency.device)
        return case.unless_flat(values) if needs_order else values

    return measured


def _with_threshold(name: str, measure: Measure) -> BestSetting:
    """One of the four checks, whose threshold is that of the best completeness."""
    return BestSetting(name, THRESHOLDS, _of_case(measure), together="completeness", weight=COMPLETENESS[name])


def _background_of(case: SaliencyCase) -> dict[str, Tensor]:
    counts = background_counts(case.outcomes())
    return {name: values.to(case.saliency.device) for name, values in counts.items()}


sd_swap_of, sd_of, flip_rate_of = _of_case(swap_agreement), _of_case(single_deletion), _of_case(flip_rate)
target_sensitivity_of = _of_case(target_sensitivity, needs_order=False)
saliency_on_parts_of = _of_case(saliency_on_parts, needs_order=False)
csdc_of = _with_threshold("csdc", controlled_check)
preservation_check_of = _with_threshold("preservation_check", preservation_check)
deletion_check_of = _with_threshold("deletion_check", deletion_check)
distractibility_of = _with_threshold("distractibility", distractibility)
completeness_of = OfAllImages(completeness, tuple(COMPLETENESS))
explainability_of = OfAllImages(explainability, (*COMPLETENESS, "sd", "target_sensitivity"))
background_independence_of = OfAllImages(background_independence, ("relevant", "objects"), _background_of)
