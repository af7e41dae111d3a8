"""What a metric is: its name, direction, range and needs, and how its function turns maps into numbers.

Importing this module imports no torch: metrics of the package name their function as "module:function", which is
imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from attnsearch import plugins
from attnsearch.types import Direction, Need, Split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from attnsearch.metrics.perturbation import SaliencyCase

When = Literal["epoch", "image", "data set"]


@dataclass(frozen=True)
class Metric:
    """What a metric is; `key` in files and settings is `split/name`.

    Attributes:
        name: lower-case letters, digits and `_`; mAP and mINP keep their usual spelling.
        label: for people; the name with spaces where it is empty.
        when: "epoch": after each epoch, by the task. "image": of the saliency of each scored image under the best
            checkpoint. "data set": of a map too, but only all images together give the number.
        group: what `evaluation.scores.families` selects; any text for a metric of one's own.
        tasks: that have it; empty means all.
        splits: that it is measured on; empty means all that are measured.
        needs: what must be known of an image beside its map; None for nothing.
        is_raw: compares maps of one model and not models, since a model that any masking confuses gets a good value.
        has_second_fill: measured again under `evaluation.scores.second_fill`, as `<name>_<fill>`.
        uses_random_orders: is left out where `evaluation.scores.n_random` is 0.
        is_hit: 1 where a map points at the right place and 0 where it does not, image by image.
        undefined_as: value that an undefined one counts as where trials are chosen, so that no model gains by maps
            that cannot be scored; None means 0 where higher is better and 1 where lower is.
        version: raised when the same input gives another number.
        summary: one line, without a full stop.
        citation: paper and section.
        range: smallest and largest value; None means no limit, or one that depends on the model.
        compute: for "image" a function `SaliencyCase -> (B,)`, or a `RatioOfMeans`, whose values are the influence of
            each image on the ratio; for "data set" a `BestSetting`, an `OfAllImages` or a `WholeArchive`; each also as
            "module:name", which `function` imports; None for "epoch".
    """

    name: str
    label: str = ""
    better: Direction = "maximize"
    when: When = "image"
    group: str = "faithfulness"
    tasks: tuple[str, ...] = ()
    splits: tuple[Split, ...] = ()
    needs: Need | None = None
    is_raw: bool = False
    has_second_fill: bool = False
    uses_random_orders: bool = False
    is_hit: bool = False
    undefined_as: float | None = None
    version: int = 1
    summary: str = ""
    citation: str = ""
    range: tuple[float, float] | None = None
    compute: Any = None

    @property
    def function(self) -> Any:
        """What `compute` names, imported."""
        return plugins.resolve(self.compute)

    @property
    def title(self) -> str:
        """The label, or the name with spaces."""
        return self.label or self.name.replace("_", " ")

    def is_of(self, task: str) -> bool:
        """Whether a task has it."""
        return not self.tasks or task in self.tasks

    def is_of_split(self, split: str) -> bool:
        """Whether it is measured on a split."""
        return not self.splits or split in self.splits

    @property
    def worst(self) -> float:
        """What an undefined value counts as, see `undefined_as`."""
        if self.undefined_as is not None:
            return self.undefined_as
        return 0.0 if self.better == "maximize" else 1.0

    def is_variant(self, name: str) -> bool:
        """Whether a name is this metric of one branch or one term of the loss, or under a second fill."""
        return name.startswith(f"{self.name}_") and (self.has_second_fill or not self.is_score)

    @property
    def origin(self) -> str:
        """What computes it, as `module:name`: two metrics of one name are told apart by it."""
        return f"attnsearch.metrics.registry:{self.name}" if self.compute is None else plugins.origin(self.compute)

    @property
    def is_score(self) -> bool:
        """Whether it is measured of the best checkpoint's saliency alone, and not after each epoch."""
        return self.when != "epoch"


@dataclass(frozen=True, eq=False)
class BestSetting:
    """A value of each image under the one setting, such as a threshold, whose mean over all images is best.

    It is chosen on validation; on test the one of validation is taken, since a setting that is chosen on the images
    that it is reported on flatters.

    Attributes:
        name: of the value under any one setting; columns `name@setting` hold them until all images are measured.
        settings: M, that are tried.
        measure: SaliencyCase -> (B, M), larger is better, NaN where undefined.
        together: metrics with the same text, and the same settings, have one setting: that with the best weighted sum
            of their means. Empty for one that is chosen for itself.
        weight: of the mean in that sum.
    """

    name: str
    settings: tuple[float, ...]
    measure: Callable[[SaliencyCase], Tensor]
    together: str = ""
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class OfAllImages:
    """A number that is no mean over images, as values of the images with that mean, known once all are measured.

    Attributes:
        combine: column -> (N,) values; gives the values (N,).
        columns: what it is made of: columns of its own, which `measure` gives, or names of other metrics. Where one is
            not measured, there is no number.
        measure: SaliencyCase -> (B,) of each column of its own; None where it has none.
    """

    combine: Callable[[Mapping[str, NDArray[np.float64]]], NDArray[np.float64]]
    columns: tuple[str, ...]
    measure: Callable[[SaliencyCase], Mapping[str, Tensor]] | None = None


@dataclass(frozen=True, eq=False)
class RatioOfMeans:
    """A gain: the mean over images of a difference of areas, as a fraction of the mean drop, see `metrics.gains`.

    Attributes:
        measure: SaliencyCase -> (B, 3): the difference of two areas, 0 for a flat map, and what is followed of the
            untouched and of the filled image, whose difference is the drop.
    """

    measure: Callable[[SaliencyCase], Tensor]


@dataclass(frozen=True, eq=False)
class WholeArchive:
    """One number of the finite maps of all archived images, which needs no model.

    Attributes:
        measure: SaliencyCase of N maps without images, labels (N,) -> the number, NaN where undefined.
        has_floors: also measured of maps that know nothing of the images, to read the number against.
    """

    measure: Callable[[SaliencyCase, Tensor], float]
    has_floors: bool = False
