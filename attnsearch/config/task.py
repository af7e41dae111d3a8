"""What may be written under `task:`."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from attnsearch.config.base import Registered, Settings, register_part


class TaskSettings(Settings):
    """What every task shares."""

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The task."""


class ClassificationSettings(TaskSettings):
    """Each image has one class."""

    name: Literal["classification"] = Field(default="classification", description="the task")


TaskConfig = Annotated[TaskSettings, Registered("task")]

register_part("task", ClassificationSettings, "attnsearch.tasks.classification:ClassificationTask")
