"""From settings to tables: looks up the data set by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from attnsearch import plugins
from attnsearch.config.base import register_part
from attnsearch.config.data import DataConfig, DataSettings
from attnsearch.data.tables import DataTables, Listing, build_from_listing, name_problems

S = TypeVar("S", bound=DataSettings)


def list_images(cfg: DataConfig) -> Listing:
    """Finds the images of a data set without opening them; synthetic ones are drawn on first use.

    Raises:
        DataError: the folder is missing or laid out otherwise. Lesser problems stand in `Listing.problems`.
        StoreError: synthetic images cannot be written.
    """
    listing: Listing = plugins.resolve(plugins.find("dataset", cfg.name).build)(cfg)
    return replace(listing, problems=(*listing.problems, *name_problems(listing.images)))


def build_tables(cfg: DataConfig) -> DataTables:
    """The splits of a data set; a missing val split is held out of train, a missing test split stays None.

    Raises:
        DataError: names every problem of the layout and how to solve it.
        StoreError: synthetic images cannot be written.
    """
    return build_from_listing(list_images(cfg), cfg)


def register_dataset(settings: type[S], list_images: Callable[[S], Listing]) -> None:
    """Makes a data set of your own known: `data: {name: …}` then takes its settings everywhere.

    Args:
        settings: a subclass of `DataSettings` with a field such as `name: Literal["mine"] = "mine"`.
        list_images: finds the images without opening them; `attnsearch.data.tables` holds what helps.
    Raises:
        ConfigError: the settings have no name, or another data set has it.
    """
    register_part("dataset", settings, list_images)
