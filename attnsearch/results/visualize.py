"""Figures of trials, written into their experiment: what is asked for, and which images of opened trials show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from attnsearch.errors import ConfigError, suggest
from attnsearch.figures.explanation import ImageToDraw, ModelColumn, compare_models, read_image
from attnsearch.figures.grid import FORMATS, Style
from attnsearch.figures.kinds import KINDS, PAIR, PAPER, RANKS, DrawStyle, check_kind, draw
from attnsearch.figures.pairs import METHODS
from attnsearch.figures.panels import Sheets
from attnsearch.figures.ranks import WIDTH_IN
from attnsearch.figures.raster import RULES, palette
from attnsearch.figures.selection import ImageSelection, choose
from attnsearch.results.explained import ExplainedModel, ImagesOfSplit, open_source
from attnsearch.results.match_figures import MatchFigures, file_name
from attnsearch.types import Split


@dataclass(frozen=True)
class FigureRequest:
    """What to draw.

    Attributes:
        style: of figures whose panels have the default width, unless `has_width` says that one was asked for.
        to: None for the figures folder of the experiment.
    """

    kinds: Sequence[str]
    selection: ImageSelection
    split: Split
    look: DrawStyle
    style: Style
    has_width: bool = True
    to: Path | None = None

    def style_of(self, kind: str) -> Style:
        """How the figures of one type are written: ranked lists are of narrow panels, where nothing else is said."""
        return replace(self.style, width_in=WIDTH_IN) if kind == RANKS and not self.has_width else self.style


def request_figures(
    kinds: Sequence[str] | None,
    split: Split,
    *,
    selection: Mapping[str, Any],
    look: Mapping[str, Any],
    style: Mapping[str, Any],
    to: Path | None = None,
) -> FigureRequest:
    """A checked request.

    Args:
        kinds: None is an overlay.
        selection, look, style: fields of `ImageSelection`, `DrawStyle` and `Style`; a width of None is that which suits
            the figure type.
    Raises:
        ConfigError: an unknown figure type, colour map, way to enlarge or format, a negative number of images, or an
            option that no figure type follows.
    """
    choice, written, has_width = _checked_selection(**selection), _checked_style(**style), style["width_in"] is not None
    request = FigureRequest(_checked_kinds(kinds), choice, split, _checked_look(**look), written, has_width, to)
    _check_used(request)
    return request


def _check_used(request: FigureRequest) -> None:
    """Refuses options that no figure type of the request would follow.

    Raises:
        ConfigError: there is one.
    """
    look = request.look
    for option, kind, is_given in (
        ("--with", PAIR, bool(request.selection.other)),
        ("--method", PAIR, look.method != DrawStyle.method),
        ("--with-removed", RANKS, look.with_removed),
    ):
        if is_given and kind not in request.kinds:
            raise ConfigError(
                f"{option} is for --kind {kind}, and {', '.join(request.kinds)} is asked for; add that kind"
            )


def _checked_selection(**settings: Any) -> ImageSelection:
    """Which images are chosen.

    Raises:
        ConfigError: a negative number or seed of images by chance.
    """
    selection = ImageSelection(**settings)
    if selection.random < 0 or selection.seed < 0:
        raise ConfigError(
            f"--random must be a number of images and a seed, both >= 0, got {selection.random} {selection.seed}"
        )
    return selection


def _checked_kinds(kinds: Sequence[str] | None) -> list[str]:
    """The kinds as they are drawn, each once; an overlay where none is named.

    Raises:
        ConfigError: an unknown one.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}{suggest(kind, list(KINDS))}")
    return list(dict.fromkeys(kinds or ["overlay"]))


def _checked_look(*, rule: str, colours: str, method: str = "occlusion", **settings: Any) -> DrawStyle:
    """How maps are drawn.

    Raises:
        ConfigError: an unknown colour map, or another way to enlarge or to explain a match.
    """
    known_method = next((known for known in METHODS if known == method), None)
    if known_method is None:
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, got {method!r}")
    way = next((known for known in RULES if known == rule), None)
    if way is None:
        raise ConfigError(f"--enlarge must be one of {', '.join(RULES)}, got {rule!r}")
    try:
        palette(colours)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return DrawStyle(rule=way, colours=colours, method=known_method, **settings)


def _checked_style(*, dpi: int, width_in: float | None, file_format: str) -> Style:
    """How files are written.

    Raises:
        ConfigError: an unknown format.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    return Style(dpi, format=file_format) if width_in is None else Style(dpi, width_in, file_format)


def visualize_all(
    sources: Sequence[str],
    trial: int | None,
    request: FigureRequest,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> Iterator[Path]:
    """Writes all figures and yields their files.

    Args:
        storage: as `load_results`.
    Raises:
        ConfigError: no such source, image or kind; or neither maps nor a checkpoint are left.
        DataError: an image cannot be read.
    """
    if not sources:
        raise ConfigError("name a study, a run or a .safetensors file before the settings")
    settings = list(overrides)
    models = [
        open_source(source, trial, request.split, overrides=settings, root=root, storage=storage) for source in sources
    ]
    for kind, model in product(request.kinds, models):
        check_kind(kind, model.config.model, model.config.task)
    folder = request.to or models[0].figures
    for kind in request.kinds:
        sheets = Sheets(request.style_of(kind))
        if kind == PAPER:
            yield _save_paper(models, find_images(models[0], request), request, sheets, folder)
            continue
        images = () if kind in (RANKS, PAIR) else find_images(models[0], request)
        for model in models:
            yield from _save_each(kind, model, images, request, sheets, folder / model.name.replace(":", "-"))


def find_images(model: ExplainedModel, request: FigureRequest) -> list[ImageToDraw]:
    """The files of the selected images, and their classes; no image is opened and no split is gone through.

    Raises:
        ConfigError: an image that is neither in the split nor a file, or one that is not on this machine.
    """
    index, selection = model.index, request.selection
    if index is None and not selection.images:
        raise ConfigError(f"{model.name}: neither maps nor the data set are on this machine; name files with --image")
    classes = {} if index is None else dict(zip(index.image_ids, index.true, strict=True))
    images = ImagesOfSplit.of(model, classes)
    selected = [image for name in selection.images for image in images.named(name)]
    if index is not None:
        selected += [images.image(image_id) for image_id in choose(index, selection, model.scores)]
    if not selected:
        raise ConfigError("no image fits; ask for others")
    return list({image.image_id: image for image in selected}.values())


def _save_each(
    kind: str,
    model: ExplainedModel,
    images: Sequence[ImageToDraw],
    request: FigureRequest,
    sheets: Sheets,
    folder: Path,
) -> Iterator[Path]:
    """The figures of one type and one model; those of re-identification choose their images themselves."""
    if kind in (RANKS, PAIR):
        figures = MatchFigures(model, request.selection, request.look, sheets, folder)
        yield from figures.save_ranks() if kind == RANKS else figures.save_pairs()
        return
    top_q = request.look.top_q if kind == "classes" else 0
    for explanation in model.explain(kind, images, top_q=top_q):
        grid = draw(kind, explanation, read_image(explanation.source, width_px=request.style.width_px), request.look)
        yield sheets.write(grid, folder / kind / file_name(explanation.image_id, request.style))


def _save_paper(
    models: Sequence[ExplainedModel],
    images: Sequence[ImageToDraw],
    request: FigureRequest,
    sheets: Sheets,
    folder: Path,
) -> Path:
    """Images by models, the image in the first column."""
    columns = [
        ModelColumn(name, list(model.explain(PAPER, images)), "parts" in model.config.model.figure_kinds)
        for name, model in zip(_short_names(models), models, strict=True)
    ]
    grid = compare_models(columns, request.look, width_px=request.style.width_px)
    return sheets.write(grid, folder / f"paper.{request.style.format}")


def _short_names(models: Sequence[ExplainedModel]) -> list[str]:
    """Studies by their name, with the trial's number only where a study stands twice."""
    names = [model.name.partition(":")[0] for model in models]
    return [
        name if names.count(name) == 1 or model.trial is None else f"{name} trial {model.trial.number}"
        for name, model in zip(names, models, strict=True)
    ]
