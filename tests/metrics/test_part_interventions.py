"""Scores of part interventions against closed forms: a classifier that reads the codes of the classes.

f_y = Σ_p w_p [part p is there and has the variant of class y], three background objects without effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnsearch.data.synthetic.birds import Code, class_codes
from attnsearch.metrics.part_codes import (
    PartsProtocol,
    contrast_pairs,
    minimal_sufficient_sets,
    shared_parts,
    undefined_by_codes,
)
from attnsearch.metrics.part_interventions import (
    THRESHOLDS,
    PartOutcomes,
    PartSums,
    background_counts,
    background_independence,
    completeness,
    controlled_check,
    deletion_check,
    distractibility,
    explainability,
    flip_rate,
    important_parts,
    preservation_check,
    saliency_on_parts,
    single_deletion,
    swap_agreement,
    swap_importances,
    target_sensitivity,
)

STEEP, FLAT_TAIL = (0.4, 0.3, 0.2, 0.1), (0.5, 0.3, 0.2, 0.0)
N_CLUTTER = 3


def logits_of(
    codes: Sequence[Code], shown: Sequence[Code], weights: Sequence[float], present: Sequence[float]
) -> Tensor:
    """(B, n_classes) of images with given variants; equal numbers of equal parts give equal logits."""
    matches = torch.tensor([[[a == b for a, b in zip(x, y, strict=True)] for y in codes] for x in shown])
    tenths = torch.tensor(weights, dtype=torch.float64) * 10  # whole numbers, so that ties are exact
    return (matches * tenths.round() * torch.tensor(present, dtype=torch.float64)).sum(dim=2) / 10


def sums_of(parts: Sequence[float] | Tensor, n_images: int, *, clutter: float = 0.0) -> PartSums:
    """The same map for each image; what lies on parts (P,), or (B, P), and on each background object."""
    on_parts = torch.as_tensor(parts, dtype=torch.float64).expand(n_images, -1)
    on_clutter = torch.full((n_images, N_CLUTTER), clutter, dtype=torch.float64)
    together = on_parts.sum(dim=1)
    return PartSums(on_parts, on_clutter, together, together + on_clutter.sum(dim=1))


def outcomes_of(
    codes: Sequence[Code],
    weights: Sequence[float],
    parts: Sequence[float] | Tensor,
    *,
    pair: tuple[PartSums, PartSums] | None = None,
    clutter: float = 0.0,
    protocol: PartsProtocol = "standard",
) -> PartOutcomes:
    """One image of each class under the classifier of the module, and a map by what lies on the parts."""
    n_classes, n_variants = len(codes), 1 + max(map(max, codes))
    subsets = [logits_of(codes, codes, weights, [mask >> part & 1 for part in range(4)]) for mask in range(16)]
    swaps = torch.full((n_classes, 4, n_variants, n_classes), torch.nan, dtype=torch.float64)
    for part in range(4):
        for variant in {code[part] for code in codes}:
            shown = [(*code[:part], variant, *code[part + 1 :]) for code in codes]
            is_other = torch.tensor([code[part] != variant for code in codes])
            swaps[is_other, part, variant] = logits_of(codes, shown, weights, [1] * 4)[is_other]
    sums = sums_of(parts, n_classes, clutter=clutter)
    return PartOutcomes(
        codes=np.array(codes),
        labels=torch.arange(n_classes),
        subsets=torch.stack(subsets, dim=1),
        swaps=swaps,
        clutter=subsets[-1][:, None].expand(-1, N_CLUTTER, -1),
        of_label=sums,
        of_predicted=sums,
        of_pair=(sums, sums) if pair is None else pair,
        protocol=protocol,
    )


def checks_of(outcomes: PartOutcomes) -> dict[str, NDArray[np.float64]]:
    """CSDC, PC, DC and D at the threshold with the best completeness: (B,) each."""
    columns = {
        "csdc": controlled_check(outcomes).numpy(),
        "preservation_check": preservation_check(outcomes).numpy(),
        "deletion_check": deletion_check(outcomes).numpy(),
        "distractibility": distractibility(outcomes).numpy(),
    }  # (B, T)
    best = max(range(len(THRESHOLDS)), key=lambda t: completeness(at(columns, t)).mean())
    return at(columns, best)


def at(columns: Mapping[str, NDArray[np.float64]], threshold: int) -> dict[str, NDArray[np.float64]]:
    return {name: values[:, threshold] for name, values in columns.items()}


EIGHT = class_codes(8, 3)


@pytest.mark.parametrize("protocol", ["standard", "funnybirds"])
@pytest.mark.parametrize(
    ("weights", "on_parts", "expected"),
    [
        (STEEP, STEEP, (1, 1, 0.875, 1, 0.979)),
        (STEEP, STEEP[::-1], (1, 1, 0.875, 1, 0.979)),
        (STEEP, (0.25,) * 4, (1, 1, 0.875, 1, 0.979)),
        (FLAT_TAIL, FLAT_TAIL, (1, 1, 0.875, 1, 0.979)),
        (FLAT_TAIL, (0.25,) * 4, (1, 1, 0.875, 0.75, 0.854)),
        (FLAT_TAIL, FLAT_TAIL[::-1], (1, 1, 0.625, 0.75, 0.813)),
    ],
)
def test_completeness_hardly_sees_the_map(
    weights: Sequence[float], on_parts: Sequence[float], expected: Sequence[float], protocol: PartsProtocol
) -> None:
    columns = checks_of(outcomes_of(EIGHT, weights, on_parts, protocol=protocol))
    means = [column.mean() for column in columns.values()]
    assert [*means, completeness(columns).mean()] == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("measure", [single_deletion, swap_agreement])
@pytest.mark.parametrize(
    ("weights", "on_parts", "expected"),
    [
        (STEEP, STEEP, 1.0),
        (STEEP, STEEP[::-1], 0.0),
        (STEEP, (0.25,) * 4, np.nan),
        (FLAT_TAIL, FLAT_TAIL, 1.0),
        (FLAT_TAIL, FLAT_TAIL[::-1], 0.0),
        (FLAT_TAIL, (0.25,) * 4, np.nan),
    ],
)
def test_order_of_parts_tells_maps_apart(
    measure: object, weights: Sequence[float], on_parts: Sequence[float], expected: float
) -> None:
    assert callable(measure)
    values = measure(outcomes_of(EIGHT, weights, on_parts))
    np.testing.assert_allclose(values, np.full(8, expected), atol=1e-9)


def test_a_map_in_random_order_scores_one_half() -> None:
    """Spearman's correlation of four ranks has the variance 1 / 3 at random, so that the score has 1 / 12."""
    drawn = [torch.tensor(np.random.default_rng(seed).random((8, 4))) for seed in range(125)]
    values = torch.cat([single_deletion(outcomes_of(EIGHT, STEEP, on_parts)) for on_parts in drawn])
    assert values.mean() == pytest.approx(0.5, abs=0.02)
    assert values.std() == pytest.approx(0.289, abs=0.015)


@pytest.mark.parametrize(
    ("codes", "preserved"),
    [(EIGHT, [1, 1, 1, 0.375, 0.125]), (class_codes(50, 2), [1, 1, 0.26, 0.08, 0.02])],
)
def test_preserved_decisions_as_the_important_parts_shrink(codes: Sequence[Code], preserved: Sequence[float]) -> None:
    """The map lies on the first four, three, … parts, and elsewhere; equal logits decide for the lowest class."""
    maps = [[0.25] * n + [0.0] * (4 - n) for n in (4, 3, 2, 1, 0)]
    found = [preservation_check(outcomes_of(codes, STEEP, on_parts))[:, 0].mean() for on_parts in maps]
    assert found == pytest.approx(preserved, abs=5e-4)


def test_deleted_decisions_as_the_important_parts_shrink() -> None:
    maps = [[0.25] * n + [0.0] * (4 - n) for n in (4, 3, 2, 1, 0)]
    found = [deletion_check(outcomes_of(EIGHT, STEEP, on_parts))[:, 0].mean() for on_parts in maps]
    assert found == pytest.approx([0.875, 0.625, 0, 0, 0], abs=5e-4)


def test_a_part_is_important_above_a_fraction_of_the_whole_map() -> None:
    """Half of the map lies on the background; 0.5 of the first part's 0.25 is not more than 0.25."""
    outcomes = outcomes_of(EIGHT, STEEP, (0.25, 0.15, 0.1, 0.0), clutter=0.5 / N_CLUTTER)
    counts = important_parts(outcomes.of_label).sum(dim=2)[0]
    assert len(THRESHOLDS) == 80
    assert (THRESHOLDS[0], THRESHOLDS[-1]) == (0.01, 0.5)
    for threshold, count in zip(THRESHOLDS, counts.tolist(), strict=True):
        assert count == sum(sum_ > threshold for sum_ in (0.25, 0.15, 0.1, 0.0, *[0.5 / N_CLUTTER] * N_CLUTTER))
    np.testing.assert_allclose(saliency_on_parts(outcomes), np.full(8, 0.5))


def test_mass_on_the_background_distracts() -> None:
    """The three objects without effect and the part of no weight are irrelevant; the map holds the three."""
    outcomes = outcomes_of(EIGHT, FLAT_TAIL, FLAT_TAIL, clutter=0.2)
    np.testing.assert_allclose(distractibility(outcomes)[:, 0], np.full(8, 0.25))


def test_background_objects_are_pooled_over_images() -> None:
    """Two of three objects of the first image lower its score, and none of the others': 1 - 2 / 24."""
    outcomes = outcomes_of(EIGHT, STEEP, STEEP)
    clutter = outcomes.clutter.clone()
    clutter[0, :2, 0] -= 0.5
    clutter[1, 0, 1] -= 0.01  # below a twentieth
    clutter[1, 2, 1] += 0.5  # raises it
    counts = background_counts(PartOutcomes(**{**vars_of(outcomes), "clutter": clutter}))
    values = background_independence({name: column.numpy() for name, column in counts.items()})
    assert values.mean() == pytest.approx(1 - 2 / 24)


def vars_of(outcomes: PartOutcomes) -> dict[str, object]:
    return {name: getattr(outcomes, name) for name in PartOutcomes.__dataclass_fields__}


def test_the_authors_example() -> None:
    """Of BI 0.90, CSDC 0.7353, PC 0.602, DC 0.532, D 0.5437, SD 0.5459 and TS 0.806."""
    means = {"csdc": 0.7353, "preservation_check": 0.602, "deletion_check": 0.532, "distractibility": 0.5437}
    means |= {"sd": 0.5459, "target_sensitivity": 0.806}
    columns = {name: mean + np.array([-0.1, 0.0, 0.1, np.nan]) for name, mean in means.items()}
    assert completeness(columns).mean() == pytest.approx(0.583, abs=5e-4)
    assert explainability(columns).mean() == pytest.approx(0.645, abs=5e-4)


def test_a_shift_of_all_logits_changes_nothing_but_under_the_authors_protocol() -> None:
    """A constant of 100 makes a twentieth of the logit larger than any drop: then all is irrelevant."""
    found = {}
    for protocol in ("standard", "funnybirds"):
        outcomes = outcomes_of(EIGHT, STEEP, STEEP, protocol=protocol)
        fields = vars_of(outcomes)
        fields |= {name: getattr(outcomes, name) + 100 for name in ("subsets", "swaps", "clutter")}
        shifted = PartOutcomes(**fields)
        torch.testing.assert_close(swap_importances(shifted), swap_importances(outcomes))
        found[protocol] = [float(distractibility(each)[:, 0].mean()) for each in (outcomes, shifted)]
    assert found["standard"] == pytest.approx([1.0, 1.0])
    assert found["funnybirds"] == pytest.approx([1.0, 1 - 4 / 7])


def test_flips_are_certain_where_every_swap_is_another_class() -> None:
    """16 classes, distance 1: each swap is a class, and a classifier of equal weights follows it."""
    outcomes = outcomes_of(class_codes(16, 1), (0.25,) * 4, STEEP)
    np.testing.assert_allclose(flip_rate(outcomes), np.ones(16))
    ignored = outcomes_of(class_codes(16, 1), (0.5, 0.3, 0.2, 0.0), STEEP[::-1])  # the top part has no weight
    np.testing.assert_allclose(flip_rate(ignored), np.zeros(16))


def test_no_swap_is_a_class_where_classes_differ_in_three_parts() -> None:
    """A flip is then an error: it comes where the weight of the top part exceeds that of all others together."""
    np.testing.assert_allclose(flip_rate(outcomes_of(EIGHT, (0.25,) * 4, STEEP)), np.zeros(8))
    np.testing.assert_allclose(flip_rate(outcomes_of(EIGHT, (0.7, 0.1, 0.1, 0.1), STEEP)), np.ones(8))
    assert flip_rate(outcomes_of(EIGHT, STEEP, (0.25,) * 4)).isnan().all()


def test_a_part_that_all_classes_share_is_left_out_of_swaps() -> None:
    codes = class_codes(8, 1)
    assert {code[0] for code in codes} == {0}
    outcomes = outcomes_of(codes, STEEP, (0.0, 0.5, 0.3, 0.2))
    assert swap_importances(outcomes)[:, 0].isnan().all()
    np.testing.assert_allclose(swap_agreement(outcomes), np.ones(8))
    assert flip_rate(outcomes_of(codes, STEEP, STEEP)).isnan().all()  # the top part has no other variant


def test_a_set_of_parts_counts_as_far_as_the_important_parts_hold_it() -> None:
    """50 classes: three parts are needed, or two; one important part holds a third of them."""
    codes = class_codes(50, 2)
    values = controlled_check(outcomes_of(codes, (0.25,) * 4, (0.6, 0.2, 0.1, 0.1)))
    sets = minimal_sufficient_sets(codes)
    for label, row in enumerate(values):
        assert row[-1] == pytest.approx(max((mask & 1) / mask.bit_count() for mask in sets[label]))
    wrong = outcomes_of(codes, (0.0,) * 4, STEEP)  # always the first class
    assert controlled_check(wrong)[1:].isnan().all()


def pair_sums(codes: Sequence[Code], factor: float) -> tuple[PartSums, PartSums]:
    """Maps of the two classes of each pair, which weigh what they share with the image `factor` times the rest."""
    pairs = contrast_pairs(codes)
    bits = (pairs.masks[..., None] >> np.arange(4)) & 1  # (n_classes, 2, P)
    on_parts = torch.from_numpy(1.0 + (factor - 1) * bits)
    return sums_of(on_parts[:, 0], len(codes)), sums_of(on_parts[:, 1], len(codes))


@pytest.mark.parametrize("codes", [EIGHT, class_codes(50, 2)])
@pytest.mark.parametrize(("factor", "expected"), [(2.0, 1.0), (0.5, 0.0)])
def test_target_sensitivity_of_maps_that_tell_classes_apart(
    codes: Sequence[Code], factor: float, expected: float
) -> None:
    outcomes = outcomes_of(codes, STEEP, STEEP, pair=pair_sums(codes, factor))
    np.testing.assert_allclose(target_sensitivity(outcomes), np.full(len(codes), expected))


def test_target_sensitivity_is_undefined_for_class_free_maps_and_for_parts_without_effect() -> None:
    assert target_sensitivity(outcomes_of(EIGHT, STEEP, STEEP)).isnan().all()
    pairs, maps = contrast_pairs(EIGHT), pair_sums(EIGHT, 2.0)
    found = target_sensitivity(outcomes_of(EIGHT, FLAT_TAIL, STEEP, pair=maps, protocol="funnybirds"))
    needs_tail = (pairs.masks == 0b1000).any(axis=1)
    assert needs_tail.any()
    assert not needs_tail.all()
    np.testing.assert_array_equal(found.isnan(), needs_tail)


@pytest.mark.parametrize(
    ("n_classes", "distance", "set_sizes", "n_pairs", "n_shared", "undefined"),
    [
        (8, 3, {2: 48}, 8, 1, set()),
        (25, 3, {2: 150}, 25, 1, set()),
        (50, 2, {3: 194, 2: 4}, 50, 2, set()),
        (16, 1, {4: 16}, 16, 2, set()),
        (5, 4, {1: 20}, 0, 0, {"csdc", "completeness", "target_sensitivity", "explainability"}),
        (8, 1, {3: 8}, 0, 0, {"target_sensitivity", "explainability"}),
    ],
)
def test_what_codes_allow(
    n_classes: int, distance: int, set_sizes: dict[int, int], n_pairs: int, n_shared: int, undefined: set[str]
) -> None:
    codes = class_codes(n_classes, distance)
    sets, pairs = minimal_sufficient_sets(codes), contrast_pairs(codes)
    assert Counter(mask.bit_count() for of_class in sets for mask in of_class) == set_sizes
    assert (pairs.n_classes, pairs.n_shared) == (n_pairs, n_shared)
    assert set(undefined_by_codes(codes)) == undefined
    shared = shared_parts(codes)
    for label, (first, second) in enumerate(pairs.classes):
        if first >= 0:
            assert tuple(shared[label, [first, second]]) == tuple(pairs.masks[label])
            assert pairs.masks[label, 0] & pairs.masks[label, 1] == 0
            assert {int(mask).bit_count() for mask in pairs.masks[label]} == {n_shared}


def test_the_authors_pairs_may_overlap_where_none_are_disjoint() -> None:
    """Of the two parts that the codes of 8 classes at distance 1 share, one is the part that all classes share."""
    codes = class_codes(8, 1)
    pairs = contrast_pairs(codes, "funnybirds")
    assert pairs.n_classes == 8
    assert (pairs.masks & 1).all()
    assert pairs.classes[0].tolist() == [5, 6]  # the last of those with two of the parts of class 0: 3, 5 and 6
    np.testing.assert_array_equal(contrast_pairs(EIGHT, "funnybirds").classes, contrast_pairs(EIGHT).classes)
