"""The figure types: what a model made of one image, drawn as panels."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from attnsearch import plugins
from attnsearch.config.experiment import TaskSettings
from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.figures import raster
from attnsearch.figures.grid import Grid, Panel, PanelRow
from attnsearch.figures.raster import PERCENTILE, Floats, Pixels, Rule, outlines

PER_IMAGE = ("overlay", "contour", "parts", "heads", "classes", "layers", "branches", "patches")
PAPER = "paper"
RANKS, PAIR = "ranks", "pair"
FOR_ALL = ("overlay", "contour", RANKS, PAIR, PAPER)
KINDS = (*PER_IMAGE, RANKS, PAIR, PAPER)
_HEAD = re.compile(r"(?:layer_\d+/(?P<whose>\w+)/|cls_)head_(?P<number>\d+)")
_LAYER = re.compile(r"layer_(?P<layer>\d+)/predicted/mean|rollout_(?P<blocks>\d+)")
_NEEDED = {"heads": _HEAD, "layers": _LAYER, "patches": re.compile("local_patches")}
"""Figure type -> names of the maps that it shows."""


@dataclass(frozen=True, eq=False)
class ClassMap:
    """Where the model looked for one class; `probability` is that of the class, `map` (h, w)."""

    name: str
    probability: float
    map: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageMaps:
    """What a model made of an image.

    Attributes:
        class_names: n_classes names; none in re-identification, where no class is predicted.
        predicted: the most probable class, or the identity of a query's nearest gallery image; None without either.
        probabilities: (n_classes,) float32; NaN where they are not known: an archive holds that of the predicted class.
        cosine: in re-identification, to the nearest gallery image, or to the image that the saliency is about.
        size_hw: of the upright original, in pixels.
        crop_box: (4,) left, top, right, bottom of the model's view in original pixels.
        maps: name -> (h, w), as the model made them.
        norm: (h, w) feature norm, or None.
        saliency: (h, w) of `target`, or None where the model makes none.
        target: the class that is explained, or `similarity to IMAGE`; empty where the map is of no target.
        true: the class of the image, where it is known.
        classes: the most probable classes with their maps, most probable first, where they were asked for.
    """

    image_id: str
    class_names: tuple[str, ...]
    predicted: str | None
    probabilities: NDArray[np.float32]
    size_hw: tuple[int, int]
    crop_box: NDArray[np.float64]
    maps: Mapping[str, Floats]
    saliency: Floats | None
    target: str
    norm: Floats | None = None
    true: str | None = None
    cosine: float | None = None
    classes: Sequence[ClassMap] = ()

    @property
    def confidence(self) -> float:
        """The probability of the predicted class, NaN where none is predicted."""
        if self.predicted is None or self.predicted not in self.class_names:
            return math.nan
        return float(self.probabilities[self.class_names.index(self.predicted)])

    @property
    def is_correct(self) -> bool | None:
        """Whether the prediction is the true class; None where one of them is not known."""
        return None if self.true is None or self.predicted is None else self.predicted == self.true

    @property
    def verdict(self) -> str:
        """The prediction with its probability or its cosine, `✓` where it is correct and `✗` where it is not."""
        sign = {None: "", True: "✓ ", False: "✗ "}[self.is_correct]
        if self.cosine is None:
            return "" if self.predicted is None else f"{sign}{self.predicted} {self.confidence:.2f}"
        return ", ".join(filter(None, (f"{sign}{self.predicted or ''}", f"cosine {self.cosine:.2f}")))

    @property
    def is_signed(self) -> bool:
        """Whether a map has a value below 0; the saliency has none."""
        return any(bool((one < 0).any()) for one in [*self.maps.values(), *(one.map for one in self.classes)])

    def weighted(self) -> dict[str, Floats]:
        """The maps (h, w) times the feature norm, where there is one: what BR-NPA shows."""
        return {name: values if self.norm is None else values * self.norm for name, values in self.maps.items()}


Method = Literal["occlusion", "own", "pair", "gradient_rollout"]
"""How the map of a match is made: one of the baselines of the evaluation, or `own`, which the family offers."""


@dataclass(frozen=True)
class DrawStyle:
    """How maps are drawn.

    Attributes:
        percentile: of the outlines.
        colours: a colour map of matplotlib.
        rule: how maps are enlarged.
        own_scale: scales each panel from 0 to its own maximum; else panels of one image share one scale.
        top_q: how many classes `classes` shows.
        outlined: draws the outlines of the saliency into figures of many images too.
        with_removed: shows in a ranked gallery what the match rule removes from it, too.
        method: of the maps of `pair`.
    """

    percentile: float = PERCENTILE
    colours: str = raster.COLOURS
    rule: Rule = "cubic"
    own_scale: bool = False
    top_q: int = 5
    outlined: bool = False
    with_removed: bool = False
    method: Method = "occlusion"


def check_kind(kind: str, model: ModelConfig, task: TaskSettings) -> None:
    """Checks that a figure type suits a task, and that a model can make the maps that it shows.

    Raises:
        ConfigError: it does not; the message names the tasks that it suits, or the families.
    """
    tasks = [name for name in plugins.names("task") if kind in plugins.find("task", name).settings.figure_kinds]
    if tasks and task.name not in tasks:
        raise ConfigError(f"--kind {kind} works with the task {' and '.join(tasks)} only; this run's is {task.name}")
    if kind in FOR_ALL:
        return
    if kind not in model.figure_kinds:
        families = [
            name for name in plugins.names("model") if kind in plugins.find("model", name).settings.figure_kinds
        ]
        raise ConfigError(f"--kind {kind} works with {' and '.join(families)} only; this model is {model.name}")
    if kind in (missing := model.missing_figures()):
        raise ConfigError(f"--kind {kind} needs {missing[kind]}")


def needs_model(kind: str, map_names: Sequence[str]) -> bool:
    """Whether a figure type shows more than an archive with these maps holds."""
    if kind in ("classes", PAIR):
        return True
    return kind in _NEEDED and not any(_NEEDED[kind].fullmatch(name) for name in map_names)


@dataclass(frozen=True, eq=False)
class FigureContext:
    """An image (H, W, 3) of any size, and what a model made of it."""

    explanation: ImageMaps
    image: Pixels
    style: DrawStyle

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image.shape[0], self.image.shape[1]

    @property
    def box(self) -> NDArray[np.float64]:
        """What the model saw, in pixels of this image."""
        scale = np.array(self.size_hw) / np.array(self.explanation.size_hw)
        box: NDArray[np.float64] = self.explanation.crop_box * np.tile(scale[::-1], 2)
        return box

    def placed(self, maps: Sequence[Floats] | Floats, rule: Rule | None = None) -> Floats:
        """(K, H, W), or (H, W) of one map."""
        return raster.place(np.asarray(maps), self.box, self.size_hw, rule or self.style.rule)

    def overlays(self, maps: Mapping[str, Floats], bounds: tuple[float, float] | None = None) -> list[Panel]:
        """A panel for each map (h, w), named by its key, under one scale (of these maps) or each under its own."""
        cells = list(maps.values())
        placed = self.placed(cells)
        scales = scales_of(cells, placed, self.style, bounds)
        is_seen = raster.seen(self.box, self.size_hw)
        return [
            Panel(
                raster.lay_over(self.image, raster.levels(one, scale), is_seen, colours=self.style.colours),
                title=name,
            )
            for name, one, scale in zip(maps, placed, scales, strict=True)
        ]

    def saliency(self) -> Floats:
        """(h, w) the saliency of the target.

        Raises:
            ConfigError: the model made none.
        """
        if self.explanation.saliency is None:
            raise ConfigError(f"there is no saliency of {self.explanation.image_id}; the model makes no maps")
        return self.explanation.saliency

    def original(self) -> Panel:
        """The image with its class above and the prediction below."""
        return Panel(
            self.image,
            title=self.explanation.true or "",
            note=self.explanation.verdict,
            is_correct=self.explanation.is_correct,
        )


def draw(kind: str, explanation: ImageMaps, image: Pixels, style: DrawStyle) -> Grid:
    """One figure of one image.

    Args:
        kind: one of `PER_IMAGE`.
        image: (H, W, 3) of the whole upright original, of any size.
    Raises:
        ConfigError: the explanation lacks the maps.
    """
    context = FigureContext(explanation, image, style)
    rows = _ROWS[kind](context)
    return Grid(
        rows,
        legend=legend_of_parts(explanation) if kind == "parts" else (),
        scale=None if kind in ("parts", "contour") else scale_of(style, is_signed=explanation.is_signed),
        caption="" if kind == "contour" else caption_of([explanation]),
    )


def draw_cell(
    explanation: ImageMaps,
    image: Pixels,
    style: DrawStyle,
    *,
    as_parts: bool,
    title: str = "",
) -> Panel:
    """One cell of a figure of many images: parts in colours, or the saliency; the prediction below.

    Args:
        image: (H, W, 3) of the whole upright original, of any size.
    """
    context = FigureContext(explanation, image, style)
    pixels = _composite(context) if as_parts else context.overlays({"": context.saliency()})[0].pixels
    lines = outlines(context.placed(context.saliency()), style.percentile) if style.outlined else ()
    return Panel(pixels, title, explanation.verdict, explanation.is_correct, lines)


def scales_of(
    maps: Sequence[Floats], placed: Sequence[Floats] | Floats, style: DrawStyle, shared: tuple[float, float] | None
) -> list[tuple[float, float]]:
    """What becomes 0 and 255 in each of some maps that are shown together: one scale for all, or each its own.

    Args:
        placed: the maps as they are drawn.
        shared: a given scale for all; None takes that of these maps.
    """
    if style.own_scale:
        return [raster.from_zero([cells], [drawn]) for cells, drawn in zip(maps, placed, strict=True)]
    return [shared or raster.from_zero(maps, placed)] * len(maps)


def scale_of(style: DrawStyle, *, is_signed: bool = False) -> tuple[str, str, str]:
    """Colour map and the names of the two ends of the bar, as `Grid.scale`; signed maps are not drawn from 0."""
    whose = "panel" if style.own_scale else "image"
    return style.colours, "lowest" if is_signed else "0", f"most salient, scaled per {whose}"


def caption_of(explanations: Sequence[ImageMaps]) -> str:
    """What the dark frame is; empty where the model saw all of every image."""
    has_frame = any(not raster.seen(one.crop_box, one.size_hw).all() for one in explanations)
    return "dark frame: outside of the model's input" if has_frame else ""


def legend_of_parts(explanation: ImageMaps) -> list[tuple[str, str]]:
    """Colours and names of the parts that are drawn."""
    return list(zip(raster.PART_COLOURS, explanation.maps, strict=False))


def _overlay(context: FigureContext) -> list[PanelRow]:
    title = "saliency" if context.explanation.class_names else context.explanation.target or "saliency"
    return [PanelRow([context.original(), *context.overlays({title: context.saliency()})])]


def _contour(context: FigureContext) -> list[PanelRow]:
    lines = outlines(context.placed(context.saliency()), context.style.percentile)
    title = f"saliency above its {context.style.percentile:g}th percentile"
    return [PanelRow([context.original(), Panel(context.image, title=title, lines=lines)])]


def _parts(context: FigureContext) -> list[PanelRow]:
    shown = list(context.explanation.weighted().items())[: len(raster.PART_COLOURS)]
    placed = context.placed([one for _, one in shown])
    level = _part_levels([one for _, one in shown], placed, context.style)
    alone = []
    for index, (name, _) in enumerate(shown):
        only = np.zeros_like(level)
        only[index] = level[index]
        alone.append(Panel(raster.lay_parts(context.image, only), title=name.replace("_", " ")))
    return [PanelRow([context.original(), Panel(_composite(context), title="all parts"), *alone])]


def _composite(context: FigureContext) -> Pixels:
    """(H, W, 3) the first maps of an image in one colour each."""
    maps = list(context.explanation.weighted().values())[: len(raster.PART_COLOURS)]
    if not maps:
        raise ConfigError(f"there are no maps of parts of {context.explanation.image_id}")
    return raster.lay_parts(context.image, _part_levels(maps, context.placed(maps), context.style))


def _part_levels(maps: Sequence[Floats], placed: Floats, style: DrawStyle) -> Pixels:
    """(K, H, W) 0 to 255: all parts under one scale, which keeps their relative strength, or each under its own."""
    scales = scales_of(maps, placed, style, None)
    return np.stack([raster.levels(one, scale) for one, scale in zip(placed, scales, strict=True)])


def _heads(context: FigureContext) -> list[PanelRow]:
    """A row of all heads and their mean for the predicted class, and one for the true class where it is another."""
    heads_of: dict[str, dict[str, Floats]] = {}
    for name, one in context.explanation.maps.items():
        if match := _HEAD.fullmatch(name):
            heads_of.setdefault(match["whose"] or "", {})[f"head {match['number']}"] = one
    if not heads_of:
        raise ConfigError(f"there are no heads of {context.explanation.image_id}; give its checkpoint")
    if context.explanation.is_correct:
        heads_of.pop("true", None)
    all_heads = [one for heads in heads_of.values() for one in heads.values()]
    bounds = raster.from_zero(all_heads, context.placed(all_heads))
    rows = []
    for whose, heads in heads_of.items():
        panels = context.overlays({**heads, "mean": np.mean(list(heads.values()), axis=0)}, bounds)
        rows.append(PanelRow([context.original(), *panels], label=f"{whose} class".strip() if whose else "class token"))
    return rows


def _classes(context: FigureContext) -> list[PanelRow]:
    """The most probable classes, each with its own map; the true one is marked."""
    if not context.explanation.classes:
        raise ConfigError(f"maps of further classes of {context.explanation.image_id} need the checkpoint")
    classes = context.explanation.classes
    panels = context.overlays({str(rank): one.map for rank, one in enumerate(classes)})
    row = [context.original()]
    for panel, one in zip(panels, classes, strict=True):
        is_true = one.name == context.explanation.true
        note = f"{one.probability:.2f}{', true class' if is_true else ''}"
        row.append(Panel(panel.pixels, one.name, note, is_correct=is_true or None))
    return [PanelRow(row)]


def _layers(context: FigureContext) -> list[PanelRow]:
    """Layer by layer, or the rollout over more and more blocks."""
    layers = {
        _layer_title(match): map_of_layer
        for name, map_of_layer in context.explanation.maps.items()
        if (match := _LAYER.fullmatch(name))
    }
    if not layers:
        raise ConfigError(f"maps of the layers of {context.explanation.image_id} need the checkpoint")
    return [PanelRow([context.original(), *context.overlays(layers)])]


def _layer_title(match: re.Match[str]) -> str:
    if match["layer"]:
        return f"layer {match['layer']}"
    return f"{match['blocks']} block{'' if match['blocks'] == '1' else 's'}"


def _branches(context: FigureContext) -> list[PanelRow]:
    maps = context.explanation.maps
    named = {"self-attention": maps["rollout"], "global-local": maps["glca"], "both (saliency)": context.saliency()}
    return [PanelRow([context.original(), *context.overlays(named)])]


def _patches(context: FigureContext) -> list[PanelRow]:
    if "local_patches" not in context.explanation.maps:
        raise ConfigError(f"the picked patches of {context.explanation.image_id} need the checkpoint")
    picked = context.explanation.maps["local_patches"]
    on = np.nan_to_num(context.placed(picked, "cells")) > 0.5
    title = f"{int((picked > 0.5).sum())} of {picked.size} patches"
    rollout = context.overlays({"self-attention": context.explanation.maps["rollout"]})
    return [PanelRow([context.original(), *rollout, Panel(raster.lay_patches(context.image, on), title=title)])]


_ROWS: dict[str, Callable[[FigureContext], list[PanelRow]]] = {
    "overlay": _overlay,
    "contour": _contour,
    "parts": _parts,
    "heads": _heads,
    "classes": _classes,
    "layers": _layers,
    "branches": _branches,
    "patches": _patches,
}
