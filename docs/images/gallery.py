"""The images of the documentation that show maps, from one trial of each family on synthetic birds of 192 px.

    for name in br_npa_high_res loupe cnn intr_cub dcal; do
        attnsearch search $name --profile demo --workers 1 n_trials=1 experiment=gallery data.image_size_px=192 \\
            evaluation.scores.n_images=64
    done
    python docs/images/gallery.py results/gallery

`hero.png` has one bird of the test split under four families, with the accuracy of each on validation and the relevance
gain of its maps; the other files have the maps of one family, two birds each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import attnsearch as at
from attnsearch.figures.explanation import Explanation

HERE = Path(__file__).parent
HERO = {"br_npa_high_res": "BR-NPA", "loupe": "The Loupe", "cnn": "CNN", "intr_cub": "INTR"}
FAMILIES = {
    "br_npa": ("br_npa_high_res", "parts"),
    "loupe": ("loupe", "overlay"),
    "intr": ("intr_cub", "heads"),
    "dcal": ("dcal", "branches"),
}
INK, FAINT = "#1f2328", "#59636e"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder of the experiment")
    parser.add_argument("--images", type=int, nargs="+", default=(57, 130), help="rows of the test split")
    parser.add_argument("--to", type=Path, default=HERE)
    arguments = parser.parse_args()
    results = at.load_results(arguments.results)
    trials = {name: results.study(name).best for name in (*HERO, "dcal")}
    birds = [bird_of(trials["cnn"], row) for row in arguments.images]
    explained = {name: trial.model().explain(birds) for name, trial in trials.items()}
    draw_hero(trials, {name: explained[name][0] for name in HERO}).savefig(arguments.to / "hero.png", dpi=200)
    for name, (study, kind) in FAMILIES.items():
        stack([one.save(arguments.to / f"{name}_{i}.png", kind, dpi=130) for i, one in enumerate(explained[study])])


def bird_of(trial: at.TrialReader, row: int) -> Path:
    """The file of an image of the test split, by its row in the archive."""
    image_id = trial.images("test").index[row]
    path = trial.original(image_id, "test")
    if path is None:
        raise SystemExit(f"{image_id}: the data set of {trial.name} is no longer there")
    return path


def draw_hero(trials: dict[str, at.TrialReader], explained: dict[str, Explanation]) -> Figure:
    """The bird, and beside it its map under each family."""
    figure = Figure(figsize=(9.6, 2.75), facecolor="white")
    axes = figure.subplots(1, 1 + len(explained), gridspec_kw={"wspace": 0.06})
    figure.subplots_adjust(left=0.008, right=0.992, top=0.99, bottom=0.26)
    for one in axes:
        one.set_axis_off()
    first = next(iter(explained.values()))
    axes[0].imshow(first.image)
    caption(axes[0], "Image", "of 8 classes of birds", "")
    for one, (name, explanation) in zip(axes[1:], explained.items(), strict=True):
        explanation.plot(ax=one)
        one.set_title("")
        metrics = trials[name].metrics
        gain = f"relevance gain {metrics['val/relevance_gain']:.2f}"
        caption(one, HERO[name], f"accuracy {metrics['val/accuracy']:.3f}", gain)
    return figure


def caption(axes: Axes, title: str, *lines: str) -> None:
    style = {"transform": axes.transAxes, "ha": "center", "va": "top"}
    axes.text(0.5, -0.05, title, fontsize=11, fontweight="bold", color=INK, **style)
    for number, line in enumerate(lines):
        axes.text(0.5, -0.17 - 0.105 * number, line, fontsize=9.5, color=FAINT, **style)


def stack(paths: list[Path]) -> None:
    """One image of several, one above the other, in place of the files."""
    images = [Image.open(path).convert("RGB") for path in paths]
    whole = Image.new("RGB", (max(one.width for one in images), sum(one.height for one in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    whole.save(paths[0].with_name(paths[0].name.replace("_0.png", ".png")), optimize=True)
    for path in paths:
        path.unlink()


if __name__ == "__main__":
    main()
