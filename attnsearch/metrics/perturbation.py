"""Images with some cells of a map's grid removed, and what a model makes of them.

`SaliencyCase` is what metrics of saliency are computed from. In shapes, `B` is a batch of images of (H, W) pixels with
maps of (h, w) cells, `n` the number h·w of cells, `S` the number of steps of a curve, and `M` the number of masked
images that are classified at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from attnsearch.errors import UsageError
from attnsearch.metrics.fills import fill_images
from attnsearch.metrics.removal import (
    EVEN_STEPS,
    Protocol,
    area,
    curve_fractions,
    is_flat,
    random_ranks,
    removal_ranks,
    removed_counts,
    upscale_cells,
)
from attnsearch.types import Fill, Followed, GroundTruth, Region

if TYPE_CHECKING:
    from attnsearch.metrics.part_interventions import PartOutcomes


Predict = Callable[[Tensor], Tensor]
"""Normalised images (M, 3, H, W) -> probabilities (M, n_classes)."""
Follow = Callable[[Tensor, Tensor], Mapping[Followed, Tensor]]
"""Masked copies (M, 3, H, W), the rows (M,) of the images that they show -> what is followed of them, (M,) each."""
Curves = dict[Followed, Tensor]
"""What is followed -> (B, ...)."""
Order = Literal["deletion", "least_first", "insertion", "random_deletion"]
AnyFill = Fill | Literal["box"] | Tensor

BATCH_IMAGES = 64
_ORDERS: tuple[Order, ...] = ("deletion", "least_first", "insertion", "random_deletion")
_PREFIXES: dict[Followed, str] = {"score": "", "average_precision": "ap_"}
_LACKING: dict[Followed, str] = {
    "score": "is not followed",
    "decision": "needs classes, which embeddings that are compared do not have",
    "calibrated": "needs the temperature of the model",
    "logit": "needs classes, which embeddings that are compared do not have",
    "average_precision": "needs a gallery that each image is a query of",
}
"""Why something is not followed."""
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RemovalSettings:
    """How cells are removed.

    Attributes:
        n_steps: S, even removals of a curve, at most one for each cell; None means those of `SEVEN_POINTS`.
        n_random: random orders of each image, whose curves are averaged; 0 where nothing asks for them.
        fill: what stands where a cell was, by name or as images (B, 3, H, W).
        protocol: `standard`; or `br_npa`: areas without the untouched image, and insertion into a box blur, as BR-NPA's
            released code has them, for comparison with its tables alone.
        batch_images: masked images that are classified at once; changes no value.
    """

    n_steps: int | None = EVEN_STEPS
    n_random: int = 1
    fill: Fill | Tensor = "mean"
    protocol: Protocol = "standard"
    batch_images: int = BATCH_IMAGES


@dataclass(frozen=True, eq=False)
class SaliencyCase:
    """Some images, a map of each, and the model that the maps explain: an image metric is a function `case -> (B,)`.

    The removal curve: let r(c) in 0 … n - 1 be the rank at which cell c is removed, and n_k the number of removed cells
    at point k = 0 … S, with n_0 = 0 and n_S = n. Masked image k shows the fill where r(c) < n_k, the image elsewhere.
    The curve is the followed score of these S + 1 images. Its ends, the untouched and the filled image, belong to all
    orders, so they are classified once. Insertion puts cells back, the most salient first. That is the removal of the
    least salient cells first, read from its end, and costs nothing beside it.

    Forward passes are nearly all of the cost. A curve is therefore made when the first metric asks for it, and kept for
    the others. Each image is treated alone: a value does not depend on the other images of the case.

    A map whose cells are all equal has no order. Its curves are NaN (undefined), but for that of random orders.

    Attributes:
        images: (B, 3, H, W), normalised.
        saliency: (B, h, w) finite, any scale.
        follow: the `score` of masked copies, such as the probability of the explained class; in classification the
            `decision`, 1 where that class is predicted and 0 elsewhere, its `logit`, and the `calibrated` probability
            where the temperature is known; in retrieval the `average_precision` of their ranking of the gallery.
        regions: where the images should be looked at.
        image_ids: B names, which random draws depend on; positions where there are none.
        intervene: draws the images with parts removed and exchanged, and classifies them; None where that cannot be.
    """

    images: Tensor
    saliency: Tensor
    follow: Follow
    regions: GroundTruth = field(default_factory=GroundTruth)
    settings: RemovalSettings = field(default_factory=RemovalSettings)
    image_ids: Sequence[str] = ()
    intervene: Callable[[], PartOutcomes] | None = None
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_class(
        cls,
        predict: Predict,
        images: Tensor,
        saliency: Tensor,
        target: Tensor,
        settings: RemovalSettings | None = None,
    ) -> SaliencyCase:
        """A case that follows the probability of the class target (B,) int64 of each image (B, 3, H, W).

        Its logit is the logarithm of the probability: what all logits of an image have in common is not known.
        """

        def follow(masked: Tensor, rows: Tensor) -> Curves:
            probabilities, classes = predict(masked).float(), target[rows]  # (M, n_classes), (M,)
            is_decided = (probabilities.argmax(dim=1) == classes).float()
            score = probabilities.gather(1, classes[:, None])[:, 0]
            return {"score": score, "decision": is_decided, "logit": score.log()}  # (M,) each

        return cls(images, saliency, follow, settings=settings or RemovalSettings())

    @classmethod
    def of_maps(cls, saliency: Tensor, regions: GroundTruth) -> SaliencyCase:
        """Maps (B, h, w) without images and model, for metrics that remove nothing."""

        def follow(masked: Tensor, rows: Tensor) -> Curves:
            raise UsageError("this case has no model, which metrics that remove cells need")

        return cls(saliency.new_empty(len(saliency), 3, 0, 0), saliency, follow, regions=regions)

    def under(self, fill: Fill | Tensor) -> SaliencyCase:
        """The same case under another fill, by name or (B, 3, H, W); what was classified already is not repeated."""
        return self._with(replace(self.settings, fill=fill))

    def _with(self, settings: RemovalSettings) -> SaliencyCase:
        """The same case under other settings, with all that was made so far."""
        other = replace(self, settings=settings)
        other._made.update(self._made)
        return other

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made when it is first asked for: metrics share by it what costs forward passes.

        Args:
            key: names all that it depends on beside images and maps, such as the fill.
        """
        if key not in self._made:
            self._made[key] = make()
        value: T = self._made[key]
        return value

    def region(self, name: Region) -> Tensor:
        """Masks or boxes (B, H, W) bool, or points (B, P, 2).

        Raises:
            UsageError: there are none.
        """
        values: Tensor | None = getattr(self.regions, name)
        if values is None:
            raise UsageError(f"these images have no {name}")
        return values

    def outcomes(self) -> PartOutcomes:
        """What the model makes of the images with parts removed and exchanged, and the maps of these parts.

        Raises:
            UsageError: these images cannot be drawn again.
        """
        if self.intervene is None:
            raise UsageError("these images cannot be drawn again with other parts")
        return self.once("interventions", self.intervene)

    def in_even_steps(self) -> SaliencyCase:
        """The same case with curves of even steps; what was classified of its ends is not repeated."""
        if self.settings.n_steps is not None:
            return self
        settings = replace(self.settings, n_steps=EVEN_STEPS)
        return self.once(("even steps", settings.fill), lambda: self._with(settings))

    def seeds(self, purpose: str) -> Tensor:
        """(B,) int64: what is drawn for an image depends on its id alone, so that all trials meet the same draws."""
        names = self.image_ids or [str(row) for row in range(len(self.images))]
        texts = [f"{purpose}\n{name}".encode(errors="surrogateescape") for name in names]
        return torch.tensor([int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1 for text in texts])

    @torch.no_grad()
    def scores(self, copies: Tensor, *, of: Followed = "score") -> Tensor:
        """What is followed of one copy of each image, (B, 3, H, W): (B,) float32.

        Raises:
            UsageError: this is not followed.
        """
        return _picked(self._followed(copies), of)

    @property
    def untouched(self) -> Tensor:
        """The followed score of the images themselves: (B,)."""
        return self.untouched_of("score")

    def untouched_of(self, of: Followed) -> Tensor:
        """What is followed of the images themselves: (B,).

        Raises:
            UsageError: this is not followed.
        """
        return _picked(self._untouched(), of)

    def ends(self, of: Followed) -> tuple[Tensor, Tensor]:
        """What is followed of the untouched and of the filled images, (B,) each, also for a flat map.

        Raises:
            UsageError: this is not followed.
        """
        return self.untouched_of(of), self._masked(self.settings.fill)[of]

    def filled(self, fill: AnyFill | None = None) -> Tensor:
        """Images (B, 3, H, W) that show the fill alone, by default that of the settings."""
        fill = self.settings.fill if fill is None else fill
        return fill if isinstance(fill, Tensor) else self.once(("filled", fill), lambda: fill_images(self.images, fill))

    def masked_score(self, fill: AnyFill | None = None) -> Tensor:
        """The followed score where all cells are removed: (B,)."""
        return self._masked(self.settings.fill if fill is None else fill)["score"]

    def curve(self, order: Order, fill: AnyFill | None = None, *, of: Followed = "score") -> Tensor:
        """What is followed while cells are removed or put back: (B, S + 1) float32; NaN for a flat map.

        Args:
            order: `deletion` removes the most salient cells first, `least_first` the least salient ones;
                `random_deletion` is the mean over random orders; `insertion` puts the most salient cells back first.
            fill: None takes that of the settings.
            of: all that is followed is measured in the same forward passes.
        Raises:
            UsageError: this is not followed, as no gallery is ranked.
        """
        return _picked(self._curves(order, self._own_fill(order) if fill is None else fill), of)

    def area(self, order: Order, fill: AnyFill | None = None) -> Tensor:
        """Area under a curve, by the protocol of the settings: (B,)."""
        return area(self.curve(order, fill), self.fractions, protocol=self.settings.protocol)

    @property
    def fractions(self) -> Tensor:
        """Fractions of removed cells at the points of a curve: (S + 1,) from 0 to 1."""
        return curve_fractions(self.saliency, self.settings.n_steps).to(self.images.device)

    def own_curves(self) -> dict[str, Tensor]:
        """The curves (B, S + 1) under the fill of the settings that were made so far, in a fixed order.

        Those of the average precision are called `ap_<order>`.
        """
        made = {order: self._made.get(self._curve_key(order, self._own_fill(order)), {}) for order in _ORDERS}
        return {
            f"{prefix}{order}": curves[of]
            for of, prefix in _PREFIXES.items()
            for order, curves in made.items()
            if of in curves
        }

    def unless_flat(self, values: Tensor) -> Tensor:
        """Values (B, ...), NaN for a flat map."""
        flat = is_flat(self.saliency).to(values.device).view(-1, *[1] * (values.ndim - 1))
        return torch.where(flat, torch.nan, values)

    def _own_fill(self, order: Order) -> AnyFill:
        is_box = order == "insertion" and self.settings.protocol == "br_npa"
        return "box" if is_box else self.settings.fill

    def _untouched(self) -> Curves:
        """Of the images themselves, (B,) each."""
        return self.once("untouched", lambda: self._followed(self.images))

    def _masked(self, fill: AnyFill) -> Curves:
        """Where all cells are removed, (B,) each."""
        return self.once(("masked", fill), lambda: self._followed(self.filled(fill)))

    @torch.no_grad()
    def _followed(self, copies: Tensor) -> Curves:
        """Of one copy of each image, (B, 3, H, W): (B,) each."""
        parts = _parts(torch.arange(len(copies), device=copies.device), self.settings.batch_images)
        return _joined([self.follow(copies[rows], rows) for rows in parts])

    def _curves(self, order: Order, fill: AnyFill) -> Curves:
        """(B, S + 1) each."""
        return self.once(self._curve_key(order, fill), lambda: self._make_curves(order, fill))

    def _curve_key(self, order: Order, fill: AnyFill) -> Hashable:
        return order, fill, self.settings.n_steps

    def _make_curves(self, order: Order, fill: AnyFill) -> Curves:
        """(B, S + 1) each."""
        if order == "insertion":
            return {of: curve.flip(1) for of, curve in self._curves("least_first", fill).items()}
        if order == "random_deletion":
            draws = [self.seeds(f"order {index}") for index in range(self.settings.n_random)]
            drawn = [self._removal_curves(random_ranks(self.saliency, seeds), fill) for seeds in draws]
            return {of: torch.stack([curves[of] for curves in drawn]).mean(dim=0) for of in drawn[0]}
        ranks = removal_ranks(self.saliency, reverse=order == "least_first")
        return {of: self.unless_flat(curve) for of, curve in self._removal_curves(ranks, fill).items()}

    def _removal_curves(self, ranks: Tensor, fill: AnyFill) -> Curves:
        """The curves (B, S + 1) of the order in which ranks (B, h, w) remove cells.

        Masked images of all images and steps fill one batch after the other: (S - 1) · B of them, the ends apart.
        """
        images = self.images
        counts = removed_counts(ranks[0].numel(), self.settings.n_steps).to(images.device)  # (S + 1,) n_k
        ranks_px = upscale_cells(ranks.to(images.device), (images.shape[2], images.shape[3]))  # (B, H, W)
        inner = torch.arange(1, len(counts) - 1, device=images.device)
        rows_of = torch.arange(len(images), device=images.device).repeat_interleave(len(inner))
        steps_of = inner.repeat(len(images))

        def is_gone(copies: Tensor) -> Tensor:
            return ranks_px[rows_of[copies]] < counts[steps_of[copies]][:, None, None]

        between, masked = self.without(rows_of, is_gone, fill), self._masked(fill)
        curves = {of: untouched[:, None].repeat(1, len(counts)) for of, untouched in self._untouched().items()}
        for of, curve in curves.items():  # (B, S + 1)
            curve[:, -1] = masked[of]
            if of in between:  # a map of one cell has no step between its ends
                curve[rows_of, steps_of] = between[of]
        return curves

    @torch.no_grad()
    def without(self, rows: Tensor, is_gone: Callable[[Tensor], Tensor], fill: AnyFill | None = None) -> Curves:
        """What is followed of M masked copies, (M,) each; nothing of none.

        Args:
            rows: (M,) of the images that they show.
            is_gone: some of the copies, as numbers (m,) below M, -> (m, H, W) bool, True where the fill stands.
            fill: None takes that of the settings.
        """
        images, filled, followed = self.images, self.filled(fill), []
        for copies in _parts(torch.arange(len(rows), device=rows.device), self.settings.batch_images):
            shown, gone = rows[copies], is_gone(copies)[:, None]  # (m,), (m, 1, H, W)
            followed.append(self.follow(torch.where(gone, filled[shown], images[shown]), shown))
        return _joined(followed)


def _picked(followed: Curves, of: Followed) -> Tensor:
    """One of what is followed.

    Raises:
        UsageError: it is not followed, as no gallery is ranked.
    """
    if of not in followed:
        raise UsageError(f"{of} {_LACKING[of]}; score the archive of a data set")
    return followed[of]


def _joined(parts: Sequence[Mapping[Followed, Tensor]]) -> Curves:
    """(n,) each, of parts one after the other."""
    return {of: torch.cat([part[of] for part in parts]) for of in (parts[0] if parts else ())}


def _parts(values: Tensor, size: int) -> list[Tensor]:
    """(n,) in parts of at most `size`."""
    return [values[start : start + size] for start in range(0, len(values), size)]
