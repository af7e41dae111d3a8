"""The only list of metrics: what is measured, which direction is better, what it needs, and what computes it.

Importing this module imports no torch. Metrics of others come in by `register_metric`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

from attnsearch import plugins
from attnsearch.errors import ConfigError
from attnsearch.metrics.base import Metric, When
from attnsearch.types import Direction, MatchRule, Split

_NAME = re.compile(r"[a-z][a-z0-9_]*")

_FAITHFULNESS = "attnsearch.metrics.faithfulness:"
_LOCALISATION = "attnsearch.metrics.localisation:"
_COMPLEXITY = "attnsearch.metrics.complexity:"
_PARTS = "attnsearch.metrics.part_scores:"
_HELD_OUT: tuple[Split, ...] = ("val", "test")
_UNIT = (0.0, 1.0)
_SIGNED = (-1.0, 1.0)

RETRIEVAL = "retrieval"
"""The group of the metrics of a ranked gallery."""
#: Which images are no matches -> how the metrics of retrieval are named and explained under that rule.
RETRIEVAL_RULES: dict[MatchRule, tuple[str, str]] = {
    "camera": ("", "images of the query's camera are no matches"),
    "group": ("_group", "images of the query's group are no matches; compares with no other rule"),
    "open": ("_open", "only the image itself is left out; compares with no other rule"),
}


def _retrieval_metrics(suffix: str, rule: str) -> tuple[Metric, ...]:
    """The metrics of re-identification under one rule."""
    summaries = {
        "mAP": ("mean average precision of the ranked gallery", "Zheng et al. 2015 (ICCV), section 3"),
        "rank1": ("fraction of queries whose nearest gallery image is a match (CMC@1)", ""),
        "rank5": ("fraction of queries with a match among the nearest 5 (CMC@5)", ""),
        "rank10": ("fraction of queries with a match among the nearest 10 (CMC@10)", ""),
        "mINP": ("mean inverse negative penalty: how early the last match comes",
                 "Ye et al. 2021 (arXiv 2001.04193), section 3.3"),
    }  # fmt: skip
    label = suffix.replace("_", " ")
    return tuple(
        Metric(f"{name}{suffix}", label=f"{name}{label}", when="epoch", group=RETRIEVAL, tasks=("reid",),
               splits=_HELD_OUT, range=_UNIT, summary=f"{summary}; {rule}", citation=citation)
        for name, (summary, citation) in summaries.items()
    )  # fmt: skip


_HESSE = "Hesse et al. 2023 (arXiv 2308.06248)"
#: Name -> title, when, what an undefined one counts as, summary, citation; of synthetic birds with other parts.
_PART_SCORES: dict[str, tuple[str, When, float, str, str]] = {
    "sd_swap": ("part order under swaps (SD_swap)", "image", 0.5, "how well the map ranks parts by what the class "
                "loses when each takes another variant; 0.5 at random", f"{_HESSE}, single deletion, with swaps"),
    "sd": ("single deletion (SD)", "image", 0.5, "the same by what the class loses without each part; 0.5 at random",
           f"{_HESSE}, single deletion"),
    "flip_rate": ("flip rate", "image", 0.0, "how often another variant of the map's top part moves the decision to a "
                  "class that has it", ""),
    "target_sensitivity": ("target sensitivity (TS)", "image", 0.5, "how often the map of another class has more on "
                           "what it shares than a third one's; undefined for class-free maps",
                           f"{_HESSE}, target sensitivity"),
    "saliency_on_parts": ("saliency on parts", "image", 0.0, "fraction of the map on the four parts; without it no "
                          "part counts as important", ""),
    "csdc": ("controlled check (CSDC)", "data set", 0.0, "fraction of a minimal sufficient set of parts that is held "
             "important, of right answers", f"{_HESSE}, controlled synthetic data check"),
    "preservation_check": ("preservation check (PC)", "data set", 0.0, "how often the decision stays with the "
                           "important parts alone", f"{_HESSE}, preservation check"),
    "deletion_check": ("deletion check (DC)", "data set", 0.0, "how often the decision changes without the important "
                       "parts", f"{_HESSE}, deletion check"),
    "distractibility": ("distractibility (D)", "data set", 0.0, "1 minus the fraction of irrelevant parts and objects "
                        "that are held important", f"{_HESSE}, distractibility"),
    "completeness": ("completeness (Com)", "data set", 0.0, "mean of D and of the mean of CSDC, PC and DC, at the one "
                     "threshold that is best on validation", f"{_HESSE}, completeness"),
    "explainability": ("explainability (mX)", "data set", 0.0, "mean of completeness, SD and TS",
                       f"{_HESSE}, section 4"),
    "background_independence": ("background independence (BI)", "data set", 0.0, "1 minus the fraction of objects "
                                "behind the bird that the class score depends on; of the model alone",
                                f"{_HESSE}, background independence"),
}  # fmt: skip


def _part_metrics() -> tuple[Metric, ...]:
    """The metrics of the group `parts`."""
    return tuple(
        Metric(name, label=label, when=when, group="parts", tasks=("classification",), needs="interventions",
               undefined_as=undefined_as, range=_UNIT, summary=summary, citation=citation,
               compute=f"{_PARTS}{name}_of")
        for name, (label, when, undefined_as, summary, citation) in _PART_SCORES.items()
    )  # fmt: skip


BUILT_IN = (
    Metric("accuracy", when="epoch", group="classification", tasks=("classification",), range=_UNIT,
           summary="fraction of images whose class is predicted"),
    Metric("mean_class_accuracy", label="balanced accuracy", when="epoch", group="classification",
           tasks=("classification",), splits=_HELD_OUT, range=_UNIT, summary="mean of the accuracies of the classes"),
    Metric("loss", better="minimize", when="epoch", group="training",
           summary="mean over images of what was trained"),
    Metric("cross_entropy", better="minimize", when="epoch", group="classification", tasks=("classification",),
           splits=_HELD_OUT, summary="against the labels alone"),
    *(metric for rule in RETRIEVAL_RULES.values() for metric in _retrieval_metrics(*rule)),
    Metric("identity_accuracy", when="epoch", group="classification", tasks=("reid",), splits=("train",),
           range=_UNIT, summary="fraction of training images whose identity is predicted; only of train"),
    Metric("sparsity", better="minimize", when="epoch", group="maps", range=_UNIT,
           summary="mean fraction of an attention map that is bright; 1 is a flat map",
           citation="Gomez et al. 2022 (BR-NPA), released code"),
    Metric("relevance_gain", label="relevance gain (LeRF - MoRF)", has_second_fill=True,
           summary="area with the least salient cells removed first, minus most salient first, divided by the drop of "
                   "the score; 0 at random",
           citation="Blücher et al. 2024 (arXiv 2401.06654), symmetric relevance gain",
           compute=_FAITHFULNESS + "relevance_gain"),
    Metric("decision_gain", tasks=("classification",), needs="classes", has_second_fill=True,
           summary="relevance gain of whether the class is still predicted; no confidence moves it",
           compute=_FAITHFULNESS + "decision_gain"),
    Metric("calibrated_gain", tasks=("classification",), needs="temperature",
           summary="relevance gain of probabilities that are calibrated on validation",
           citation="Guo et al. 2017 (arXiv 1706.04599), temperature scaling",
           compute=_FAITHFULNESS + "calibrated_gain"),
    Metric("deletion_gain", label="deletion gain over random order", uses_random_orders=True,
           summary="area with cells removed in random order, minus most salient first, divided by the drop",
           compute=_FAITHFULNESS + "deletion_gain"),
    Metric("ap_relevance_gain", label="relevance gain of average precision", tasks=("reid",), needs="gallery",
           has_second_fill=True, compute=_FAITHFULNESS + "ap_relevance_gain",
           summary="relevance gain of the average precision with which the masked query ranks the gallery"),
    Metric("ap_deletion_gain", label="deletion gain of average precision", tasks=("reid",), needs="gallery",
           uses_random_orders=True, compute=_FAITHFULNESS + "ap_deletion_gain",
           summary="deletion gain of the average precision with which the masked query ranks the gallery"),
    Metric("deletion", better="minimize", is_raw=True, range=_SIGNED,
           summary="raw area, most salient removed first (DAUC); compares maps of one model, not models",
           citation="Petsiuk et al. 2018 (arXiv 1806.07421), section 3.1", compute=_FAITHFULNESS + "deletion_of"),
    Metric("insertion", is_raw=True, range=_SIGNED,
           summary="raw area, most salient brought back first (IAUC); compares maps of one model, not models",
           citation="Petsiuk et al. 2018 (arXiv 1806.07421), section 3.1", compute=_FAITHFULNESS + "insertion_of"),
    Metric("random_deletion", is_raw=True, uses_random_orders=True, range=_SIGNED,
           summary="raw area in random order: read `deletion` beside it",
           compute=_FAITHFULNESS + "random_deletion_of"),
    Metric("untouched_score", label="confidence in the image itself", is_raw=True, range=_SIGNED,
           summary="probability, or cosine, before a cell is removed", compute=_FAITHFULNESS + "untouched_score_of"),
    Metric("masked_score", label="confidence on the blank image", better="minimize", is_raw=True, range=_SIGNED,
           summary="probability, or cosine, that is left when all cells are removed; a probability should be below 0.3",
           compute=_FAITHFULNESS + "masked_score_of"),
    Metric("deletion_correlation", group="correlation", range=_SIGNED,
           summary="between the drop of each step and the saliency that it removes, from -1 to 1 (DC)",
           citation="Gomez et al. 2022 (arXiv 2201.13291)", compute=_FAITHFULNESS + "deletion_correlation_of"),
    Metric("insertion_correlation", group="correlation", range=_SIGNED,
           summary="between the rise of each step and the saliency that it brings back, from -1 to 1 (IC)",
           citation="Gomez et al. 2022 (arXiv 2201.13291)", compute=_FAITHFULNESS + "insertion_correlation_of"),
    Metric("average_drop", better="minimize", group="average_drop", tasks=("classification",), range=_UNIT,
           summary="fraction of the probability that is lost when only the salient part is left",
           citation="Chattopadhyay et al. 2018 (arXiv 1710.11063)", compute=_FAITHFULNESS + "average_drop_of"),
    Metric("average_increase", group="average_drop", tasks=("classification",), range=_UNIT,
           summary="1 where the probability is higher with the salient part alone",
           citation="Chattopadhyay et al. 2018 (arXiv 1710.11063)", compute=_FAITHFULNESS + "average_increase_of"),
    Metric("average_deletion_drop", group="average_drop", tasks=("classification",),
           summary="fraction of the probability that is lost when the salient part is removed",
           citation="Jung and Oh 2021 (arXiv 2102.05228)", compute=_FAITHFULNESS + "average_deletion_drop_of"),
    Metric("road", group="road", label="ROAD", range=_SIGNED,
           summary="least minus most salient first, with removed cells imputed from their neighbours",
           citation="Rong, Leemann et al. 2022 (arXiv 2202.00449)", compute="attnsearch.metrics.road:road_of"),
    Metric("idsds", group="idsds", label="IDSDS", tasks=("classification",), needs="classes", range=_SIGNED,
           summary="between the logit that each of 16 cells is worth and the map; train with data.cell_deletion 0.5",
           citation="Hesse et al. 2024 (arXiv 2407.11910), in-domain single deletion score",
           compute="attnsearch.metrics.single_deletion:idsds_of"),
    Metric("pointing_hit", label="pointing game, masks", group="localisation", is_hit=True, needs="masks",
           range=_UNIT, summary="1 where the most salient cell touches the mask of the parts",
           citation="Zhang et al. 2018 (IJCV), pointing game", compute=_LOCALISATION + "pointing_in_mask_of"),
    Metric("energy_in_mask", group="localisation", needs="masks", range=_UNIT,
           summary="fraction of the saliency inside of the mask",
           citation="Wang et al. 2020 (Score-CAM), energy-based pointing game",
           compute=_LOCALISATION + "energy_in_mask_of"),
    Metric("rank_in_mask", group="localisation", needs="masks", range=_UNIT,
           summary="fraction of the k most salient cells inside of the mask of k cells",
           citation="Arras et al. 2022 (CLEVR-XAI), relevance rank accuracy",
           compute=_LOCALISATION + "rank_in_mask_of"),
    Metric("iou_in_mask", label="IoU in mask", group="localisation", needs="masks", range=_UNIT,
           summary="overlap, as intersection over union, of the mask and the cells above half of the maximum",
           compute=_LOCALISATION + "iou_in_mask_of"),
    Metric("best_iou_in_mask", label="best IoU in mask", when="data set", group="localisation", needs="masks",
           summary="the same above the one fraction of the maximum, 0.1 to 0.9, that is best on validation",
           range=_UNIT, compute=_LOCALISATION + "best_iou_in_mask"),
    Metric("pointing_in_box", label="pointing game, boxes", group="localisation", is_hit=True, needs="boxes",
           range=_UNIT, summary="1 where the most salient cell touches the object's box",
           citation="Zhang et al. 2018 (IJCV), pointing game", compute=_LOCALISATION + "pointing_in_box_of"),
    Metric("energy_in_box", group="localisation", needs="boxes", range=_UNIT,
           summary="fraction of the saliency inside of the box",
           citation="Wang et al. 2020 (Score-CAM), energy-based pointing game",
           compute=_LOCALISATION + "energy_in_box_of"),
    Metric("iou_in_box", label="IoU in box", group="localisation", needs="boxes", range=_UNIT,
           summary="overlap with the box, as with the mask", compute=_LOCALISATION + "iou_in_box_of"),
    Metric("best_iou_in_box", label="best IoU in box", when="data set", group="localisation", needs="boxes",
           range=_UNIT, summary="the same with the box", compute=_LOCALISATION + "best_iou_in_box"),
    Metric("pointing_at_part", label="pointing game, parts", group="localisation", is_hit=True, needs="points",
           range=_UNIT, summary="1 where a visible part lies within 36/224 of the side from the most salient cell",
           citation="Huang et al. 2023 (arXiv 2212.05946)", compute=_LOCALISATION + "pointing_at_part_of"),
    Metric("part_consistency", when="data set", group="localisation", needs="points", range=_UNIT,
           summary="of all archived images: fraction of classes whose map keeps to one part in 80 % of them",
           citation="Huang et al. 2023 (arXiv 2212.05946), consistency score",
           compute=_LOCALISATION + "whole_part_consistency"),
    Metric("saliency_sparsity", better="minimize", group="complexity", range=_UNIT,
           summary="mean fraction of the saliency that is bright; 1 is a flat map",
           citation="Gomez et al. 2022 (BR-NPA), released code", compute=_COMPLEXITY + "sparsity_of"),
    Metric("gini", group="complexity", label="Gini coefficient", range=_UNIT,
           summary="how unequal the cells are, from 0 (flat) to 1 (one cell)",
           citation="Hurley and Rickard 2009 (arXiv 0811.4706)", compute=_COMPLEXITY + "gini_of"),
    Metric("entropy", better="minimize", group="complexity", range=_UNIT,
           summary="of the map, as a fraction of that of a flat one",
           citation="Bhatt et al. 2020 (arXiv 2005.00631), complexity", compute=_COMPLEXITY + "entropy_of"),
    Metric("effective_area", better="minimize", group="complexity", range=_UNIT,
           summary="fraction of the cells that a flat map of the same entropy would cover",
           compute=_COMPLEXITY + "effective_area_of"),
    *_part_metrics(),
)  # fmt: skip
"""The metrics of the package, in the order of columns and tables."""

_KIND = "metric"


def all_metrics() -> tuple[Metric, ...]:
    """All registered metrics, those of the package first."""
    return tuple(plugins.parts(_KIND))


def score_metrics() -> tuple[Metric, ...]:
    """Those that are measured of the best checkpoint's saliency alone."""
    return tuple(metric for metric in all_metrics() if metric.is_score)


def score_groups(task: str | None = None) -> tuple[str, ...]:
    """The groups of those, or of those that a task has, which `evaluation.scores.families` may name."""
    return tuple(dict.fromkeys(metric.group for metric in score_metrics() if task is None or metric.is_of(task)))


def find_metric(name: str) -> Metric:
    """The metric of a name.

    Raises:
        ConfigError: there is none; the message has a near name and all names.
    """
    metric: Metric = plugins.find(_KIND, name)
    return metric


def is_metric(name: str) -> bool:
    """Whether a metric of this name is registered."""
    return name in plugins.names(_KIND)


def is_score(name: str) -> bool:
    """Whether this is a registered metric of the best checkpoint's saliency."""
    return is_metric(name) and find_metric(name).is_score


def is_raw(name: str) -> bool:
    """Whether this is a registered metric that compares maps of one model and not models."""
    return is_metric(name) and find_metric(name).is_raw


def metric_of(key: str) -> Metric | None:
    """The metric of a key (`split/name`, or a bare name), also of one branch or under a second fill.

    Returns:
        None for a metric that is not registered here, such as one in the results folder of somebody else.
    """
    name = key.rpartition("/")[2]
    matching = [metric for metric in all_metrics() if metric.name == name or metric.is_variant(name)]
    return max(matching, key=lambda metric: len(metric.name), default=None)


def leading_metric(names: Container[str]) -> str:
    """The metric that models of a task are compared by first: accuracy, or the mAP that is among some names."""
    leading = ("accuracy", *(f"mAP{ending}" for ending, _ in RETRIEVAL_RULES.values()))
    return next((name for name in leading if name in names), leading[0])


def title_of(key: str) -> str:
    """A metric key as people read it: `val/relevance_gain_blur` is `val relevance gain (LeRF - MoRF), blur`."""
    split, _, name = key.rpartition("/")
    metric = metric_of(key)
    words = [name] if metric is None else [metric.title, name.removeprefix(metric.name).removeprefix("_")]
    title = ", ".join(word.replace("_", " ") for word in words if word)
    return f"{split} {title}".lstrip()


def better_direction(key: str, default: Direction | None = None) -> Direction:
    """Whether a larger or a smaller value of a metric key (`split/name`) is the better one.

    The direction of a metric under a second fill (`relevance_gain_blur`) or of a branch (`accuracy_glca`) is that of
    the metric itself.

    Args:
        default: for a metric that is not registered here, such as one in the results folder of somebody else.
    Raises:
        ConfigError: the metric is unknown and there is no default.
    """
    metric = metric_of(key)
    if metric is not None:
        return metric.better
    return find_metric(key.partition("/")[2]).better if default is None else default


def higher_is_better(key: str) -> bool:
    """Whether tables and charts count a larger value of a metric key as better, also one that is not registered."""
    return better_direction(key, "maximize") == "maximize"


def register_metric(metric: Metric, compute: Callable[..., Any] | str | None = None) -> None:
    """Adds a metric, which settings may name then and which is measured where its group is selected.

    Args:
        compute: as `Metric.compute`.
    Raises:
        ConfigError: the name is malformed, another metric has it, or a score has no function.
    """
    if not _NAME.fullmatch(metric.name):
        raise ConfigError(f"a metric's name is of lower-case letters, digits and _, got {metric.name!r}")
    added = metric if compute is None else replace(metric, compute=compute)
    if added.is_score and added.compute is None:
        raise ConfigError(f"metric {metric.name!r} needs the function that computes it")
    plugins.register(_KIND, metric.name, added)


for _metric in BUILT_IN:
    plugins.register(_KIND, _metric.name, _metric)
