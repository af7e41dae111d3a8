"""The nouns that carry all data between packages; importing this file does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
HALVES = ("_half_a", "_half_b")
"""What follows the name of a metric that is measured on one of the two `fixed_halves` of validation."""
Direction = Literal["maximize", "minimize"]
MatchRule = Literal["camera", "group", "open"]
"""What a query and an image of its identity must not have in common to be a match: camera, group, or content."""
Distance = Literal["euclidean", "cosine"]
"""Between embeddings; cosine is 1 minus the cosine."""
MAIN_BRANCH = "main"
"""The name of a head that is not a named branch."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Red, green, blue; of values in [0, 1]."""
IMAGENET_STD = (0.229, 0.224, 0.225)
URL_VARIABLE = "ATTNSEARCH_STORAGE_URL"
"""Environment variable with the database where a command has no `--storage`; a search sets it for its workers."""
Fill = Literal["mean", "black", "white", "blur"]
"""What replaces a removed cell; `mean` is ImageNet's mean colour, 0 after normalisation."""
DELETION_CELLS = 4
"""Cells along each side of an image, of which `data.cell_deletion` deletes one, and IDSDS each in turn."""


Spread = Callable[[Callable[[slice], Any], Sequence[slice], Callable[[Any], None], Any], None]
"""Measures chunks of images in several processes, given what measures one here, the chunks, what keeps the scores of
each chunk, in their order, and the settings of the scores."""


@dataclass(frozen=True)
class Batch:
    """Images on their way into a model.

    Attributes:
        images: (B, 3, H, W) float32, normalised.
        labels: (B,) int64.
        image_ids: B stable strings (path relative to the data root).
        rows: (B,) int64 on the CPU, position of each image in its split.
        padding: (B, H, W) bool, True where a pixel is padding, or None where there is none.
        part_masks: (B, H, W) bool, True on discriminative parts, or None.
        cameras: (B,) int64, the camera that took each image, or None where that is not known.
        possible: (B, n_classes) bool, the classes that an image may be of, or None where each shows its one class.
        has_labels: whether all labels are classes; that of an image of no known class is -1.
    """

    images: Tensor
    labels: Tensor
    image_ids: tuple[str, ...]
    rows: Tensor
    padding: Tensor | None = None
    part_masks: Tensor | None = None
    cameras: Tensor | None = None
    possible: Tensor | None = None
    has_labels: bool = True

    def take(self, rows: slice | Tensor) -> Batch:
        """Some images of the batch."""
        indices = range(len(self.image_ids))[rows] if isinstance(rows, slice) else rows.tolist()
        return Batch(
            images=self.images[rows],
            labels=self.labels[rows],
            image_ids=tuple(self.image_ids[index] for index in indices),
            rows=self.rows[rows],
            padding=None if self.padding is None else self.padding[rows],
            part_masks=None if self.part_masks is None else self.part_masks[rows],
            cameras=None if self.cameras is None else self.cameras[rows],
            possible=None if self.possible is None else self.possible[rows],
            has_labels=self.has_labels,
        )


Region = Literal["masks", "boxes", "points"]
"""What may be known of where an image should be looked at."""
Need = Region | Literal["gallery", "classes", "temperature", "interventions"]
"""What a metric may need beside an image and its map.

A region, a gallery that the image is a query of, classes of which one is predicted, the temperature that calibrates
their probabilities, or the same image with parts removed and exchanged.
"""
Followed = Literal["score", "decision", "logit", "calibrated", "average_precision"]
"""What is followed while cells are removed: the explained number, whether the decision holds, the logit of the class,
its probability after calibration, and how well a query then ranks the gallery."""


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Where the images of a batch should be looked at; None for what the data set does not have.

    Attributes:
        masks: (B, H, W) bool, True on the discriminative parts.
        boxes: (B, H, W) bool, True inside the object's box.
        points: (B, P, 2) float64 x, y of the parts in input pixels; NaN where one is hidden or outside the input.
        size_hw: of the input, in pixels.
    """

    masks: Tensor | None = None
    boxes: Tensor | None = None
    points: Tensor | None = None
    size_hw: tuple[int, int] = (0, 0)

    def take(self, rows: slice | Tensor) -> GroundTruth:
        """That of some images."""
        masks, boxes, points = (
            None if regions is None else regions[rows] for regions in (self.masks, self.boxes, self.points)
        )
        return GroundTruth(masks, boxes, points, self.size_hw)

    @property
    def known(self) -> tuple[str, ...]:
        """Which of `masks`, `boxes` and `points` there are."""
        return tuple(name for name in ("masks", "boxes", "points") if getattr(self, name) is not None)


@dataclass(frozen=True)
class HeadOutput:
    """What a head makes of a batch.

    Attributes:
        logits: (B, n_classes).
        embedding: (B, D), what the head reads, or None where a family has no such vector.
    """

    logits: Tensor
    embedding: Tensor | None = None


@dataclass(frozen=True)
class AttentionOutput:
    """What a model returns.

    Attributes:
        head: the prediction.
        branches: further heads by name, or those that the prediction was combined from.
        is_combined: whether `head` was combined from branches, so that it has no loss itself.
        maps: (B, K, h, w) as the model made them (signed allowed), or None if they were not asked for or do not exist.
        map_names: K names, one per map.
        norms: (B, 1, h, w) non-negative feature norm, where the family has one.
        valid_hw: (B, 2) int64 valid rows and columns of the grid, where images are padded.
        extra_losses: named scalars that the family adds to its loss.
    """

    head: HeadOutput
    branches: Mapping[str, HeadOutput] = field(default_factory=dict)
    is_combined: bool = False
    maps: Tensor | None = None
    map_names: tuple[str, ...] = ()
    norms: Tensor | None = None
    valid_hw: Tensor | None = None
    extra_losses: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def logits(self) -> Tensor:
        """(B, n_classes) of the prediction."""
        return self.head.logits

    @property
    def embedding(self) -> Tensor | None:
        """(B, D) of the prediction, or None."""
        return self.head.embedding

    @property
    def trained_heads(self) -> dict[str, HeadOutput]:
        """The heads that have a loss, the main one first, which is `MAIN_BRANCH` unless it is a named branch."""
        return dict(self.branches) if self.is_combined else {MAIN_BRANCH: self.head, **self.branches}

    def with_float_logits(self) -> AttentionOutput:
        """The same output with the logits of the prediction in float32."""
        return replace(self, head=replace(self.head, logits=self.logits.float()))


@dataclass(frozen=True)
class EpochRecord:
    """One split of one epoch; `epoch` counts from 1, rates lie in [0, 1], `loss` is a mean over images."""

    epoch: int
    split: Split
    n_images: int
    loss: float
    terms: Mapping[str, float]
    metrics: Mapping[str, float]
    lr: float
    seconds: float
    images_per_s: float
    peak_memory_mb: float


@dataclass(frozen=True, eq=False)
class BestEpochs:
    """What the best epochs by some metrics are chosen from.

    Attributes:
        n_trials: that have an epoch where all of the metrics are defined.
        values: (R, n_metrics) of such epochs, in the order of trials and epochs: the first one that is best in a metric
            is among them for each metric.
    """

    n_trials: int
    values: NDArray[np.float64]


class TrialContext(Protocol):
    """What a running trial may ask of, and tell to, what started it.

    `check` is called between steps and before every rename into `directory`; it raises `TrialInterrupted` when the
    process should stop and `LeaseLost` when another attempt owns the trial.
    """

    number: int
    attempt: int
    seed: int
    directory: Path

    def check(self) -> None:
        """Raises what ends this attempt; also called by the thread that writes files while another one trains."""

    def record(self, records: list[EpochRecord]) -> None:
        """Puts all epochs so far into the database (idempotent)."""

    def report(self, value: float, epoch: int) -> None: ...

    def should_prune(self) -> bool: ...

    def should_pause(self, epoch: int) -> bool:
        """Whether the trial waits after this epoch (from 1) until others have come as far."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """The features of a split of N images and, for each of its Q queries, the gallery in the order of their distances.

    Gallery images of the query's identity that the rule removes are in no list. Rows count in the split, in whose order
    the queries are.

    Attributes:
        labels: (N,) int64 positions in `identities`.
        cameras: (N,) int64 positions in `camera_names`, or None where cameras are not known.
        removal_keys: (N,) int64; a gallery image with the identity and the key of a query is removed.
        is_query: (N,) bool.
        features: (N, D) float32, what images are compared by; it may be memory-mapped. D is 0 where it was removed.
        ranked_rows: (Q, k) int64 rows of the nearest gallery images, -1 beyond the last one; k is 0 where removed.
        average_precision: (Q,) float64, NaN for a query without a match.
        inverse_negative_penalty: (Q,) float64, NaN for a query without a match.
        first_match: (Q,) int64 rank of the first match, from 1; 0 without a match.
    """

    image_ids: tuple[str, ...]
    identities: tuple[str, ...]
    camera_names: tuple[str, ...]
    match_rule: MatchRule
    distance: Distance
    labels: NDArray[np.int64]
    cameras: NDArray[np.int64] | None
    removal_keys: NDArray[np.int64]
    is_query: NDArray[np.bool_]
    features: NDArray[np.float32]
    ranked_rows: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_match: NDArray[np.int64]

    @property
    def has_ranks(self) -> bool:
        """Whether features and ranks are there; without them only what was measured of each query is known."""
        n_channels, n_ranked = self.features.shape[1], self.ranked_rows.shape[1]
        return bool(n_channels and n_ranked)


@dataclass(frozen=True)
class AttentionArchive:
    """Maps and predictions of one split under one checkpoint; arrays may be memory-mapped.

    Attributes:
        image_ids, labels, predictions, confidences: one per image (N).
        sizes_hw: (N, 2) int64, the original image's height and width after EXIF rotation.
        crop_boxes: (N, 4) float64, left, top, right, bottom of the model's input in original pixels.
        maps: (N, K, h, w) float32, or None.
        norms: (N, 1, h, w) float32, or None.
        saliency: (N, h, w) float32 non-negative, or None.
        retrieval: of the whole split, in re-identification; then a query's prediction is the identity of the nearest
            gallery image and its confidence their cosine, which is NaN for gallery images.
        temperature: that calibrates the class probabilities on this split; None where none can be fitted.
    """

    image_ids: tuple[str, ...]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]
    confidences: NDArray[np.float32]
    sizes_hw: NDArray[np.int64]
    crop_boxes: NDArray[np.float64]
    class_names: tuple[str, ...]
    map_names: tuple[str, ...]
    maps: NDArray[np.float32] | None
    norms: NDArray[np.float32] | None
    saliency: NDArray[np.float32] | None
    config_digest: str
    epoch: int
    split: Split
    retrieval: Retrieval | None = None
    temperature: float | None = None


@dataclass(frozen=True)
class TrialResult:
    """How a run ended: the values of its *best* checkpoint, never those of the last epoch.

    Attributes:
        state: "complete", "pruned", "failed", or "paused" at a rung, from where the trial may continue.
        best_epoch: the epoch of the best checkpoint, from 1; 0 if none finished.
        metrics: `split/name` -> value of the best epoch.
        seconds: training time of all attempts.
        images_per_s: mean training throughput.
        error: one line, for a failed trial.
    """

    state: Literal["complete", "pruned", "failed", "paused"]
    best_epoch: int
    epochs_run: int
    metrics: Mapping[str, float]
    seconds: float
    images_per_s: float
    error: str | None = None
