"""The film strip: the saliency of a few validation images after each epoch, out of the maps that validation computes.

It costs no forward pass and draws no random number, so that a trial computes the same with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from attnsearch.data.fixed_rows import spread_rows
from attnsearch.data.loader import DataSource, crop_boxes
from attnsearch.data.tables import ImageTable
from attnsearch.data.transfer import HostCopy
from attnsearch.files import Check
from attnsearch.models.base import AttentionModel
from attnsearch.store.film import FilmImage, write_film_frame, write_film_images
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.types import AttentionOutput, Batch

N_IMAGES = 8


def film_rows(table: ImageTable) -> list[int]:
    """The validation images that the film of every trial shows, of as many classes as it can."""
    return spread_rows(table, N_IMAGES)


class FilmFrame:
    """The saliency after one epoch, which grows batch by batch; on several devices each rank has its batches.

    Args:
        rows: of the validation split, in the order of the frame; see `film_rows`.
    """

    def __init__(self, rows: Sequence[int]) -> None:
        self._place_of = {row: place for place, row in enumerate(rows)}
        self._saliency: Tensor | None = None  # (n_images, h, w) float32 on the device

    @torch.no_grad()
    def add(self, batch: Batch, output: AttentionOutput, model: AttentionModel) -> None:
        """Takes the images of the film out of a batch; nothing where the family makes no maps."""
        found = [(index, self._place_of[row]) for index, row in enumerate(batch.rows.tolist()) if row in self._place_of]
        if not found or output.maps is None:
            return
        saliency = model.saliency(output, output.logits.argmax(dim=1)).float()  # (B, h, w)
        if self._saliency is None:
            self._saliency = saliency.new_zeros(len(self._place_of), *saliency.shape[1:])
        for index, place in found:
            self._saliency[place] = saliency[index]

    def sums(self) -> dict[str, Tensor]:
        """What adds up over ranks to the whole frame."""
        return {} if self._saliency is None else {"saliency": self._saliency}

    def load(self, sums: Mapping[str, Tensor]) -> None:
        """Puts the whole frame in the place of its own part."""
        self._saliency = sums.get("saliency")

    def writer(self, trial: TrialLayout, epoch: int) -> Callable[[Check], None]:
        """What writes the frame, in another thread; a GPU copies it without anybody waiting here."""
        if self._saliency is None:
            return lambda check: None
        copy = HostCopy({"saliency": self._saliency})
        return lambda check: write_film_frame(trial, epoch, copy.read()["saliency"].numpy(), check=check)


def start_film(trial: TrialLayout, data: DataSource, *, check: Check) -> None:
    """Writes which images the film of a trial shows, unless that is known.

    Args:
        data: under the settings of the trial.
    Raises:
        StoreError: the disk refuses.
    """
    if trial.film_images.exists():
        return
    table, sizes_hw, boxes = data.tables.val, data.sizes_hw("val"), crop_boxes(data, "val", data.cfg)
    images = [
        FilmImage(
            image_id=table.image_ids[row],
            class_name=table.class_names[table.labels[row]],
            size_hw=(int(sizes_hw[row][0]), int(sizes_hw[row][1])),
            crop_box=tuple(boxes[row].tolist()),
        )
        for row in film_rows(table)
    ]
    write_film_images(trial, images, check=check)
