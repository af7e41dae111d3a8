"""The command `visualize`, which draws where models looked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attnsearch.cli._console import print_json, print_line
from attnsearch.cli._options import RESULTS, AsJson, Results, Storage
from attnsearch.types import Split

if TYPE_CHECKING:
    from attnsearch.results.visualize import FigureRequest

Words = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE... [KEY=VALUE]...",
        help="Studies or runs (NAME, EXPERIMENT/NAME, NAME:TRIAL) or .safetensors files, and changed settings.",
        show_default=False,
    ),
]
KINDS = "overlay, contour, parts, heads, classes, layers, branches, patches, ranks, pair or paper; may be repeated."
Kinds = Annotated[list[str] | None, typer.Option("--kind", help=KINDS)]
Images = Annotated[list[str] | None, typer.Option("--image", help="An id, a file or a folder; may be repeated.")]
FileFormat = Annotated[str, typer.Option("--format", help="png, jpg, pdf or svg; the last two keep text as text.")]
WIDTH = "Width of one panel in inches; by default 2.2, and 0.85 of ranks."
WithImage = Annotated[
    str, typer.Option("--with", metavar="IMAGE", help="The other image of --kind pair; by default the nearest one.")
]
Method = Annotated[str, typer.Option("--method", help="Maps of --kind pair: occlusion, own, pair or gradient_rollout.")]
WithRemoved = Annotated[
    bool, typer.Option("--with-removed", help="Gallery images of the query's camera and identity too, in grey.")
]
Colours = Annotated[str, typer.Option("--colours", help="A colour map: inferno, plasma, jet and so on.")]


def visualize(
    words: Words,
    kind: Kinds = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="By default the best one.")] = None,
    split: Annotated[Split, typer.Option("--split", help="Which images; test shows the published maps.")] = "val",
    image: Images = None,
    class_name: Annotated[list[str] | None, typer.Option("--class", help="Only this class; may be repeated.")] = None,
    per_class: Annotated[int, typer.Option("--per-class", min=0, help="So many of each class.")] = 0,
    most_faithful: Annotated[int, typer.Option("--most-faithful", min=0, help="So many with the best score.")] = 0,
    least_faithful: Annotated[int, typer.Option("--least-faithful", min=0, help="So many with the worst one.")] = 0,
    by: Annotated[str, typer.Option("--by", metavar="SCORE", help="The score of faithfulness.")] = "relevance_gain",
    confused: Annotated[int, typer.Option("--confused", min=0, help="So many errors of the most confused pair.")] = 0,
    worst: Annotated[int, typer.Option("--worst", min=0, help="So many queries with the lowest AP.")] = 0,
    random: Annotated[tuple[int, int], typer.Option("--random", metavar="N SEED", help="So many by chance.")] = (0, 0),
    with_image: WithImage = "",
    method: Method = "occlusion",
    with_removed: WithRemoved = False,
    to: Annotated[Path | None, typer.Option("--to", metavar="DIR", help="By default figures/ of the results.")] = None,
    file_format: FileFormat = "png",
    dpi: Annotated[int, typer.Option("--dpi", min=20, max=1200, help="Dots per inch.")] = 150,
    width: Annotated[float | None, typer.Option("--width", min=0.3, max=20, help=WIDTH)] = None,
    percentile: Annotated[float, typer.Option("--percentile", min=0.1, max=99.9, help="Of the outlines.")] = 95.0,
    outlines: Annotated[bool, typer.Option("--outlines", help="Draws outlines into the paper's figure.")] = False,
    colours: Colours = "inferno",
    enlarge: Annotated[str, typer.Option("--enlarge", help="cubic, linear, or cells as they are.")] = "cubic",
    own_scale: Annotated[bool, typer.Option("--own-scale", help="Each panel over its own range.")] = False,
    top_q: Annotated[int, typer.Option("--top-q", min=1, help="Classes of --kind classes.")] = 5,
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Draw where models looked: overlays, outlines, parts, heads, layers, ranked galleries, images by methods."""
    from attnsearch.results.visualize import request_figures

    counts = {"per_class": per_class, "most_faithful": most_faithful, "least_faithful": least_faithful, "worst": worst}
    selection = {"images": image or (), "classes": class_name or (), "other": with_image, "by": by, **counts}
    selection |= {"confused": confused, "random": random[0], "seed": random[1]}
    look: dict[str, object] = {"percentile": percentile, "outlined": outlines, "colours": colours, "rule": enlarge}
    look |= {"own_scale": own_scale, "top_q": top_q, "with_removed": with_removed, "method": method}
    style = {"dpi": dpi, "width_in": width, "file_format": file_format}
    request = request_figures(kind, split, selection=selection, look=look, style=style, to=to)
    _draw(words, request, trial=trial, root=results, storage=storage, as_json=as_json)


def _draw(
    words: list[str], request: FigureRequest, *, trial: int | None, root: Path, storage: str | None, as_json: bool
) -> None:
    """Prints one line a file, as soon as it is written."""
    from attnsearch.results.visualize import visualize_all

    sources, overrides = ([word for word in words if ("=" in word) is has_value] for has_value in (False, True))
    for path in visualize_all(sources, trial, request, overrides=overrides, root=root, storage=storage):
        print_json({"file": path}) if as_json else print_line(str(path))
