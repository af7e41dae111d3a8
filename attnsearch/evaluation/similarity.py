"""What makes two images similar, cell by cell and exactly, where an embedding is a sum over the cells of an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel
from attnsearch.tasks.reid import ReidTask
from attnsearch.types import Batch


@torch.no_grad()
def pair_map(inference: InferenceModel, batch: Batch, references: Tensor) -> Tensor:
    """What each cell of an image adds to its cosine with a reference: (B, h, w) float32, signed; the sum is the cosine.

    It is exact in the space of features, which see more of the image than their own cell. Under an average of mirror
    images, a cell counts what it adds in both.

    Args:
        batch: the images (B, 3, H, W).
        references: (B, D) what images are compared by, of any length.
    Raises:
        UsageError: the task compares no images, or the embedding is no sum over cells.
    Source: Stylianou et al. 2019 (arXiv 1901.00536), section 3.
    """
    cells = _unit_cells(inference, batch)  # (B, D, h, w)
    return torch.einsum("bdhw,bd->bhw", cells, F.normalize(references.to(cells)))


@torch.no_grad()
def pair_matrix(inference: InferenceModel, queries: Batch, gallery: Batch) -> Tensor:
    """What each pair of cells of two images adds to their cosine: (B, k, l, m, n) float32, signed; the sum is it.

    Args:
        queries, gallery: B images each, of k x l and m x n cells.
    Raises:
        UsageError: as `pair_map`, which the sum over the cells of the gallery image is.
    """
    first, second = (_unit_cells(inference, batch) for batch in (queries, gallery))  # (B, D, k, l), (B, D, m, n)
    return torch.einsum("bdkl,bdmn->bklmn", first, second)


def _unit_cells(inference: InferenceModel, batch: Batch) -> Tensor:
    """What each cell adds to the embedding of length 1, (B, D, h, w)."""
    if not isinstance(inference.task, ReidTask):
        raise UsageError(
            f"the task {inference.config.task.name!r} compares no images; pair maps need a model of the task 'reid'"
        )
    cells = inference.task.embedding_cells(inference.model, inference.arithmetic.place_images(batch))
    lengths: Tensor = torch.linalg.vector_norm(cells.sum(dim=(2, 3)), dim=1)  # (B,)
    return cells / lengths.clamp_min(torch.finfo(cells.dtype).tiny)[:, None, None, None]
