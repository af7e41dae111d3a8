"""Identities made of photographs under made-up cameras: mAP of a small network beside that of colour histograms.

    python tests/benchmarks/composed_identities.py FOLDER

Each photograph below FOLDER is one identity. Three data sets of growing difficulty are written to a temporary folder,
named like Market-1501, and read as `reid_folder`:

    colour     each camera has a gain, a tint and a blur of its own
    view       and mirrors or not, and each image is cropped, scaled and turned at random
    occluded   and a stripe of another photograph covers a part of each image

One network is trained on each from random weights; test identities are never trained on.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps

import attnsearch as at
from attnsearch.config.load import load_experiment
from attnsearch.data.images import decode_resized
from attnsearch.data.loader import BatchLoader, open_data
from attnsearch.geometry import Resizing
from attnsearch.tasks.floors import histogram_features
from attnsearch.tasks.retrieval import rank_split

LEVELS = ("colour", "view", "occluded")
SIDE = 96


def photographs(folder: Path, n_images: int) -> list[Image.Image]:
    """The first photographs of a folder in a fixed random order, squares of twice the side of the data set."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if len(paths) < n_images:
        raise SystemExit(f"{folder} has {len(paths)} photographs, {n_images} are needed")
    chosen = np.random.default_rng(0).permutation(len(paths))[:n_images]
    pixels = (decode_resized(paths[index], Resizing((2 * SIDE, 2 * SIDE), "crop"))[0] for index in chosen)
    return [Image.fromarray(image) for image in pixels]


def seen_by(photo: Image.Image, other: Image.Image, camera: int, level: int, rng: np.random.Generator) -> Image.Image:
    """An image of a photograph under a camera, at a level of difficulty."""
    of_camera = np.random.default_rng((7, camera))
    gain, blur, is_mirrored = of_camera.uniform(0.7, 1.3), of_camera.uniform(0, 1.2), camera % 2 == 1
    tint = of_camera.uniform(0.8, 1.2, 3)
    if level >= 1:
        photo = ImageOps.mirror(photo) if is_mirrored else photo
        turned = photo.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
        side = int(2 * SIDE * rng.uniform(0.65, 0.95))
        left, top = (int(rng.integers(0, 2 * SIDE - side + 1)) for _ in range(2))
        photo = turned.crop((left, top, left + side, top + side))
    image = photo.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if level >= 2:
        width = int(SIDE * rng.uniform(0.15, 0.35))
        stripe = other.resize((SIDE, SIDE)).crop((0, 0, width, SIDE))
        image.paste(stripe, (int(rng.integers(0, SIDE - width + 1)), 0))
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float64) * gain * tint
    pixels += rng.normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_set(folder: Path, photos: list[Image.Image], level: int, args: argparse.Namespace) -> None:
    """A data set in the folders and names of Market-1501: the last identities are test, one query for each camera."""
    n_train = args.identities - args.test_identities
    for identity, photo in enumerate(photos):
        for camera in range(args.cameras):
            for index in range(args.per_camera):
                rng = np.random.default_rng((level, identity, camera, index))
                split = "bounding_box_train"
                if identity >= n_train:
                    split = "query" if index == 0 else "bounding_box_test"
                path = folder / split / f"{identity + 1:04d}_c{camera + 1}s1_{index:06d}_00.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                other = photos[int(rng.integers(len(photos)))]
                seen_by(photo, other, camera, level, rng).save(path, quality=92)


def histogram_map(folder: Path) -> float:
    """mAP of colour histograms on the test split."""
    overrides = [f"data.root={folder}", f"data.image_size_px={SIDE}"]
    data = open_data(load_experiment("cnn_market1501", profile="photos", overrides=overrides).data)
    loader = BatchLoader(data, "test", batch_size=64, device="cpu")
    features = torch.cat([histogram_features(batch.images) for batch in loader.epoch(1)])
    return rank_split(data.tables.of("test"), features.numpy(), distance="cosine")[1]["mAP"]


def trained_metrics(folder: Path, name: str, args: argparse.Namespace) -> dict[str, float]:
    """Test metrics of the network that is trained on the set."""
    overrides = {
        **{"name": name, "data.root": str(folder), "data.image_size_px": SIDE, "train.epochs": args.epochs},
        **{"model.width": 0.5, "train.optimizer.lr": 3e-3, "runtime.device": "cpu", "evaluation.scores.families": []},
    }
    trial = at.run_training("cnn_market1501", profile="photos", overrides=overrides, results=folder / "results")
    return trial.model(device="cpu").evaluate("test")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--identities", type=int, default=160)
    parser.add_argument("--test-identities", type=int, default=40)
    parser.add_argument("--cameras", type=int, default=4)
    parser.add_argument("--per-camera", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    photos = photographs(args.photographs, args.identities)
    print(f"{args.identities} photographs, {args.test_identities} of them test, {args.cameras} cameras")
    print("level      mAP     rank-1  histogram mAP  seconds")
    with tempfile.TemporaryDirectory() as folder:
        for level, name in enumerate(LEVELS):
            start = time.perf_counter()
            write_set(Path(folder, name), photos, level, args)
            found = trained_metrics(Path(folder, name), name, args)
            floor = histogram_map(Path(folder, name))
            seconds = time.perf_counter() - start
            print(f"{name:9}  {found['test/mAP']:.3f}   {found['test/rank1']:.3f}   {floor:.3f}          {seconds:.0f}")


if __name__ == "__main__":
    main()
