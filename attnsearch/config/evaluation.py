"""How the saliency of a kept checkpoint is scored."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from attnsearch.config.base import Settings
from attnsearch.normalisation import Fill

MetricGroup = Literal["faithfulness", "localisation", "complexity", "correlation", "average_drop", "road"]

VERSION = 2
"""Raised when the same settings would give other numbers; scores of different versions are never compared."""
DEFAULT_N_IMAGES = 32
"""Images that are scored where nothing is said, or all where there are fewer."""


def _without_repeats(families: tuple[MetricGroup, ...]) -> tuple[MetricGroup, ...]:
    if len(set(families)) < len(families):
        raise ValueError(f"families must name each family once, got {', '.join(families)}")
    return families


class ScoreSettings(Settings):
    """What is measured of the saliency, on images that are the same for all trials. Nothing here changes training."""

    families: Annotated[tuple[MetricGroup, ...], AfterValidator(_without_repeats)] = Field(
        ("faithfulness", "localisation", "complexity"),
        description="What is measured of each trial's saliency: faithfulness, localisation, complexity, correlation, "
        "average_drop, road; [] measures nothing.",
    )
    n_images: int | None = Field(
        None, ge=1, description=f"Images that are scored; null means {DEFAULT_N_IMAGES}, or all where there are fewer."
    )
    n_steps: int = Field(16, ge=2, description="Steps of a curve, at most one for each cell of the map.")
    n_random: int = Field(1, ge=1, description="Random orders per image, whose mean the curves are compared with.")
    fill: Fill = Field("mean", description="What takes the place of a removed cell; `mean` is ImageNet's mean colour.")
    second_fill: Fill | None = Field(
        None, description="Measures the relevance gain again with this fill, to see whether the ranking depends on it."
    )
    grid: int | None = Field(
        None,
        ge=2,
        description="Cells along each side that finer maps are pooled to first, for models whose grids differ; "
        "null scores each map as it is.",
    )
    protocol: Literal["standard", "br_npa"] = Field(
        "standard",
        description="How raw areas are taken; `br_npa` leaves out the untouched image and inserts into a box blur, as "
        "BR-NPA's tables do.",
    )
    target: Literal["predicted", "label"] = Field("predicted", description="The class whose probability is followed.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the masked forward passes.")
    batch_images: int = Field(64, ge=1, description="Masked images that are classified at once; changes no score.")

    def digest(self) -> str:
        """SHA-256 of everything that changes a score."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()

    def identity(self) -> dict[str, object]:
        """All settings that change a score, as plain values."""
        return self.model_dump(mode="json", exclude={"batch_images"})


METRICS_OF: dict[MetricGroup, tuple[str, ...]] = {
    "faithfulness": ("relevance_gain", "deletion_gain", "deletion", "insertion", "random_deletion", "masked_score"),
    "localisation": (
        *("pointing_hit", "energy_in_mask", "rank_in_mask", "iou_in_mask", "best_iou_in_mask"),
        *("pointing_in_box", "energy_in_box", "iou_in_box", "best_iou_in_box"),
        *("pointing_at_part", "part_consistency"),
    ),
    "complexity": ("gini", "entropy", "effective_area"),
    "correlation": ("deletion_correlation", "insertion_correlation"),
    "average_drop": ("average_drop", "average_increase", "average_deletion_drop"),
    "road": ("road",),
}
"""What each family measures; `complexity` also repeats `sparsity` on the scored images."""

RAW = ("deletion", "insertion", "random_deletion", "masked_score")
"""Areas and levels of the raw curves: they compare maps on one model, and a fragile model makes them small."""


def family_of(metric: str) -> MetricGroup | None:
    """The family that measures a score; None for a metric that no family measures."""
    return next((family for family, metrics in METRICS_OF.items() if metric in metrics), None)


FULL = ScoreSettings(
    families=("faithfulness", "localisation", "complexity", "correlation", "average_drop", "road"),
    n_steps=196,
    n_random=3,
    second_fill="blur",
)
"""What the verb `faithfulness` measures where nothing else is said: with the steps and the images of BR-NPA."""
FULL_N_IMAGES = 100
"""Images of the full measure, or all where there are fewer."""
