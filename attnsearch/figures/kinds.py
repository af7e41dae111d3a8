"""The kinds of figures: from what a model made of an image to panels."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attnsearch.config.model import ModelConfig
from attnsearch.errors import ConfigError
from attnsearch.figures import raster
from attnsearch.figures.explanation import Explanation
from attnsearch.figures.panels import Grid, Panel, PanelRow
from attnsearch.figures.raster import PERCENTILE, Floats, Pixels, Rule, outlines

PER_IMAGE = ("overlay", "contour", "parts", "heads", "classes", "layers", "branches", "patches")
PAPER = "paper"
KINDS = (*PER_IMAGE, PAPER)
PART_FAMILIES = ("br_npa", "b_cnn")
_FAMILIES = {
    "parts": PART_FAMILIES,
    "heads": ("intr", "dcal"),
    "classes": ("intr",),
    "layers": ("intr", "dcal"),
    "branches": ("dcal",),
    "patches": ("dcal",),
}
_HEAD = re.compile(r"(?:layer_\d+/(?P<whose>\w+)/|cls_)head_(?P<number>\d+)")
_LAYER = re.compile(r"layer_(?P<intr>\d+)/predicted/mean|rollout_(?P<dcal>\d+)")
_RANKS = ("first", "second", "third")


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
    families = _FAMILIES.get(kind, (model.name,))
    if model.name not in families:
        raise ConfigError(f"--kind {kind} is drawn of {' and '.join(families)}, and this model is {model.name}")
    if kind in ("branches", "patches") and not getattr(model, "has_glca", True):
        variant = getattr(model, "variant", "")
        raise ConfigError(f"--kind {kind} needs DCAL's cross-attention, which the variant {variant} lacks")


def extra_maps(kind: str, settings: ModelConfig, model: Any) -> tuple[str, ...]:
    """Names of the maps that a kind needs beside a family's default ones, those that archives do not hold.

    Args:
        model: the built one, which knows its depth.
    """
    if kind == "layers" and settings.name == "intr":
        return tuple(f"layer_{layer}/predicted/mean" for layer in range(1, model.n_layers + 1))
    if kind == "layers" and settings.name == "dcal":
        return tuple(f"rollout_{block}" for block in range(1, len(model.backbone.blocks) + 1))
    if kind == "heads" and settings.name == "dcal":
        return tuple(f"cls_head_{head}" for head in range(1, model.n_heads + 1))
    return ("local_patches",) if kind == "patches" else ()


def needs_model(kind: str, settings: ModelConfig) -> bool:
    """Whether an archive does not hold what a kind shows."""
    return kind in ("classes", "layers", "patches") or (kind == "heads" and settings.name == "dcal")


@dataclass(frozen=True, eq=False)
class FigureContext:
    """The picture of a subject, and its maps on the pixels of it."""

    subject: Explanation
    picture: Pixels
    look: DrawStyle

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.picture.shape[0], self.picture.shape[1]

    @property
    def box(self) -> NDArray[np.float64]:
        """What the model saw, in pixels of this picture."""
        scale = np.array(self.size_hw) / np.array(self.subject.size_hw)
        box: NDArray[np.float64] = self.subject.crop_box * np.tile(scale[::-1], 2)
        return box

    def placed(self, maps: Sequence[Floats] | Floats, rule: Rule | None = None) -> Floats:
        """(K, H, W), or (H, W) of one map."""
        return raster.place(np.asarray(maps), self.box, self.size_hw, rule or self.look.rule)

    def overlays(self, maps: Mapping[str, Floats], bounds: tuple[float, float] | None = None) -> list[Panel]:
        """A panel for each map, named by its key, under one scale, by default of these maps, or each under its own."""
        placed = self.placed(list(maps.values()))
        shared = None if self.look.own_scale else bounds or raster.limits(placed)
        is_seen = raster.seen(self.box, self.size_hw)
        return [
            Panel(
                raster.lay_over(self.picture, raster.levels(one, shared), is_seen, colours=self.look.colours),
                title=name,
            )
            for name, one in zip(maps, placed, strict=True)
        ]

    def saliency(self) -> Floats:
        """The one map of the model.

        Raises:
            ConfigError: the model made none.
        """
        if self.subject.saliency is None:
            raise ConfigError(f"there is no saliency of {self.subject.wanted.image_id}; the model makes no maps")
        return self.subject.saliency

    def original(self) -> Panel:
        """The picture as it is, with its class and the prediction below."""
        return Panel(
            self.picture, title=self.subject.wanted.true or "", note=self.subject.verdict, is_right=self._right
        )

    @property
    def _right(self) -> bool | None:
        return self.subject.is_right


def draw(kind: str, subject: Explanation, picture: Pixels, look: DrawStyle) -> Grid:
    """One figure of one image.

    Args:
        kind: one of `PER_IMAGE`.
        picture: (H, W, 3) of the whole upright original, of any size.
    Raises:
        ConfigError: the subject lacks the maps.
    """
    canvas = FigureContext(subject, picture, look)
    rows = _ROWS[kind](canvas)
    return Grid(
        rows,
        legend=legend_of_parts(subject) if kind == "parts" else (),
        scale=None if kind in ("parts", "contour") else scale_of(look),
        caption="" if kind == "contour" else caption_of([subject]),
    )


def draw_cell(
    subject: Explanation, picture: Pixels, look: DrawStyle, *, as_parts: bool, outlined: bool = False
) -> Panel:
    """One cell of a paper's figure: parts in colours, or the saliency; the prediction below."""
    canvas = FigureContext(subject, picture, look)
    panel = _composite(canvas) if as_parts else canvas.overlays({"": canvas.saliency()})[0]
    lines = outlines(canvas.placed(canvas.saliency()), look.percentile) if outlined else ()
    return Panel(panel.pixels, note=subject.verdict, is_right=subject.is_right, lines=lines)


def scale_of(look: DrawStyle) -> tuple[str, str, str]:
    """Colours and names of the ends of the bar."""
    return look.colours, "least", "most salient of each panel" if look.own_scale else "most salient of a picture"


def caption_of(subjects: Sequence[Explanation]) -> str:
    """Says what the dark frame is, where there is one."""
    has_frame = any(not raster.seen(one.crop_box, one.size_hw).all() for one in subjects)
    return "dark frame: not seen by the model" if has_frame else ""


def legend_of_parts(subject: Explanation) -> list[tuple[str, str]]:
    """Colours and names of the parts that are drawn."""
    n_parts = min(len(subject.maps), len(raster.PART_COLOURS))
    return [(raster.PART_COLOURS[index], f"{_RANKS[index]} map") for index in range(n_parts)]


def _overlay(canvas: FigureContext) -> list[PanelRow]:
    return [PanelRow([canvas.original(), *canvas.overlays({"saliency": canvas.saliency()})])]


def _contour(canvas: FigureContext) -> list[PanelRow]:
    plain = canvas.original()
    lines = outlines(canvas.placed(canvas.saliency()), canvas.look.percentile)
    title = f"saliency above its {canvas.look.percentile:g}th percentile"
    return [PanelRow([plain, Panel(canvas.picture, title=title, lines=lines)])]


def _parts(canvas: FigureContext) -> list[PanelRow]:
    shown = list(canvas.subject.weighted().items())[: len(raster.PART_COLOURS)]
    placed = canvas.placed([one for _, one in shown])
    level = _part_levels(placed, canvas.look)
    alone = []
    for index, (name, _) in enumerate(shown):
        only = np.zeros_like(level)
        only[index] = level[index]
        alone.append(Panel(raster.lay_parts(canvas.picture, only), title=readable(name)))
    return [PanelRow([canvas.original(), Panel(_composite(canvas).pixels, title="all parts"), *alone])]


def _composite(canvas: FigureContext) -> Panel:
    maps = list(canvas.subject.weighted().values())[: len(raster.PART_COLOURS)]
    if not maps:
        raise ConfigError(f"there are no maps of parts of {canvas.subject.wanted.image_id}")
    return Panel(raster.lay_parts(canvas.picture, _part_levels(canvas.placed(maps), canvas.look)))


def _part_levels(placed: Floats, look: DrawStyle) -> Pixels:
    """All parts of an image under one scale, so that their relative strength is kept, unless each asks for its own."""
    if not look.own_scale:
        return raster.levels(placed)
    return np.stack([raster.levels(one) for one in placed])


def _heads(canvas: FigureContext) -> list[PanelRow]:
    """A row of all heads and their mean: for the predicted class, and for the true one where it is another."""
    found: dict[str, dict[str, Floats]] = {}
    for name, one in canvas.subject.maps.items():
        if match := _HEAD.fullmatch(name):
            found.setdefault(match["whose"] or "", {})[f"head {match['number']}"] = one
    if not found:
        raise ConfigError(f"there are no heads of {canvas.subject.wanted.image_id}; give its checkpoint")
    if canvas.subject.is_right:
        found.pop("true", None)
    bounds = raster.limits(canvas.placed([one for heads in found.values() for one in heads.values()]))
    rows = []
    for whose, heads in found.items():
        panels = canvas.overlays({**heads, "mean": np.mean(list(heads.values()), axis=0)}, bounds)
        rows.append(PanelRow([canvas.original(), *panels], label=f"{whose} class".strip() if whose else "class token"))
    return rows


def _classes(canvas: FigureContext) -> list[PanelRow]:
    """The classes that the model holds for the likeliest, each with its own map; the true one is marked."""
    if not canvas.subject.classes:
        raise ConfigError(f"maps of further classes of {canvas.subject.wanted.image_id} need the checkpoint")
    panels = canvas.overlays({str(rank): one.map for rank, one in enumerate(canvas.subject.classes)})
    noted = [
        Panel(panel.pixels, title=one.name, note=f"{one.probability:.2f}", is_right=_is_true(canvas, one.name))
        for panel, one in zip(panels, canvas.subject.classes, strict=True)
    ]
    return [PanelRow([canvas.original(), *noted])]


def _is_true(canvas: FigureContext, name: str) -> bool | None:
    return True if name == canvas.subject.wanted.true else None


def _layers(canvas: FigureContext) -> list[PanelRow]:
    matches = {name: _LAYER.fullmatch(name) for name in canvas.subject.maps}
    layers = {
        f"layer {match['intr']}" if match["intr"] else f"{match['dcal']} block{'s' * (match['dcal'] != '1')}": name
        for name, match in matches.items()
        if match
    }
    if not layers:
        raise ConfigError(f"maps of the layers of {canvas.subject.wanted.image_id} need the checkpoint")
    return [
        PanelRow([canvas.original(), *canvas.overlays({k: canvas.subject.maps[name] for k, name in layers.items()})])
    ]


def _branches(canvas: FigureContext) -> list[PanelRow]:
    maps = canvas.subject.maps
    named = {"self-attention": maps["rollout"], "global-local": maps["glca"], "both (saliency)": canvas.saliency()}
    return [PanelRow([canvas.original(), *canvas.overlays(named)])]


def _patches(canvas: FigureContext) -> list[PanelRow]:
    if "local_patches" not in canvas.subject.maps:
        raise ConfigError(f"the picked patches of {canvas.subject.wanted.image_id} need the checkpoint")
    picked = canvas.subject.maps["local_patches"]
    on = np.nan_to_num(canvas.placed(picked, "cells")) > 0.5
    title = f"{int(picked.sum())} of {picked.size} patches"
    rollout = canvas.overlays({"self-attention": canvas.subject.maps["rollout"]})
    return [PanelRow([canvas.original(), *rollout, Panel(raster.lay_patches(canvas.picture, on), title=title)])]


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
