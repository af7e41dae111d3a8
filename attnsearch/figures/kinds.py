"""The figure types: from what a model made of an image to panels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attnsearch import plugins
from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.figures import raster
from attnsearch.figures.panels import Grid, Panel, PanelRow
from attnsearch.figures.raster import PERCENTILE, Floats, Pixels, Rule, outlines

PER_IMAGE = ("overlay", "contour", "parts", "heads", "classes", "layers", "branches", "patches")
PAPER = "paper"
FOR_ALL = ("overlay", "contour", PAPER)
KINDS = (*PER_IMAGE, PAPER)
_HEAD = re.compile(r"(?:layer_\d+/(?P<whose>\w+)/|cls_)head_(?P<number>\d+)")
_LAYER = re.compile(r"layer_(?P<layer>\d+)/predicted/mean|rollout_(?P<blocks>\d+)")
_NEEDED = {"heads": _HEAD, "layers": _LAYER, "patches": re.compile("local_patches")}
"""Figure type -> names of the maps that it shows."""
_RANKS = ("first", "second", "third")


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
        class_names: n_classes names.
        predicted: the most probable class.
        probabilities: (n_classes,) float32; NaN where they are not known: an archive holds that of the predicted class.
        size_hw: of the upright original, in pixels.
        crop_box: (4,) left, top, right, bottom of the model's view in original pixels.
        maps: name -> (h, w), as the model made them.
        norm: (h, w) feature norm, or None.
        saliency: (h, w) of `target`, or None where the model makes none.
        target: the class that is explained.
        true: the class of the image, where it is known.
        classes: the most probable classes with their maps, most probable first, where they were asked for.
    """

    image_id: str
    class_names: tuple[str, ...]
    predicted: str
    probabilities: NDArray[np.float32]
    size_hw: tuple[int, int]
    crop_box: NDArray[np.float64]
    maps: Mapping[str, Floats]
    saliency: Floats | None
    target: str
    norm: Floats | None = None
    true: str | None = None
    classes: Sequence[ClassMap] = ()

    @property
    def confidence(self) -> float:
        """The probability of the predicted class."""
        return float(self.probabilities[self.class_names.index(self.predicted)])

    @property
    def is_correct(self) -> bool | None:
        """Whether the prediction is the true class; None where that is not known."""
        return None if self.true is None else self.predicted == self.true

    @property
    def verdict(self) -> str:
        """The prediction with its probability, `✓` where it is correct and `✗` where it is not."""
        sign = {None: "", True: "✓ ", False: "✗ "}[self.is_correct]
        return f"{sign}{self.predicted} {self.confidence:.2f}"

    def weighted(self) -> dict[str, Floats]:
        """The maps (h, w) times the feature norm, where there is one: what BR-NPA shows."""
        return {name: values if self.norm is None else values * self.norm for name, values in self.maps.items()}


@dataclass(frozen=True)
class DrawStyle:
    """How maps are drawn.

    Attributes:
        percentile: of the outlines.
        colours: a colour map of matplotlib.
        rule: how maps are enlarged.
        own_scale: scales each panel over its own range; else panels of one image share one scale.
        top_q: how many classes `classes` shows.
    """

    percentile: float = PERCENTILE
    colours: str = raster.COLOURS
    rule: Rule = "cubic"
    own_scale: bool = False
    top_q: int = 5


def check_kind(kind: str, model: ModelConfig) -> None:
    """Refuses a kind that the model has no maps for.

    Raises:
        ConfigError: says which families have them.
    """
    if kind in FOR_ALL:
        return
    if kind not in model.figure_kinds:
        settings = {name: plugins.find("model", name).settings for name in plugins.names("model")}
        fitting = " and ".join(name for name, of_name in settings.items() if kind in of_name.figure_kinds)
        raise ConfigError(f"--kind {kind} works with {fitting} only; this model is {model.name}")
    if kind in (missing := model.missing_figures()):
        raise ConfigError(f"--kind {kind} needs {missing[kind]}")


def needs_model(kind: str, map_names: Sequence[str]) -> bool:
    """Whether an archive with these maps does not hold what a kind shows."""
    if kind == "classes":
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
        placed = self.placed(list(maps.values()))
        shared = None if self.style.own_scale else bounds or raster.limits(placed)
        is_seen = raster.seen(self.box, self.size_hw)
        return [
            Panel(
                raster.lay_over(self.image, raster.levels(one, shared), is_seen, colours=self.style.colours),
                title=name,
            )
            for name, one in zip(maps, placed, strict=True)
        ]

    def saliency(self) -> Floats:
        """The one map of the model.

        Raises:
            ConfigError: the model made none.
        """
        if self.explanation.saliency is None:
            raise ConfigError(f"there is no saliency of {self.explanation.image_id}; the model makes no maps")
        return self.explanation.saliency

    def original(self) -> Panel:
        """The image as it is, with its class and the prediction below."""
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
        scale=None if kind in ("parts", "contour") else scale_of(style),
        caption="" if kind == "contour" else caption_of([explanation]),
    )


def draw_cell(
    explanation: ImageMaps,
    image: Pixels,
    style: DrawStyle,
    *,
    as_parts: bool,
    outlined: bool = False,
    title: str = "",
) -> Panel:
    """One cell of a figure of many images: parts in colours, or the saliency; the prediction below.

    Args:
        image: (H, W, 3) of the whole upright original, of any size.
    """
    context = FigureContext(explanation, image, style)
    panel = _composite(context) if as_parts else context.overlays({"": context.saliency()})[0]
    lines = outlines(context.placed(context.saliency()), style.percentile) if outlined else ()
    return Panel(panel.pixels, title, explanation.verdict, explanation.is_correct, lines)


def scale_of(style: DrawStyle) -> tuple[str, str, str]:
    """Colours and names of the ends of the bar."""
    return style.colours, "least", "most salient of each panel" if style.own_scale else "most salient of an image"


def caption_of(explanations: Sequence[ImageMaps]) -> str:
    """Says what the dark frame is, where there is one."""
    has_frame = any(not raster.seen(one.crop_box, one.size_hw).all() for one in explanations)
    return "dark frame: not seen by the model" if has_frame else ""


def legend_of_parts(explanation: ImageMaps) -> list[tuple[str, str]]:
    """Colours and names of the parts that are drawn."""
    n_parts = min(len(explanation.maps), len(raster.PART_COLOURS))
    return [(raster.PART_COLOURS[index], f"{_RANKS[index]} map") for index in range(n_parts)]


def _overlay(context: FigureContext) -> list[PanelRow]:
    return [PanelRow([context.original(), *context.overlays({"saliency": context.saliency()})])]


def _contour(context: FigureContext) -> list[PanelRow]:
    plain = context.original()
    lines = outlines(context.placed(context.saliency()), context.style.percentile)
    title = f"saliency above its {context.style.percentile:g}th percentile"
    return [PanelRow([plain, Panel(context.image, title=title, lines=lines)])]


def _parts(context: FigureContext) -> list[PanelRow]:
    shown = list(context.explanation.weighted().items())[: len(raster.PART_COLOURS)]
    placed = context.placed([one for _, one in shown])
    level = _part_levels(placed, context.style)
    alone = []
    for index, (name, _) in enumerate(shown):
        only = np.zeros_like(level)
        only[index] = level[index]
        alone.append(Panel(raster.lay_parts(context.image, only), title=readable(name)))
    return [PanelRow([context.original(), Panel(_composite(context).pixels, title="all parts"), *alone])]


def _composite(context: FigureContext) -> Panel:
    maps = list(context.explanation.weighted().values())[: len(raster.PART_COLOURS)]
    if not maps:
        raise ConfigError(f"there are no maps of parts of {context.explanation.image_id}")
    return Panel(raster.lay_parts(context.image, _part_levels(context.placed(maps), context.style)))


def _part_levels(placed: Floats, style: DrawStyle) -> Pixels:
    """All parts of an image under one scale, so that their relative strength is kept, unless each asks for its own."""
    if not style.own_scale:
        return raster.levels(placed)
    return np.stack([raster.levels(one) for one in placed])


def _heads(context: FigureContext) -> list[PanelRow]:
    """A row of all heads and their mean: for the predicted class, and for the true one where it is another."""
    heads_of: dict[str, dict[str, Floats]] = {}
    for name, one in context.explanation.maps.items():
        if match := _HEAD.fullmatch(name):
            heads_of.setdefault(match["whose"] or "", {})[f"head {match['number']}"] = one
    if not heads_of:
        raise ConfigError(f"there are no heads of {context.explanation.image_id}; give its checkpoint")
    if context.explanation.is_correct:
        heads_of.pop("true", None)
    bounds = raster.limits(context.placed([one for heads in heads_of.values() for one in heads.values()]))
    rows = []
    for whose, heads in heads_of.items():
        panels = context.overlays({**heads, "mean": np.mean(list(heads.values()), axis=0)}, bounds)
        rows.append(PanelRow([context.original(), *panels], label=f"{whose} class".strip() if whose else "class token"))
    return rows


def _classes(context: FigureContext) -> list[PanelRow]:
    """The classes that the model holds for the likeliest, each with its own map; the true one is marked."""
    if not context.explanation.classes:
        raise ConfigError(f"maps of further classes of {context.explanation.image_id} need the checkpoint")
    panels = context.overlays({str(rank): one.map for rank, one in enumerate(context.explanation.classes)})
    noted = [
        Panel(panel.pixels, title=one.name, note=f"{one.probability:.2f}", is_correct=_is_true(context, one.name))
        for panel, one in zip(panels, context.explanation.classes, strict=True)
    ]
    return [PanelRow([context.original(), *noted])]


def _is_true(context: FigureContext, name: str) -> bool | None:
    return True if name == context.explanation.true else None


def _layers(context: FigureContext) -> list[PanelRow]:
    matches = {name: _LAYER.fullmatch(name) for name in context.explanation.maps}
    layers = {
        f"layer {match['layer']}" if match["layer"] else _blocks(match["blocks"]): name
        for name, match in matches.items()
        if match
    }
    if not layers:
        raise ConfigError(f"maps of the layers of {context.explanation.image_id} need the checkpoint")
    return [
        PanelRow(
            [context.original(), *context.overlays({k: context.explanation.maps[name] for k, name in layers.items()})]
        )
    ]


def _blocks(number: str) -> str:
    return "1 block" if number == "1" else f"{number} blocks"


def _branches(context: FigureContext) -> list[PanelRow]:
    maps = context.explanation.maps
    named = {"self-attention": maps["rollout"], "global-local": maps["glca"], "both (saliency)": context.saliency()}
    return [PanelRow([context.original(), *context.overlays(named)])]


def _patches(context: FigureContext) -> list[PanelRow]:
    if "local_patches" not in context.explanation.maps:
        raise ConfigError(f"the picked patches of {context.explanation.image_id} need the checkpoint")
    picked = context.explanation.maps["local_patches"]
    on = np.nan_to_num(context.placed(picked, "cells")) > 0.5
    title = f"{int(picked.sum())} of {picked.size} patches"
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


def readable(name: str) -> str:
    """`vector_1` as `vector 1`."""
    return name.replace("_", " ")
