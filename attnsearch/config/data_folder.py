"""Names an experiment by the folder of its data, so that each data set gets results of its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Self

from pydantic import model_validator

from attnsearch.config.base import Settings
from attnsearch.config.images import DataSettings

AUTO = "auto"
_OTHER_SIGNS = re.compile(r"[^A-Za-z0-9_.-]+")
_LONGEST = 100


class NamedByFolder(Settings):
    """Settings whose `experiment` may be `auto`, the name of the folder or list that `data.root` is."""

    if TYPE_CHECKING:

        @property
        def experiment(self) -> str:
            """The folder of results."""

        @property
        def data(self) -> DataSettings:
            """The data set."""

    @model_validator(mode="after")
    def _take_name(self) -> Self:
        if self.experiment == AUTO:  # set once, before anybody has the settings, which are frozen from then on
            object.__setattr__(self, "experiment", name_of_data(self.data) or AUTO)
        return self


def name_of_data(data: DataSettings) -> str:
    """The name of a data set's folder, or of its list without the ending, in signs that an experiment may have.

    A data set without a root has its own name. Empty where nothing can be said.
    """
    path = None if data.root_path is None else data.root_path.absolute()
    name = data.name if path is None else path.stem if path.suffix.lower() == ".csv" else path.name
    return _OTHER_SIGNS.sub("_", name).lstrip("-.")[:_LONGEST]
