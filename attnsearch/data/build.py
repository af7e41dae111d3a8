"""From settings to tables: the one place that tells data sets apart."""

from __future__ import annotations

from dataclasses import replace

from attnsearch.config.data import CubData, DataConfig, FolderData, SyntheticData, TorchvisionData
from attnsearch.data import cub, folder
from attnsearch.data.synthetic import dataset
from attnsearch.data.tables import DataTables, Listing, build_from_listing, name_problems


def list_images(cfg: DataConfig, *, progress: bool = False) -> Listing:
    """Finds the images of a data set without opening them; synthetic ones are drawn on first use.

    Raises:
        DataError: the folder is missing or laid out otherwise. Lesser faults stand in `Listing.problems`.
        StoreError: synthetic pictures cannot be written.
    """
    listing = _listed(cfg, progress=progress)
    return replace(listing, problems=(*listing.problems, *name_problems(listing.images)))


def _listed(cfg: DataConfig, *, progress: bool) -> Listing:
    match cfg:
        case SyntheticData():
            return dataset.list_images(cfg, progress=progress)
        case FolderData():
            return folder.list_images(cfg)
        case CubData():
            return cub.list_images(cfg)
        case TorchvisionData():
            from attnsearch.data import torchvision_sets  # imports torch

            return torchvision_sets.list_images(cfg)


def build_tables(cfg: DataConfig, *, progress: bool = False) -> DataTables:
    """The splits of a data set; a missing val split is held out of train, a missing test split stays None.

    Raises:
        DataError: names every fault of the layout and how to mend it.
        StoreError: synthetic pictures cannot be written.
    """
    return build_from_listing(list_images(cfg, progress=progress), cfg)
