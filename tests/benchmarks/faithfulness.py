"""Deletion and insertion of a ResNet-50 at 224 px, 14 x 14 map: in batches, against one image and one step at a time.

    python tests/benchmarks/faithfulness.py --photos FOLDER

The published way masks one image at one step, classifies it alone, and continues. Ours gives the same numbers. Then
what the other metrics cost beside deletion and insertion. `--photos` takes the first images below a folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import Tensor

from attnsearch.data.augment import normalise
from attnsearch.data.images import decode_resized
from attnsearch.device import Arithmetic, pick_device
from attnsearch.geometry import Resizing
from attnsearch.metrics.faithfulness import relevance_gain_of
from attnsearch.metrics.perturbation import RemovalSettings, SaliencyCase
from attnsearch.metrics.registry import score_metrics
from attnsearch.metrics.removal import area, curve_fractions, removal_ranks, removed_counts, upscale_cells

SIDE_PX, GRID = 224, 14


def read_photos(folder: Path, n_images: int) -> Tensor:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:n_images]
    pixels = [torch.from_numpy(decode_resized(path, Resizing((SIDE_PX, SIDE_PX), "crop"))[0].copy()) for path in paths]
    return normalise(torch.stack(pixels).permute(0, 3, 1, 2).float().div_(255).contiguous())


def make_predict(arithmetic: Arithmetic) -> Callable[[Tensor], Tensor]:
    torch.manual_seed(0)
    model = arithmetic.place_model(timm.create_model("resnet50", pretrained=False, num_classes=200)).eval()

    @torch.no_grad()
    def predict(images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last) if arithmetic.channels_last else images
        with arithmetic.autocast():
            logits = model(images)
        return (30 * (logits.float() - logits.float().mean(dim=1, keepdim=True))).softmax(dim=1)

    return predict


def one_by_one(
    predict: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, target: Tensor, n_steps: int
) -> Tensor:
    """(N, 2) areas of deletion and insertion, the mean colour as fill."""
    counts, fractions = removed_counts(GRID * GRID, n_steps), curve_fractions(saliency, n_steps)
    areas = []
    for image, ranks, label in zip(images, removal_ranks(saliency), target, strict=True):
        ranks_px = upscale_cells(ranks[None], (SIDE_PX, SIDE_PX))[0].to(image.device)
        curves = torch.empty(2, len(counts))
        for step, count in enumerate(counts.tolist()):
            is_gone = (ranks_px < count)[None]
            for row, masked in enumerate((image.masked_fill(is_gone, 0.0), image.masked_fill(~is_gone, 0.0))):
                curves[row, step] = predict(masked[None])[0, label].cpu()
        areas.append(area(curves, fractions.cpu()))
    return torch.stack(areas)


def in_batches(
    predict: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, target: Tensor, n_steps: int, size: int
) -> Tensor:
    settings = RemovalSettings(n_steps=n_steps, batch_images=size)
    case = SaliencyCase.of_class(predict, images, saliency, target, settings)
    return torch.stack([case.area("deletion"), case.area("insertion")], dim=1).cpu()


def complete_set(
    predict: Callable[[Tensor], Tensor], images: Tensor, saliency: Tensor, target: Tensor, n_steps: int, size: int
) -> None:
    """Deletion, insertion, both gains, correlations, a random order, average drop, ROAD, and the gain under a blur."""
    settings = RemovalSettings(n_steps=n_steps, batch_images=size)
    case = SaliencyCase.of_class(predict, images, saliency, target, settings)
    groups = ("faithfulness", "correlation", "average_drop", "road")
    for metric in score_metrics():
        if metric.group in groups:
            metric.function(case)
    case.curve("deletion", "blur")


def timed(work: Callable[[], object]) -> tuple[float, object]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--steps", type=int, default=49)
    parser.add_argument("--batch-images", type=int, default=32)
    arguments = parser.parse_args()
    device, n_steps, size = pick_device("auto"), arguments.steps, arguments.batch_images
    images = read_photos(arguments.photos, arguments.images).to(device)
    saliency = torch.rand(len(images), GRID, GRID, generator=torch.Generator().manual_seed(1)).to(device)
    print(
        f"resnet50, {len(images)} photographs of {SIDE_PX} px, {n_steps} steps, {device}, "
        f"{torch.get_num_threads()} threads"
    )
    plain = make_predict(Arithmetic(device, "fp32", channels_last=False))
    target = torch.cat([plain(image[None]).argmax(dim=1) for image in images])
    plain_s, expected = timed(lambda: one_by_one(plain, images, saliency, target, n_steps))
    print(f"one image, one step at a time, fp32: {plain_s:.1f} s")
    for precision in ("fp32", "bf16"):
        predict = make_predict(Arithmetic(device, precision, channels_last=True))
        seconds, found = timed(lambda: in_batches(predict, images, saliency, target, n_steps, size))  # noqa: B023
        error = (found - expected).abs()
        print(
            f"in batches of {size}, {precision}: {seconds:.1f} s, {plain_s / seconds:.2f} times as fast; "
            f"areas differ by ",
            end="",
        )
        print(f"{float(error.mean()):.1e} on average, at most {float(error.max()):.1e}")
        settings = RemovalSettings(n_steps=n_steps, batch_images=size)
        case = SaliencyCase.of_class(predict, images, saliency, target, settings)
        gain_s, _ = timed(lambda: relevance_gain_of(case))  # noqa: B023
        all_s, _ = timed(lambda: complete_set(predict, images, saliency, target, n_steps, size))  # noqa: B023
        print(
            f"  relevance gain {gain_s / seconds:.2f}, the complete set {all_s / seconds:.2f} times "
            "deletion and insertion"
        )


if __name__ == "__main__":
    main()
