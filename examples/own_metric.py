"""A metric of one's own: how much of the saliency lies in the half of the image that shows most of it.

`python examples/own_metric.py` trains a small model and prints the metric of each image. With
`--plugin examples/own_metric.py` a study may optimise `val/half_focus` or limit it, if its `evaluation.scores.families`
names the group `focus`.
"""

import torch
from torch import Tensor

import attnsearch as at


def half_focus(case: at.SaliencyCase) -> Tensor:
    """(B,) in [0.5, 1]: the larger of the fractions of the saliency in the left and in the right half; NaN where 0."""
    columns = case.saliency.sum(dim=1)  # (B, w)
    width = columns.shape[1]
    is_left = (width / 2 - torch.arange(width, device=columns.device)).clamp(
        0, 1
    )  # (w,) 0.5 for a column in the middle
    left = (columns * is_left).sum(dim=1) / columns.sum(dim=1)  # (B,)
    return torch.maximum(left, 1 - left)


at.register_metric(
    at.Metric(
        "half_focus",
        group="focus",
        summary="fraction of the saliency in the half of the image, left or right, that has more of it",
        range=(0.5, 1.0),
    ),
    half_focus,
)

if __name__ == "__main__":
    trial = at.run_training(
        {
            "name": "focus",
            "experiment": "examples",
            "data": {"name": "synthetic", "n_classes": 2, "n_train_per_class": 16, "image_size_px": 48},
            "model": {"name": "cnn", "backbone": "resnet10t", "width": 0.25},
            "train": {"epochs": 2, "batch_size": 8},
            "evaluation": {"n_images": 8, "scores": {"families": ["focus"]}},
        },
        plugins=[__file__],
    )
    print(trial.scores("val"))
