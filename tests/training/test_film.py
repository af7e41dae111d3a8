"""The film strip: which images it shows, and that its frames are the saliency of validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from attnsearch.data.loader import DataSource
from attnsearch.evaluation.base import ModelOnData
from attnsearch.store.film import read_film_frame, read_film_images
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.film import FilmFrame, film_rows
from attnsearch.training.trainer import fit
from attnsearch.types import AttentionOutput, Batch, HeadOutput
from tests.tiny import ConfigMaker, RecordingContext


class Flat:
    """A family whose saliency is its only map."""

    def saliency(self, output: AttentionOutput, target: torch.Tensor) -> torch.Tensor:
        assert output.maps is not None
        return output.maps[:, 0]


def part(rows: list[int], *, has_maps: bool = True) -> tuple[Batch, AttentionOutput]:
    """A batch whose maps (2, 2) hold the row of each image."""
    numbers = torch.tensor(rows)
    batch = Batch(torch.zeros(len(rows), 3, 4, 4), numbers, tuple(map(str, rows)), numbers)
    maps = numbers.float()[:, None, None, None].expand(-1, 1, 2, 2)
    return batch, AttentionOutput(HeadOutput(torch.zeros(len(rows), 2)), maps=maps if has_maps else None)


def written(frame: FilmFrame, folder: Path) -> np.ndarray:
    frame.writer(TrialLayout(folder), 1)(lambda: None)
    return read_film_frame(TrialLayout(folder), 1, 3)


def test_a_frame_holds_its_images_in_its_own_order(tmp_path: Path) -> None:
    frame, model = FilmFrame([5, 0, 3]), Flat()
    for rows in ([0, 1, 2], [3, 4, 5]):
        frame.add(*part(rows), model)  # type: ignore[arg-type]
    np.testing.assert_array_equal(written(frame, tmp_path)[:, 0, 0], [5, 0, 3])


def test_ranks_add_up_to_the_whole_frame(tmp_path: Path) -> None:
    ranks = [FilmFrame([5, 0, 3]) for _ in range(2)]
    for frame, rows in zip(ranks, ([0, 1, 2], [3, 4, 5]), strict=True):
        frame.add(*part(rows), Flat())  # type: ignore[arg-type]
    ranks[0].load({name: tensor + ranks[1].sums()[name] for name, tensor in ranks[0].sums().items()})
    np.testing.assert_array_equal(written(ranks[0], tmp_path)[:, 1, 1], [5, 0, 3])


def test_a_family_without_maps_leaves_no_frame(tmp_path: Path) -> None:
    frame = FilmFrame([0])
    frame.add(*part([0, 1], has_maps=False), Flat())  # type: ignore[arg-type]
    frame.writer(TrialLayout(tmp_path), 1)(lambda: None)
    assert TrialLayout(tmp_path).film_epochs() == []


@pytest.fixture(scope="module")
def trained(tiny_config: ConfigMaker, data: DataSource, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trial of two epochs, and its folder."""
    context = RecordingContext(tmp_path_factory.mktemp("film"))
    return fit(tiny_config(train={"epochs": 2}), context, data=data), TrialLayout(context.directory)


def test_the_frame_of_the_best_epoch_is_what_evaluation_shows(trained: Any, data: DataSource) -> None:
    result, layout = trained
    images, rows = read_film_images(layout), film_rows(data.tables.val)
    assert [image.image_id for image in images] == [data.tables.val.image_ids[row] for row in rows]
    assert {image.class_name for image in images} == {"blue", "red"}
    opened = ModelOnData.open(layout.best, data)
    batch = opened.loader("val").batch(np.array(rows))
    with torch.no_grad():
        output = opened.output(batch)
        expected = opened.model.saliency(output, output.logits.argmax(dim=1))
    frame = read_film_frame(layout, result.best_epoch, len(rows))
    np.testing.assert_allclose(frame, expected.numpy(), rtol=2e-3, atol=1e-4)
