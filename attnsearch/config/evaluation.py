"""How the saliency of a best checkpoint is scored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from attnsearch.config.base import Settings, digest_of
from attnsearch.errors import suggest
from attnsearch.metrics.part_codes import PartsProtocol
from attnsearch.metrics.registry import score_groups
from attnsearch.types import Fill

TargetChoice = Literal["predicted", "label"]
VERSION = 3
"""Raised when the same settings would give other numbers; scores of different versions are never compared."""
DEFAULT_N_IMAGES = 128
"""Images that are scored by default, or all where there are fewer."""
SEARCH_FAMILIES = ("faithfulness", "localisation", "complexity")
"""Groups of metrics that a search measures of each trial by default."""
FULL_N_IMAGES = 100
"""Images of the full measure, or all where there are fewer."""


def all_families(task: str | None = None) -> tuple[str, ...]:
    """The groups of all registered scores, or of those that a task has, those of a search first."""
    return tuple(dict.fromkeys((*SEARCH_FAMILIES, *score_groups(task))))


def _checked_families(families: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(families)) < len(families):
        raise ValueError(f"families must name each family once, got {', '.join(families)}")
    names = all_families()
    if unknown := [name for name in families if name not in names]:
        raise ValueError(f"no family {unknown[0]!r}{suggest(unknown[0], names)}; known: {', '.join(names)}")
    return families


class ScoreSettings(Settings):
    """What is measured of the saliency, on images that are the same for all trials. Nothing here changes training."""

    families: Annotated[tuple[str, ...], AfterValidator(_checked_families)] = Field(
        SEARCH_FAMILIES,
        description=f"What is measured of each trial's saliency: {', '.join(all_families())}; [] measures nothing.",
        json_schema_extra={"known": [*all_families()]},
    )
    n_images: int | None = Field(
        None, ge=1, description=f"Images that are scored; null means {DEFAULT_N_IMAGES}, or all where there are fewer."
    )
    n_steps: int | None = Field(
        None,
        ge=2,
        description="Even steps of a curve, at most one for each cell of the map; null means seven points, at 0, 1, 3, "
        "8, 13, 15 and 16 sixteenths, which rank trials at a fraction of the forward passes.",
    )
    n_random: int = Field(
        0, ge=0, description="Random orders per image, whose mean curves are compared with; 0 measures none."
    )
    fill: Fill = Field("mean", description="What replaces a removed cell; `mean` is ImageNet's mean colour.")
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
    parts_protocol: PartsProtocol = Field(
        "standard",
        description="How classes score in the family `parts`: `standard` takes each logit minus their mean; "
        "`funnybirds` the logit itself and, where no two classes share different parts, ones that overlap, as "
        "FunnyBirds' tables do.",
        exclude_if=lambda protocol: protocol == "standard",  # files and digests are older than this field
    )
    target: TargetChoice = Field(
        "predicted",
        description="The class whose probability is followed; in re-identification `predicted` is the nearest gallery "
        "image, whose cosine is followed, and `label` the nearest match.",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of the masked forward passes.")
    batch_images: int = Field(64, ge=1, description="Masked images that are classified at once; changes no score.")

    def digest(self) -> str:
        """SHA-256 of everything that changes a score."""
        return digest_of(self.identity())

    def identity(self) -> dict[str, object]:
        """All settings that change a score, as plain values."""
        return self.model_dump(mode="json", exclude={"batch_images"})


def full_score_settings(task: str) -> ScoreSettings:
    """What the command `faithfulness` measures by default: with the steps and images of BR-NPA."""
    return ScoreSettings(families=all_families(task), n_steps=196, n_random=3, second_fill="blur")
