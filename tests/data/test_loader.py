"""Batches and what they depend on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from attnsearch.config.data import FolderData, SyntheticData
from attnsearch.config.images import MultiScale
from attnsearch.data import loader
from attnsearch.data.augment import cut
from attnsearch.data.loader import BatchLoader, DataSource, TrainingOrder, crop_boxes, open_data
from attnsearch.data.tables import ImageTable
from attnsearch.data.views import random_views
from attnsearch.errors import DataError
from attnsearch.tasks.base import shuffled as rows_of
from attnsearch.types import IMAGENET_MEAN, IMAGENET_STD, Batch, Split

MakeTree = Callable[..., Path]
PLAIN = {"flip": 0.0, "brightness": 0.0, "saturation": 0.0}


def shuffled(table: ImageTable, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    return rows_of(table, seed=seed, epoch=epoch)


SHUFFLED = TrainingOrder(shuffled, seed=0)


def settings(root: Path, **changes: object) -> FolderData:
    values = {"image_size_px": 16, "crop_ratio": 0.8, **changes}  # 16 of 20 pixels
    return FolderData(root=str(root), **values)  # type: ignore[arg-type]


def batches(
    source: DataSource, cfg: FolderData, *, split: str = "train", batch_size: int = 4, seed: int = 0, epoch: int = 1
) -> list[Batch]:
    made = BatchLoader(
        source.under(cfg),
        split,  # type: ignore[arg-type]
        batch_size=batch_size,
        device="cpu",
        order=TrainingOrder(shuffled, seed) if split == "train" else None,
    )
    return list(made.epoch(epoch))


def batch_with_masks(cfg: FolderData, *, n_images: int) -> Batch:
    """All training images, of which there are so many, and their masks."""
    made = BatchLoader(open_data(cfg), "train", batch_size=n_images, device="cpu", order=SHUFFLED, with_masks=True)
    (batch,) = made.epoch(1)
    return batch


def by_row(found: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(row): image for batch in found for row, image in zip(batch.rows, batch.images, strict=True)}


def denormalised(images: torch.Tensor) -> torch.Tensor:
    return images * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)


def test_evaluation_keeps_file_order_and_the_short_last_batch(small_tree: Path) -> None:
    source = open_data(settings(small_tree))
    found = batches(source, settings(small_tree), split="val", batch_size=3)
    assert [i for batch in found for i in batch.image_ids] == list(source.tables.val.image_ids)
    assert [len(batch.rows) for batch in found] == [3, 1]
    assert torch.cat([batch.labels for batch in found]).tolist() == [0, 0, 1, 1]


def test_evaluation_shows_the_normalised_centre_crop(small_tree: Path) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)
    (batch,) = batches(source, cfg, split="test")
    cached = source.cache.pixels[source.cache.rows(source.tables.of("test"))]
    expected = torch.from_numpy(cached[:, 2:18, 2:18].transpose(0, 3, 1, 2).copy()) / 255
    torch.testing.assert_close(denormalised(batch.images), expected, atol=1e-6, rtol=0)
    assert batch.images.is_contiguous()
    assert batch.images.dtype == torch.float32


def test_training_sees_every_image_once_in_a_new_order_each_epoch(small_tree: Path) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)
    orders = [torch.cat([b.rows for b in batches(source, cfg, batch_size=3, epoch=e)]).tolist() for e in (1, 2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(9))
    assert orders[0] != orders[1]


def test_an_epoch_is_repeated_exactly_from_seed_and_number(small_tree: Path) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)
    first, again = (batches(source, cfg, seed=3, epoch=5) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.image_ids == other.image_ids
        assert torch.equal(one.images, other.images)
    other_seed = batches(source, cfg, seed=4, epoch=5)
    assert [b.image_ids for b in other_seed] != [b.image_ids for b in first]


def test_an_image_looks_the_same_in_batches_of_another_size(small_tree: Path) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)
    small, large = (by_row(batches(source, cfg, batch_size=size)) for size in (3, 9))
    assert len(small) == 9
    for row, image in small.items():
        torch.testing.assert_close(image, large[row], atol=1e-6, rtol=0)


def test_a_row_that_repeats_is_shown_in_several_ways_whatever_the_batches(small_tree: Path) -> None:
    cfg = settings(small_tree, pad_px=4, erase=0.5)
    source = open_data(cfg)

    def repeated(table: object, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        return np.array([2, 5, 2, 0, 2, 5, 1, 1, 8])

    shown = []
    for size in (2, 4, 9):
        made = BatchLoader(source, "train", batch_size=size, device="cpu", order=TrainingOrder(repeated, 0))
        shown.append(torch.cat([batch.images for batch in made.epoch(1)]))
    assert torch.equal(shown[0], shown[2][:8])  # a last batch of one image is left out
    assert torch.equal(shown[1], shown[2][:8])
    different = {tuple(image.flatten().tolist()) for image in shown[2]}
    assert len(different) == 9


def test_labels_and_ids_belong_to_their_images(small_tree: Path) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)
    for batch in batches(source, cfg):
        for row, label, image_id in zip(batch.rows.tolist(), batch.labels.tolist(), batch.image_ids, strict=True):
            assert source.tables.train.image_ids[row] == image_id
            assert source.tables.train.labels[row] == label


def test_a_last_batch_of_one_image_is_left_out_of_training(small_tree: Path) -> None:
    cfg = settings(small_tree)
    made = BatchLoader(open_data(cfg), "train", batch_size=4, device="cpu", order=SHUFFLED)
    assert [len(batch.rows) for batch in made.epoch(1)] == [4, 4]  # 9 images
    assert (made.n_images, len(made)) == (8, 2)


def test_a_split_of_one_image_cannot_be_trained_on(make_tree: MakeTree) -> None:
    cfg = settings(make_tree({"train/a": 1, "train/b": 1, "val/a": 1, "val/b": 1}))
    source = open_data(cfg)
    train = replace(source.tables.train, image_ids=source.tables.train.image_ids[:1])
    lone = replace(source, tables=replace(source.tables, train=train))
    with pytest.raises(DataError, match="train has 1 image"):
        BatchLoader(lone, "train", batch_size=2, device="cpu", order=SHUFFLED)


def test_a_missing_split_is_named(make_tree: MakeTree) -> None:
    cfg = settings(make_tree({"train/a": 3, "train/b": 3}))
    with pytest.raises(DataError, match="no test split"):
        BatchLoader(open_data(cfg), "test", batch_size=2, device="cpu")


def test_a_cache_that_is_too_small_is_refused(small_tree: Path) -> None:
    source = open_data(settings(small_tree))
    with pytest.raises(ValueError, match=r"cache of 20 px \(squash\) cannot serve 40 px"):
        batches(source, settings(small_tree, image_size_px=32))
    with pytest.raises(ValueError, match="crop"):
        batches(source, settings(small_tree, resize="crop"))


def test_a_source_serves_other_augmentation_but_not_another_split(small_tree: Path) -> None:
    source = open_data(settings(small_tree, cache_px=30))
    assert source.serves(settings(small_tree, cache_px=30, image_size_px=20, flip=0.1))
    assert not source.serves(settings(small_tree, cache_px=30, split_seed=2))
    assert not source.serves(settings(small_tree))


def test_a_larger_cache_shows_nearly_the_same_image(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 2, "val/b": 2}, size_hw=(90, 120))
    exact, larger = settings(root, **PLAIN), settings(root, cache_px=53, **PLAIN)
    for split in ("train", "val"):
        one = by_row(batches(open_data(exact), exact, split=split))
        other = by_row(batches(open_data(larger), larger, split=split))
        assert len(one) >= 4
        for row, image in one.items():
            assert (denormalised(image) - denormalised(other[row])).abs().mean() < 0.01


@pytest.mark.parametrize("pad_px", [0, 6])
@pytest.mark.parametrize("cache_px", [None, 33])
def test_masks_take_the_same_crop_and_flip_as_their_images(
    make_tree: MakeTree, cache_px: int | None, pad_px: int
) -> None:
    root = make_tree({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1}, size_hw=(40, 60))
    for index, image in enumerate(sorted(root.rglob("*.jpg"))):
        white = Image.new("L", (60, 40))
        white.paste(255, (10 + index, 5 + index, 40, 30))
        mask = (root / "masks" / image.relative_to(root)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        white.save(mask)
        white.convert("RGB").save(image, quality=95)  # the image is its own mask
    cfg = settings(root, cache_px=cache_px, brightness=0.0, saturation=0.0, pad_px=pad_px)
    batch = batch_with_masks(cfg, n_images=8)
    assert batch.part_masks is not None
    assert (batch.part_masks.shape, batch.part_masks.dtype) == ((8, 16, 16), torch.bool)
    seen = denormalised(batch.images)[:, 1] > 0.5
    assert (seen != batch.part_masks).float().mean() < 0.02


@pytest.mark.parametrize("cache_px", [None, 33])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_mirrored_padded_image_keeps_its_padding_on_the_right(
    make_tree: MakeTree, cache_px: int | None, flip: float
) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}, size_hw=(64, 32))
    halves = Image.new("L", (32, 64))
    halves.paste(255, (0, 0, 16, 64))  # bright on the left
    for image in root.rglob("*.jpg"):
        halves.convert("RGB").save(image, quality=95)
        mask = (root / "masks" / image.relative_to(root)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        halves.save(mask)
    cfg = settings(root, resize="pad", crop_ratio=1.0, cache_px=cache_px, **{**PLAIN, "flip": flip})
    batch = batch_with_masks(cfg, n_images=4)
    assert batch.padding is not None
    assert batch.part_masks is not None
    assert (batch.padding == (torch.arange(16) >= 8)).all()
    assert (batch.images[..., 8:] == 0).all()
    bright = (torch.arange(16) < 4) if flip == 0 else (torch.arange(16) >= 4) & (torch.arange(16) < 8)
    seen = (denormalised(batch.images)[:, 1] > 0.5) & ~batch.padding
    assert (seen == bright).all()
    assert (batch.part_masks == bright).all()


VARIED = {"pad_px": 3, "erase": 0.6, "cell_deletion": 0.4, "brightness": 0.4, "saturation": 0.5}


def plain_images(source: DataSource, cfg: FolderData, rows: np.ndarray, *, seed: int, epoch: int) -> torch.Tensor:
    """What the formulas of the augmentation make of some rows, image by image and plane by plane."""
    views = random_views(source.sizes_hw("train"), cfg, seed=seed, epoch=epoch).take(rows)
    cut_out = cut(source.cache.pixels, source.cache.rows(source.tables.train)[rows], views, cfg)
    shown = []
    for place, pixels in enumerate(cut_out):
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float() / 255
        image = (image * float(views.brightness[place])).clamp(0, 1)
        grey = (image[0] * 0.2989).add(image[1], alpha=0.587).add(image[2], alpha=0.114)
        factor = torch.tensor(views.saturation[place])
        image = (image * factor + grey * (1 - factor)).clamp(0, 1)
        image = (image - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
        if views.erased is not None and views.deleted is not None:
            left, top, right, bottom = views.erased[place]
            rng = np.random.default_rng((views.seeds[place], 1))
            noise = rng.standard_normal((3, bottom - top, right - left), dtype=np.float32)
            image[:, top:bottom, left:right] = torch.from_numpy(noise)
            left, top, right, bottom = views.deleted[place]
            image[:, top:bottom, left:right] = 0.0
        shown.append(image)
    return torch.stack(shown)


@pytest.mark.parametrize("is_resident", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("changes", [{}, VARIED])
def test_an_epoch_shows_what_the_formulas_say_bit_by_bit(
    small_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, object],
    channels_last: bool,
    is_resident: bool,
) -> None:
    if is_resident:
        monkeypatch.setattr(loader, "resident_pixels", lambda array, _device: torch.from_numpy(np.array(array.pixels)))
    cfg = settings(small_tree, **changes)
    source = open_data(cfg)
    made = BatchLoader(source, "train", batch_size=4, device="cpu", order=TrainingOrder(shuffled, 7))
    made.memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for batch in made.epoch(3):
        assert torch.equal(batch.images, plain_images(source, cfg, batch.rows.numpy(), seed=7, epoch=3))
        assert batch.images.is_contiguous(memory_format=made.memory_format)


@pytest.mark.parametrize("split", ["train", "val"])
def test_resident_masks_and_images_are_those_of_the_host(
    make_tree: MakeTree, monkeypatch: pytest.MonkeyPatch, split: Split
) -> None:
    root = make_tree({"train/a": 4, "train/b": 5, "val/a": 3, "val/b": 2}, size_hw=(40, 60))
    for index, image in enumerate(sorted(root.rglob("*.jpg"))):
        mask = (root / "masks" / image.relative_to(root)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        white = Image.new("L", (60, 40))
        white.paste(255, (index, 5, 40, 30))
        white.save(mask)
    source = open_data(settings(root, resize="pad", crop_ratio=1.0, image_size_px=(16, 20), erase=0.5))

    def made() -> list[Batch]:
        order = SHUFFLED if split == "train" else None
        return list(BatchLoader(source, split, batch_size=4, device="cpu", order=order, with_masks=True).epoch(1))

    on_host = made()
    monkeypatch.setattr(loader, "resident_pixels", lambda array, _device: torch.from_numpy(np.array(array.pixels)))
    for one, other in zip(on_host, made(), strict=True):
        for name in ("images", "part_masks", "padding", "labels", "rows"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert one.image_ids == other.image_ids


def white_tree(make_tree: MakeTree) -> Path:
    """White images whose masks show a part everywhere."""
    root = make_tree({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1}, size_hw=(40, 60))
    for image in root.rglob("*.jpg"):
        mask = (root / "masks" / image.relative_to(root)).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (60, 40), 255).save(mask)
        Image.new("RGB", (60, 40), (255, 255, 255)).save(image)
    return root


def test_an_erased_part_is_no_part(make_tree: MakeTree) -> None:
    root = white_tree(make_tree)
    cfg = settings(root, erase=1.0, **PLAIN)
    batch = batch_with_masks(cfg, n_images=8)
    assert batch.part_masks is not None
    is_white = ((denormalised(batch.images) - 1).abs() < 1e-5).all(dim=1)
    assert (is_white == batch.part_masks).all()
    assert (~is_white).any(dim=(1, 2)).all()


def test_a_deleted_cell_has_the_mean_colour_and_no_part(make_tree: MakeTree) -> None:
    root = white_tree(make_tree)
    cfg = settings(root, cell_deletion=1.0, **PLAIN)
    batch = batch_with_masks(cfg, n_images=8)
    assert batch.part_masks is not None
    is_deleted = (batch.images == 0).all(dim=1)
    assert (is_deleted == ~batch.part_masks).all()
    side = batch.images.shape[-1]
    assert (is_deleted.sum(dim=(1, 2)) == (side // 4) ** 2).all()
    (seen,) = BatchLoader(open_data(cfg), "val", batch_size=2, device="cpu").epoch(1)
    assert (seen.images != 0).all()


def test_masks_are_refused_where_there_are_none(small_tree: Path) -> None:
    cfg = settings(small_tree)
    with pytest.raises(DataError, match="no part masks for val"):
        BatchLoader(open_data(cfg), "val", batch_size=2, device="cpu", with_masks=True)


def test_an_error_of_the_reading_thread_reaches_the_consumer(small_tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = settings(small_tree)
    source = open_data(cfg)

    def broken(*_: object) -> None:
        raise OSError(5, "the disk went away")

    monkeypatch.setattr(loader, "cut", broken)
    with pytest.raises(OSError, match="the disk went away"):
        batches(source, cfg)


def test_crop_boxes_are_those_of_the_evaluation_crop(small_tree: Path) -> None:
    # 12 x 16 pixels, 16 of 20 seen: a tenth is cut on each side.
    cfg = settings(small_tree)
    boxes = crop_boxes(open_data(cfg), "val", cfg)
    np.testing.assert_allclose(boxes, [[1.6, 1.2, 14.4, 10.8]] * 4)


@pytest.mark.parametrize("split", ["train", "val"])
def test_padding_is_told_and_has_the_mean_colour(make_tree: MakeTree, split: str) -> None:
    root = make_tree({"train/a": 3, "train/b": 3, "val/a": 1, "val/b": 1}, size_hw=(30, 40))
    scales = MultiScale(shorter_px=(24,), longest_px=64, crop_probability=0.0, crop_from_px=(20,), crop_px=(16, 20))
    cfg = settings(root, image_size_px=32, crop_ratio=1.0, resize="pad", multi_scale=scales)
    (batch, *_) = batches(open_data(cfg), cfg, split=split, batch_size=6)
    if split == "train":  # a batch is as large as its largest image, and here all are alike
        assert batch.images.shape[2:] == (24, 32)
        assert batch.padding is None
        return
    assert batch.padding is not None
    assert batch.images.shape[2:] == (32, 32)
    assert not batch.padding[:, :24].any()
    assert batch.padding[:, 24:].all()
    assert (batch.images[:, :, 24:] == 0).all()


def test_padded_images_keep_their_place(make_tree: MakeTree) -> None:
    root = make_tree({"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}, size_hw=(40, 20))
    cfg = settings(root, image_size_px=32, crop_ratio=1.0, resize="pad", **PLAIN)
    source = open_data(cfg)
    np.testing.assert_array_equal(crop_boxes(source, "val", cfg), [[0, 0, 40, 40]] * 2)  # beyond the right edge
    (batch,) = batches(source, cfg, split="val")
    image = np.asarray(Image.open(source.tables.val.paths[0]).resize((16, 32), Image.Resampling.BILINEAR))
    seen = denormalised(batch.images)[0, :, :, :16].permute(1, 2, 0).numpy() * 255
    np.testing.assert_allclose(seen, image, atol=1.0)


def test_rand_augment_depends_on_the_image_and_the_epoch_alone(small_tree: Path) -> None:
    cfg = settings(small_tree, rand_augment=9, **PLAIN)
    source = open_data(cfg)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    once = by_row(batches(source, cfg, batch_size=9))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(4)
    again, later = by_row(batches(source, cfg, batch_size=3)), by_row(batches(source, cfg, batch_size=9, epoch=2))
    assert all(torch.equal(once[row], again[row]) for row in again)
    assert not all(torch.equal(once[row], later[row]) for row in once)


def test_masks_cannot_follow_rand_augment(make_tree: MakeTree) -> None:
    cfg = SyntheticData(n_classes=2, n_train_per_class=2, n_val_per_class=1, n_test_per_class=1, rand_augment=9)
    with pytest.raises(DataError, match=r"cannot follow data\.rand_augment"):
        BatchLoader(open_data(cfg), "train", batch_size=2, device="cpu", order=SHUFFLED, with_masks=True)
