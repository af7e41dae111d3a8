"""Faithfulness against golden numbers, a model whose answer is known, and what must not change a score."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.errors import UsageError
from attnsearch.metrics.base import RatioOfMeans
from attnsearch.metrics.faithfulness import (
    ap_deletion_gain,
    ap_relevance_gain,
    calibrated_gain,
    correlation,
    decision_gain,
    deletion_correlation_of,
    deletion_gain,
    relevance_gain,
    soft_masking,
    step_saliency,
)
from attnsearch.metrics.fills import box_blur, fill_images
from attnsearch.metrics.gains import influence_values
from attnsearch.metrics.perturbation import Curves, RemovalSettings, SaliencyCase
from attnsearch.metrics.removal import area, curve_fractions, removal_ranks, removed_counts
from attnsearch.metrics.road import impute, road_of

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "brnpa_dauc_iauc.npz", allow_pickle=False)
WEIGHTS = torch.arange(1.0, 17.0).view(1, 4, 4) / 136  # of the cells, as in an additive model


def golden(key: str) -> Tensor:
    return torch.from_numpy(np.asarray(GOLDEN[key]))


def golden_model(images: Tensor) -> Tensor:
    features = F.conv2d(images, golden("conv_weight"), golden("conv_bias"), padding="same").relu().mean(dim=(2, 3))
    return F.linear(features, golden("fc_weight"), golden("fc_bias")).softmax(dim=1)


def planted(power: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The score of class 0 is the kept weight to a power; images are 4 x 4 pixels of ones, what is gone is 0."""

    def predict(images: Tensor) -> Tensor:
        kept = ((images[:, 0] > 0.5) * WEIGHTS).sum(dim=(1, 2)).clamp(0, 1) ** power
        return torch.stack([kept, 1 - kept], dim=1)

    return predict


def case_of(
    predict: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, target: Tensor, **settings: Any
) -> SaliencyCase:
    return SaliencyCase.of_class(predict, images, saliency, target, RemovalSettings(**settings))


def gain_of(gain: RatioOfMeans, case: SaliencyCase) -> float:
    """The ratio of means over the images of a case."""
    area_, untouched, filled = gain.measure(case).double().numpy().T
    return float(influence_values(area_, untouched - filled).mean())


ONES, FIRST = torch.ones(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)


@pytest.mark.parametrize("suffix", ["", "_hr"])
def test_br_npa_protocol_gives_its_authors_areas(suffix: str) -> None:
    image, saliency = golden(f"image{suffix}")[None], golden(f"saliency{suffix}")[None]
    target = golden(f"pred_class{suffix}").long().view(1)
    n_steps = len(golden(f"del_scores{suffix}"))
    deletion = case_of(golden_model, image, saliency, target, n_steps=n_steps).curve("deletion")
    insertion = case_of(golden_model, image, saliency, target, n_steps=n_steps, fill=box_blur(image)).curve("insertion")
    torch.testing.assert_close(deletion[0, 1:], golden(f"del_scores{suffix}").float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(insertion[0, 1:], golden(f"add_scores{suffix}").float(), atol=1e-5, rtol=0)
    fractions = curve_fractions(saliency, n_steps)
    for curve, key in ((deletion, "dauc"), (insertion, "iauc")):
        assert float(area(curve, fractions, protocol="br_npa")) == pytest.approx(float(golden(key + suffix)), abs=1e-5)


def test_the_newer_protocol_gives_its_areas_and_correlations() -> None:
    image, saliency = golden("image")[None], golden("saliency")[None]
    target = golden("pred_class").long().view(1)
    n_steps = len(golden("new_step_saliency"))
    blurred = box_blur(image, max(image.shape[2] // 5, 9) // 2 * 2 + 1)
    deletion = case_of(golden_model, image, saliency, target, n_steps=n_steps).curve("deletion")
    insertion = case_of(golden_model, image, saliency, target, n_steps=n_steps, fill=blurred).curve("insertion")
    torch.testing.assert_close(deletion[0], golden("new_del_scores").float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(insertion[0], golden("new_ins_scores").float(), atol=1e-5, rtol=0)
    steps = step_saliency(saliency.float(), removal_ranks(saliency), n_steps)
    torch.testing.assert_close(steps[0], golden("new_step_saliency").float(), atol=1e-5, rtol=0)
    fractions = curve_fractions(saliency, n_steps)
    found = {
        "new_dauc": area(deletion, fractions),
        "new_iauc": area(insertion, fractions),
        "new_dc": correlation(-deletion.diff(dim=1), steps),
        "new_ic": correlation(insertion.diff(dim=1), steps),
    }
    for key, value in found.items():
        assert float(value) == pytest.approx(float(golden(key)), abs=2e-5), key


def test_the_most_salient_cell_goes_first_and_ties_go_by_position() -> None:
    order = golden("removal_order")
    np.testing.assert_array_equal(removal_ranks(golden("saliency")[None]).flatten()[order], range(len(order)))
    tied = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    assert removal_ranks(tied).flatten().tolist() == [2, 0, 1, 3]
    assert removal_ranks(tied, reverse=True).flatten().tolist() == [1, 3, 2, 0]


@pytest.mark.parametrize(
    ("n_steps", "dauc", "iauc"), [(16, 0.34375, 0.65625), (8, 0.345588, 0.654412), (4, 0.352941, 0.647059)]
)
def test_areas_of_an_additive_model(n_steps: int, dauc: float, iauc: float) -> None:
    fractions = curve_fractions(WEIGHTS, n_steps)
    deletion = case_of(planted(), ONES, WEIGHTS, FIRST, n_steps=n_steps).curve("deletion")
    insertion = case_of(planted(), ONES, WEIGHTS, FIRST, n_steps=n_steps).curve("insertion")
    assert float(area(deletion, fractions)) == pytest.approx(dauc, abs=1e-5)
    assert float(area(insertion, fractions)) == pytest.approx(iauc, abs=1e-5)
    if n_steps == 16:
        assert float(area(deletion, fractions, protocol="br_npa")) == pytest.approx(0.303922, abs=1e-5)


@pytest.mark.parametrize(
    ("power", "most", "least"), [(1.0, 0.34375, 0.65625), (4.0, 0.1170, 0.3893), (0.25, 0.6764, 0.8585)]
)
def test_symmetric_gain_compares_models_where_raw_areas_do_not(power: float, most: float, least: float) -> None:
    fractions = curve_fractions(WEIGHTS, 16)
    deletion = case_of(planted(power), ONES, WEIGHTS, FIRST, n_steps=16).curve("deletion")
    reverse = case_of(planted(power), ONES, -WEIGHTS, FIRST, n_steps=16).curve("deletion")
    assert float(area(deletion, fractions)) == pytest.approx(most, abs=1e-4)
    assert float(area(reverse, fractions)) == pytest.approx(least, abs=1e-4)
    gain = gain_of(relevance_gain, case_of(planted(power), ONES, WEIGHTS, FIRST, n_steps=16))
    assert gain == pytest.approx(least - most, abs=2e-4)
    upside_down = gain_of(relevance_gain, case_of(planted(power), ONES, -WEIGHTS, FIRST, n_steps=16))
    assert upside_down == pytest.approx(most - least, abs=2e-4)


def test_random_orders_gain_nothing_on_average() -> None:
    n_images = 400
    images, maps = ONES.expand(n_images, 3, 4, 4), WEIGHTS.expand(n_images, 4, 4)
    case = case_of(planted(), images, maps, FIRST.expand(n_images), n_steps=16)
    assert float(case.area("random_deletion").mean()) == pytest.approx(0.5, abs=0.01)
    assert gain_of(deletion_gain, case) == pytest.approx(0.5 - 0.34375, abs=0.01)


def test_values_count_in_correlations_and_only_order_in_areas() -> None:
    for saliency, expected in ((WEIGHTS, 1.0), (WEIGHTS**4, 0.875034)):
        curve = case_of(planted(), ONES, saliency, FIRST, n_steps=16).curve("deletion")
        steps = step_saliency(saliency, removal_ranks(saliency), 16)
        assert float(area(curve, curve_fractions(saliency, 16))) == pytest.approx(0.34375, abs=1e-5)
        assert float(correlation(-curve.diff(dim=1), steps)) == pytest.approx(expected, abs=1e-4)


def test_flat_maps_are_undefined_where_order_counts() -> None:
    flat = torch.full((1, 4, 4), 0.3)
    assert torch.isnan(case_of(planted(), ONES, flat, FIRST, n_steps=4).curve("deletion")).all()
    assert torch.isnan(case_of(planted(), ONES, flat, FIRST, n_steps=4).curve("insertion")).all()
    gain = relevance_gain.measure(case_of(planted(), ONES, flat, FIRST, n_steps=4))
    assert gain[0].tolist() == pytest.approx([0.0, 1.0, 0.0])  # no information, but the image counts
    steps = step_saliency(flat, removal_ranks(flat), 4)
    assert math.isnan(float(correlation(torch.rand(1, 4), steps)))
    assert all(math.isnan(float(value)) for value in vars(soft_masking(case_of(planted(), ONES, flat, FIRST))).values())
    assert math.isnan(float(road_of(case_of(planted(), ONES, flat, FIRST))))


def test_a_fill_that_removes_nothing_leaves_the_gain_undefined() -> None:
    assert math.isnan(gain_of(relevance_gain, case_of(planted(), ONES, WEIGHTS, FIRST, n_steps=4, fill=ONES)))


def test_nan_in_a_map_is_refused() -> None:
    broken = WEIGHTS.clone()
    broken[0, 1, 1] = math.nan
    with pytest.raises(ValueError, match="saliency has NaN"):
        case_of(planted(), ONES, broken, FIRST, n_steps=4).curve("deletion")


def test_a_map_larger_than_its_image_is_refused() -> None:
    with pytest.raises(ValueError, match="5 x 4 cells is larger than its image of 4 x 4 pixels"):
        case_of(planted(), ONES, torch.rand(1, 5, 4), FIRST, n_steps=4).curve("deletion")


@pytest.mark.parametrize(("n_cells", "n_steps"), [(16, 16), (17, 5), (49, 100), (9, 4), (3136, 196)])
def test_steps_are_as_even_as_can_be(n_cells: int, n_steps: int) -> None:
    counts = removed_counts(n_cells, n_steps)
    assert (len(counts), int(counts[0]), int(counts[-1])) == (min(n_steps, n_cells) + 1, 0, n_cells)
    steps = counts.diff()
    assert int(steps.max()) - int(steps.min()) <= 1
    assert int(steps.min()) >= 1


@pytest.mark.parametrize("map_hw", [(3, 5), (7, 7), (12, 32), (32, 32)])
def test_scores_do_not_depend_on_company_batch_or_scale(map_hw: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(3, 3, 32, 32, generator=generator)
    saliency = torch.rand(3, *map_hw, generator=generator)
    target = golden_model(images).argmax(dim=1)
    whole = case_of(golden_model, images, saliency, target, n_steps=6, fill="blur").curve("deletion")
    settings = {"n_steps": 6, "fill": "blur", "batch_images": 2}
    alone = [
        case_of(golden_model, images[[i]], 7 * saliency[[i]] + 3, target[[i]], **settings).curve("deletion")
        for i in range(3)
    ]
    torch.testing.assert_close(whole, torch.cat(alone), atol=1e-6, rtol=0)
    mirrored = case_of(
        lambda shown: golden_model(shown.flip(3)), images.flip(3), saliency.flip(2), target, n_steps=6, fill="blur"
    ).curve("deletion")
    torch.testing.assert_close(whole, mirrored, atol=1e-5, rtol=0)


def test_insertion_is_deletion_read_backwards() -> None:
    images, saliency = torch.rand(2, 3, 32, 32), torch.rand(2, 5, 5)
    target = torch.zeros(2, dtype=torch.long)
    insertion = case_of(golden_model, images, saliency, target, n_steps=25).curve("insertion")
    least_first = case_of(golden_model, images, -saliency, target, n_steps=25).curve("deletion")
    torch.testing.assert_close(insertion, least_first.flip(1), atol=1e-6, rtol=0)


def test_shared_ends_are_asked_once() -> None:
    asked = []

    def count(images: Tensor) -> Tensor:
        asked.append(len(images))
        return planted()(images)

    relevance_gain.measure(case_of(count, ONES, WEIGHTS, FIRST, n_steps=16))
    assert sum(asked) == 2 + 2 * 15


def test_short_curves_cost_twelve_forward_passes_for_both_gains() -> None:
    asked = []

    def count(images: Tensor) -> Tensor:
        asked.append(len(images))
        return golden_model(images)

    images, maps = torch.rand(1, 3, 32, 32), torch.rand(1, 12, 12)
    case = case_of(count, images, maps, FIRST, n_steps=None)
    for gain in (relevance_gain, decision_gain):
        gain.measure(case)
    assert sum(asked) == 12
    deletion_correlation_of(case)  # needs steps of equal size, and takes the two ends from above
    assert sum(asked) == 12 + 15


LINEAR = torch.arange(1.0, 145.0).view(1, 12, 12) / 10440


def powered(power: float, weights: Tensor = LINEAR) -> Callable[[Tensor], Tensor]:
    """As `planted`, on images of 12 x 12 pixels."""

    def predict(images: Tensor) -> Tensor:
        kept = ((images[:, 0] > 0.5) * weights).sum(dim=(1, 2), dtype=torch.float64).clamp(0, 1) ** power
        return torch.stack([kept, 1 - kept], dim=1)

    return predict


@pytest.mark.parametrize(
    ("power", "per_cell", "even", "symmetric"),
    [(1, 0.331019, 0.329741, 0.309375), (4, 0.292780, 0.290233, 0.282653), (0.25, 0.204274, 0.196470, 0.194352)],
)
def test_the_seven_points_have_one_bias_for_all_models(
    power: float, per_cell: float, even: float, symmetric: float
) -> None:
    images = torch.ones(1, 3, 12, 12)
    for n_steps, expected in ((144, per_cell), (16, even), (None, symmetric)):
        found = gain_of(relevance_gain, case_of(powered(power), images, LINEAR, FIRST, n_steps=n_steps))
        assert found == pytest.approx(expected, abs=2e-6), n_steps


@pytest.mark.parametrize("power", [4, 0.25])
def test_without_an_order_the_points_give_no_gain_and_mirrored_ones_would(power: float) -> None:
    """Where all cells weigh the same, any order gives one curve, and its shape must not count."""
    counts = removed_counts(144, None)
    assert counts.tolist() == [0, 9, 27, 72, 117, 135, 144]
    assert counts.tolist() == (144 - counts.flip(0)).tolist()
    equal = torch.full((1, 12, 12), 1 / 144)
    images = torch.ones(1, 3, 12, 12)
    found = gain_of(relevance_gain, case_of(powered(power, equal), images, LINEAR, FIRST, n_steps=None))
    assert found == pytest.approx(0.0, abs=1e-6)
    uneven = torch.tensor([0, 1, 2, 4, 8, 16]) / 16
    curves = [(1 - fractions) ** power for fractions in (1 - uneven.flip(0), uneven)]  # least first, most first
    mirrored = area(curves[0][None], 1 - uneven.flip(0)) - area(curves[1][None], uneven)
    assert abs(float(mirrored)) > 0.05


@pytest.mark.parametrize(("n_cells", "n_points"), [(9, 10), (16, 17), (17, 8), (49, 8), (3136, 7)])
def test_short_curves_of_coarse_maps_remove_cell_by_cell(n_cells: int, n_points: int) -> None:
    counts = removed_counts(n_cells, None)
    assert (len(counts), int(counts[0]), int(counts[-1])) == (n_points, 0, n_cells)
    assert torch.equal(counts, n_cells - counts.flip(0))


@pytest.mark.parametrize("change", [lambda x: x / 4, lambda x: 4 * x, lambda x: x.sign() * x.abs().sqrt()])
def test_no_increasing_map_of_the_logits_moves_the_decision_gain(change: Callable[[Tensor], Tensor]) -> None:
    generator = torch.Generator().manual_seed(3)
    images, maps = torch.rand(32, 3, 32, 32, generator=generator), torch.rand(32, 8, 8, generator=generator)

    def logits(shown: Tensor) -> Tensor:
        return 4 * F.linear(F.adaptive_avg_pool2d(shown, 4).flatten(1), weights)

    weights = torch.randn(5, 48, generator=generator)
    target = logits(images).argmax(dim=1)
    plain, changed = (
        case_of(lambda shown, f=f: f(logits(shown)).softmax(dim=1), images, maps, target, n_steps=None)
        for f in (lambda x: x, change)
    )
    assert gain_of(decision_gain, changed) == pytest.approx(gain_of(decision_gain, plain), abs=1e-9)
    assert gain_of(relevance_gain, changed) != pytest.approx(gain_of(relevance_gain, plain), abs=1e-3)


@pytest.mark.parametrize("n_images", [3, 17])
def test_the_model_never_sees_more_images_at_once_than_the_setting_allows(n_images: int) -> None:
    asked = []

    def count(images: Tensor) -> Tensor:
        asked.append(len(images))
        return golden_model(images)

    images, saliency = torch.rand(n_images, 3, 32, 32), torch.rand(n_images, 4, 4)
    target = torch.zeros(n_images, dtype=torch.long)
    for fill in ("mean", "blur"):
        case_of(count, images, saliency, target, n_steps=16, fill=fill, batch_images=4).curve("deletion")
    relevance_gain.measure(case_of(count, images, saliency, target, n_steps=16, batch_images=4))
    soft_masking(case_of(count, images, saliency, target, batch_images=4))
    road_of(case_of(count, images, saliency, target, batch_images=4))
    assert max(asked) <= 4


def test_average_drop_of_a_known_model() -> None:
    half = torch.zeros(1, 2, 2)
    half[0, 1] = 1.0  # the lower half
    masks = F.interpolate(half[:, None], size=(4, 4), mode="bilinear", align_corners=False)[0]

    def predict(images: Tensor) -> Tensor:
        kept = (images[:, 0] * WEIGHTS).sum(dim=(1, 2))
        return torch.stack([kept, 1 - kept], dim=1)

    kept = float((masks * WEIGHTS).sum())
    found = soft_masking(case_of(predict, ONES, half, FIRST))
    assert float(found.drop) == pytest.approx(1 - kept, abs=1e-6)
    assert float(found.deletion_drop) == pytest.approx(kept, abs=1e-6)
    assert float(found.increase) == 0.0


def test_fills_are_the_colours_that_they_are_named_for() -> None:
    images = torch.rand(1, 3, 8, 8)
    assert (fill_images(images, "mean") == 0).all()
    np.testing.assert_allclose(fill_images(images, "black")[0, :, 0, 0], [-2.118, -2.036, -1.804], atol=1e-3)
    np.testing.assert_allclose(fill_images(images, "white")[0, :, 0, 0], [2.249, 2.429, 2.640], atol=1e-3)
    flat = torch.full((1, 3, 40, 40), 0.7)
    torch.testing.assert_close(fill_images(flat, "blur"), flat)


def test_gains_of_the_average_precision_are_those_of_its_curves() -> None:
    images, saliency = torch.ones(3, 3, 4, 4), torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(2))
    score, precision = (
        case_of(planted(power), images, saliency, torch.zeros(3, dtype=torch.long), fill="mean") for power in (1.0, 2.0)
    )

    def follow(masked: Tensor, rows: Tensor) -> Curves:
        return {
            "score": score.follow(masked, rows)["score"],
            "average_precision": precision.follow(masked, rows)["score"],
        }

    both = SaliencyCase(images, saliency, follow)
    torch.testing.assert_close(relevance_gain.measure(both), relevance_gain.measure(score))
    torch.testing.assert_close(ap_relevance_gain.measure(both), relevance_gain.measure(precision))
    torch.testing.assert_close(ap_deletion_gain.measure(both), deletion_gain.measure(precision))
    orders = ("deletion", "least_first", "random_deletion")
    assert list(both.own_curves()) == [*orders, *(f"ap_{order}" for order in orders)]
    with pytest.raises(UsageError, match="average_precision needs a gallery"):
        ap_relevance_gain.measure(score)
    with pytest.raises(UsageError, match="calibrated needs the temperature"):
        calibrated_gain.measure(score)


def test_box_blur_is_that_of_the_released_code() -> None:
    torch.testing.assert_close(box_blur(golden("image")[None])[0], golden("blurred_image"), atol=1e-5, rtol=0)


def test_imputation_continues_a_plane_and_hides_the_outline() -> None:
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    plane = (2 * x + 3 * y).expand(1, 3, 8, 8)
    ranks = torch.full((1, 8, 8), 63)
    ranks[0, 3:5, 3:5] = torch.tensor([[0, 1], [2, 3]])
    seeds = torch.zeros(1, dtype=torch.long)
    found = impute(plane, ranks, 4 / 64, seeds=seeds, noise=0.0)
    torch.testing.assert_close(found, plane, atol=1e-4, rtol=0)  # the mean of opposite neighbours is the plane itself
    noisy = impute(plane, ranks, 4 / 64, seeds=seeds)
    assert 0 < float((noisy - plane).abs().max()) < 0.1
    assert torch.equal(noisy, impute(plane, ranks, 4 / 64, seeds=seeds))


def test_road_of_a_map_of_one_cell_is_undefined() -> None:
    assert math.isnan(float(road_of(case_of(planted(), ONES, torch.ones(1, 1, 1), FIRST))))


def test_road_prefers_the_faithful_map() -> None:
    images = torch.zeros(1, 3, 4, 4)
    images[0, :, 3, 3] = 5.0  # one bright cell, all the evidence

    def predict(shown: Tensor) -> Tensor:
        score = shown[:, 0, 3, 3].clamp(0, 5) / 5
        return torch.stack([score, 1 - score], dim=1)

    faithful = float(road_of(case_of(predict, images, WEIGHTS, FIRST)))
    wrong = float(road_of(case_of(predict, images, -WEIGHTS, FIRST)))
    assert faithful == pytest.approx(0.5, abs=0.05)
    assert wrong == pytest.approx(-faithful, abs=1e-6)
