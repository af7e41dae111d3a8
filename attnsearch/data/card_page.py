"""A data card as one HTML page that loads nothing else: numbers, a contact sheet, and images that show the same."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from attnsearch.data.card import WORDS, DataCard, SamePhoto
from attnsearch.data.hold_out import hash_text
from attnsearch.data.images import open_upright
from attnsearch.data.listing import DataProblem, ListedImage
from attnsearch.errors import DataError
from attnsearch.files import atomic_write
from attnsearch.types import Split

MAX_PER_CLASS = 10
MAX_IMAGES = 1000
MAX_GROUPS = 60
"""Groups of images that show the same, and as many pairs to look at."""
_LONGEST_PX = 168
_QUALITY = 78


@dataclass(frozen=True)
class _ClassRow:
    """A class: of each split the images and the length of a bar, in percent of the longest one, and some images."""

    name: str
    counts: tuple[tuple[Split, int, float], ...]
    samples: tuple[ListedImage, ...]


def write_card_page(card: DataCard, problems: Sequence[DataProblem], target: Path) -> None:
    """Writes the page; an image that cannot be read any more leaves a gap.

    Raises:
        StoreError: the disk refuses.
    """
    atomic_write(target, render_card(card, problems))


def render_card(card: DataCard, problems: Sequence[DataProblem]) -> str:
    """The page: some images of each class, the same ones each time, and all images of groups that show the same."""
    environment = Environment(
        loader=PackageLoader("attnsearch.data", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"source": _source}
    return environment.get_template("card.html").render(
        card=card,
        words=WORDS,
        errors=[problem.message for problem in problems if problem.is_error],
        notes=[problem.message for problem in problems if not problem.is_error],
        rows=list(_class_rows(card)),
        groups=_shown(card.same),
        look=_shown(card.look),
        lines=[(line[:13].strip(), line[13:]) for line in card.lines() if line[:13].strip() not in _IN_TABLE],
    )


_IN_TABLE = {"", *WORDS.values()}


def _class_rows(card: DataCard) -> Iterator[_ClassRow]:
    """The classes by name."""
    names = sorted({name for counts in card.splits for name in counts.classes})
    n_samples = max(1, min(MAX_PER_CLASS, MAX_IMAGES // len(names)))
    longest = max(counts.largest[1] for counts in card.splits)
    of_class: dict[str, list[ListedImage]] = defaultdict(list)
    for image in card.images:
        of_class[image.class_name].append(image)
    for name in names:
        numbers = [(counts.split, counts.classes.get(name, 0)) for counts in card.splits]
        chosen = sorted(of_class[name], key=lambda image: hash_text(image.image_id))[:n_samples]
        yield _ClassRow(name, tuple((split, n, 100 * n / longest) for split, n in numbers), tuple(chosen))


def _shown(groups: Iterable[SamePhoto]) -> list[SamePhoto]:
    return list(groups)[:MAX_GROUPS]


def _source(image: ListedImage) -> str:
    """The image as a small JPEG in a `data:` address; empty where it cannot be read."""
    try:
        small = open_upright(image.path, longest_px=_LONGEST_PX)
    except DataError:
        return ""
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
