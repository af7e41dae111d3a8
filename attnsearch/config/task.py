"""What may be written under `task:`."""

from typing import Literal

from pydantic import Field

from attnsearch import plugins
from attnsearch.config.base import Settings


class ClassificationSettings(Settings):
    """Each image has one class."""

    name: Literal["classification"] = Field(default="classification", description="the task")


TaskConfig = ClassificationSettings

plugins.register("task", "classification", "attnsearch.tasks.classification:ClassificationTask")
