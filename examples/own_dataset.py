"""A data set of one's own: images whose class stands in their file name, such as `wren_17.png`.

`python examples/own_dataset.py` draws some and trains a small model on them. With `--plugin examples/own_dataset.py`
every command knows it, and `data: {name: named_files, root: FOLDER}` works in every config.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import Field

import attnsearch as at


class NamedFiles(at.RootedData):
    """A folder `root` of images named CLASS_NUMBER.png."""

    name: Literal["named_files"] = Field("named_files", description="images named CLASS_NUMBER.png")
    test_from: int = Field(20, ge=1, description="images of this number or a larger one are for testing")


def list_images(cfg: NamedFiles) -> at.Listing:
    """The images; validation images are held out of those for training."""
    root = cfg.root_path.absolute()
    images = []
    for path in root.glob("*_*.png"):
        label, number = path.stem.rsplit("_", 1)
        split: at.Split = "test" if int(number) >= cfg.test_from else "train"
        images.append(at.ListedImage(split, label, path.name, path))
    return at.Listing.of(root, images)


at.register_dataset(NamedFiles, list_images=list_images)


def draw(folder: Path) -> None:
    """24 images of each of two classes: a red or a blue square on noise."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        for channel, label in ((0, "red"), (2, "blue")):
            pixels = rng.integers(90, 160, (48, 48, 3), dtype=np.uint8)
            top, left = rng.integers(0, 32, 2)
            pixels[top : top + 16, left : left + 16] = 20
            pixels[top : top + 16, left : left + 16, channel] = 230
            Image.fromarray(pixels).save(folder / f"{label}_{number}.png")


if __name__ == "__main__":
    draw(Path("squares"))
    trial = at.run_training(
        {
            "name": "squares",
            "experiment": "examples",
            "data": {"name": "named_files", "root": "squares", "image_size_px": 48},
            "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25},
            "train": {"epochs": 2, "batch_size": 8},
            "evaluation": {"n_images": 8, "scores": {"families": []}},
        },
        plugins=[__file__],
    )
    print(trial.metrics)
