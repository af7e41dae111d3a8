"""All interventions on the parts of a synthetic bird: each set of its parts, each swap, each object behind it removed.

Both sides of every difference stay in memory, since JPEG changes more pixels than a part does.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image

from attnsearch.config.data import SyntheticData
from attnsearch.config.images import DataSettings
from attnsearch.data.synthetic.birds import PARTS, Code
from attnsearch.data.synthetic.canvas import FIRST_CLUTTER, masks_of_numbers
from attnsearch.data.synthetic.redraw import BirdRedraw

N_SUBSETS = 2 ** len(PARTS)
_WITH_PART = [frozenset(name for part, name in enumerate(PARTS) if mask >> part & 1) for mask in range(N_SUBSETS)]


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """The copies of one image.

    Attributes:
        swaps: part and variant of each swapped copy.
        n_clutter: objects behind the bird.
        copies: RGB; one of each set of parts, whose bit p is part p, then one of each swap, then one without each
            object. The complete image is the last of the sets.
        masks: L, white on one part, or one object, of the complete image; the parts first.
    """

    swaps: tuple[tuple[int, int], ...]
    n_clutter: int
    copies: tuple[Image.Image, ...]
    masks: tuple[Image.Image, ...]


class PartDrawings:
    """Draws images of a synthetic data set under all interventions.

    Attributes:
        codes: the variants of the parts of each class, in the order of the labels.
    """

    def __init__(self, cfg: SyntheticData) -> None:
        self._redraw = BirdRedraw(cfg)
        self.codes = self._redraw.codes

    @classmethod
    def of(cls, cfg: DataSettings) -> Self | None:
        """Of a data set, or None where it is not one of synthetic birds."""
        return cls(cfg) if isinstance(cfg, SyntheticData) else None

    def draw(self, image_ids: Sequence[str], *, n_threads: int) -> list[DrawnImage]:
        """The copies of some images, in their order.

        Raises:
            DataError: the data set has no such image.
        """
        with ThreadPoolExecutor(n_threads, thread_name_prefix="attnsearch-draw") as pool:
            return list(pool.map(self._draw_one, image_ids))

    def _draw_one(self, image_id: str) -> DrawnImage:
        """The copies of one image, of which this thread alone holds the drawing."""
        code, drawing = self._redraw.code_of(image_id), self._redraw.drawing(image_id)
        swaps = [
            (part, variant)
            for part, own in enumerate(code)
            for variant in sorted({other[part] for other in self.codes} - {own})
        ]
        changes: list[dict[str, Any]] = [{"present": present} for present in _WITH_PART[:-1]]
        changes += [{"code": _swapped(code, part, variant)} for part, variant in swaps]
        changes += [{"without_clutter": number} for number in range(drawing.n_clutter)]
        copies = [drawing.render(**{"code": code, **change}, counted=())[0] for change in changes]
        image, mask = drawing.render(code)
        copies.insert(N_SUBSETS - 1, image)
        numbers = [*range(1, len(PARTS) + 1), *range(FIRST_CLUTTER, FIRST_CLUTTER + drawing.n_clutter)]
        return DrawnImage(tuple(swaps), drawing.n_clutter, tuple(copies), tuple(masks_of_numbers(mask, numbers)))


def _swapped(code: Code, part: int, variant: int) -> Code:
    """A code with another variant of one part."""
    first, second, third, fourth = (variant if place == part else own for place, own in enumerate(code))
    return first, second, third, fourth
