"""What one run is: data, model, task, training, evaluation and the machine that it may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from attnsearch.config.base import DEVICE, METRIC_KEY, NAME, Registered, Settings, digest_of, register_part
from attnsearch.config.data import DataConfig
from attnsearch.config.data_folder import NamedByFolder
from attnsearch.config.evaluation import ScoreSettings, all_families
from attnsearch.config.model import DcalSettings, ModelConfig
from attnsearch.loggers.base import LoggerName
from attnsearch.metrics.registry import better_direction, is_score
from attnsearch.types import Direction, Distance

STUDY_PREFIX = "study:"
"""What a setting starts with that names a study, whose best trial is meant, instead of a checkpoint."""

Name = Annotated[str, Field(pattern=NAME)]
MetricKey = Annotated[str, Field(pattern=METRIC_KEY)]


def check_monitor(value: str) -> str:
    """The monitor, if it is measured after each epoch.

    Raises:
        ValueError: it is a score, which is measured of the best checkpoint alone.
    """
    if is_score(value.partition("/")[2]):
        raise ValueError(
            f"monitor must be measured after each epoch, and {value!r} is measured of the best checkpoint alone; "
            "keep a monitor such as val/accuracy, and write it under objectives or constraints of a study"
        )
    return value


class TaskSettings(Settings):
    """What every task shares.

    Attributes:
        figure_kinds: figure types that suit this task and no task that does not name them.
    """

    figure_kinds: ClassVar[tuple[str, ...]] = ()

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """The task."""


class ClassificationSettings(TaskSettings):
    """Each image has one class."""

    figure_kinds = ("classes",)
    name: Literal["classification"] = Field(default="classification", description="the task")


class ReidSettings(TaskSettings):
    """Re-identification: images are embedded, and those of one identity found by their distance."""

    figure_kinds = ("ranks", "pair")
    name: Literal["reid"] = Field(default="reid", description="the task")
    images_per_identity: int = Field(
        4, ge=2, description="K: images of each identity in a training batch, which has batch_size / K identities"
    )
    identity_weight: float = Field(
        1.0, ge=0.0, description="weight of the identity loss, a classification of the training identities"
    )
    triplet_weight: float = Field(1.0, ge=0.0, description="weight of the batch-hard triplet loss")
    triplet_margin: float | None = Field(
        0.3, ge=0.0, description="margin of the triplet loss; null takes the soft margin log(1 + exp(x))"
    )
    neck: bool = Field(
        True, description="whether a batch norm stands between the embedding and the classifier of identities"
    )
    embedding: Literal["before_neck", "after_neck"] = Field(
        "before_neck", description="which of the two images are compared by; after_neck needs a neck"
    )
    distance: Distance = Field("euclidean", description="between embeddings")
    normalise: bool = Field(True, description="whether embeddings are scaled to length 1 before they are compared")
    flip_average: bool = Field(
        False, description="whether an embedding is the mean of those of the image and its mirror image"
    )
    centre_weight: float = Field(
        0.0, ge=0.0, description="weight of the centre loss; 0 has none, 0.0005 is that of Bag of Tricks"
    )
    arcface_margin: float = Field(
        0.0, ge=0.0, lt=1.6, description="angle in radians that ArcFace adds to that of the true identity; 0 has none"
    )
    arcface_scale: float | None = Field(
        None, gt=0.0, description="scale of the cosines that ArcFace classifies by; null has a linear classifier"
    )

    @model_validator(mode="after")
    def _choices_exist(self) -> ReidSettings:
        if self.embedding == "after_neck" and not self.neck:
            raise ValueError("embedding must be before_neck where neck is false, got after_neck")
        if self.arcface_margin and self.arcface_scale is None:
            raise ValueError(
                f"arcface_margin needs arcface_scale, such as 30, got a margin of {self.arcface_margin:g} alone"
            )
        if not self.identity_weight and not self.triplet_weight:
            raise ValueError("identity_weight and triplet_weight must not both be 0: nothing would be learned")
        return self


TaskConfig = Annotated[TaskSettings, Registered("task")]

register_part("task", ClassificationSettings, "attnsearch.tasks.classification:ClassificationTask")
register_part("task", ReidSettings, "attnsearch.tasks.reid:ReidTask")


class OptimizerSettings(Settings):
    """The optimizer, made by timm's factory."""

    name: Literal["sgd", "adam", "amsgrad", "adamw", "lion"] = Field("sgd", description="Optimizer.")
    lr: float = Field(1e-3, gt=0, description="Learning rate at the start, before the schedule.")
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    decay_norms: bool = Field(
        False,
        description="Whether norms, biases and all other vectors get the weight decay too, as in torch's optimizers.",
        exclude_if=lambda is_decayed: not is_decayed,  # files and digests are older than this field
    )
    momentum: float | None = Field(None, ge=0, lt=1, description="Momentum, only for `sgd`; null means 0.9 there.")
    backbone_lr_factor: float = Field(
        1.0, ge=0, description="Factor on the learning rate of the backbone; 0 freezes it."
    )

    @model_validator(mode="after")
    def _momentum_needs_sgd(self) -> OptimizerSettings:
        if self.momentum is not None and self.name != "sgd":
            raise ValueError(f"momentum is read by sgd only, got {self.momentum} with {self.name}; remove it")
        return self


class ScheduleSettings(Settings):
    """How the learning rate changes, by timm's schedulers."""

    name: Literal["constant", "step", "cosine"] = Field("constant", description="Shape of the schedule.")
    warmup_epochs: float = Field(0.0, ge=0, description="Length of a linear warm-up, in epochs.")
    per_epoch: bool = Field(
        False,
        description="Whether the rate changes between epochs alone instead of with every update; a warm-up then starts "
        "from 1 % of the rate.",
        exclude_if=lambda is_per_epoch: not is_per_epoch,  # files and digests are older than this field
    )
    step_epochs: int = Field(2, ge=1, description="Epochs between two steps of `step`.")
    milestones: tuple[int, ...] = Field(
        (),
        description="Epochs after which `step` falls, rising; with none it falls every `step_epochs`.",
        exclude_if=lambda milestones: not milestones,  # files and digests are older than this field
    )
    step_factor: float = Field(0.9, gt=0, le=1, description="Factor of each step of `step`.")
    final_lr_factor: float = Field(0.01, ge=0, lt=1, description="End of `cosine`, as a factor of the learning rate.")

    @model_validator(mode="after")
    def _milestones_rise(self) -> ScheduleSettings:
        if list(self.milestones) != sorted({epoch for epoch in self.milestones if epoch > 0}):
            raise ValueError(f"milestones must be rising epochs from 1 on, got {list(self.milestones)}")
        return self


class TeacherSettings(Settings):
    """Knowledge distillation: the teacher's class distribution is a target beside the label."""

    checkpoint: str = Field(
        description="Path of a best checkpoint, or `study:NAME` for the best trial of a study of the experiment."
    )
    temperature: float = Field(1.0, gt=0, description="Softens both distributions.")
    interpolation: float = Field(
        1.0, ge=0, le=1, description="Fraction of the teacher in the loss; 1 ignores the labels."
    )


class TrainSettings(Settings):
    """The shared trainer."""

    epochs: int = Field(50, ge=1, le=100_000, description="Number of epochs.")
    batch_size: int = Field(16, ge=2, description="Images per optimizer update.")
    accumulation: int = Field(
        1,
        ge=1,
        description="Parts that a batch is worked on in by each device, to save memory; must divide batch_size.",
    )
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer.")
    schedule: ScheduleSettings = Field(ScheduleSettings(), description="Learning-rate schedule.")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Arithmetic of the forward and backward pass; `auto` takes bf16 where the hardware has it."
    )
    clip_norm: float | None = Field(None, gt=0, description="Largest L2 norm of the gradient; null does not clip.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the cross-entropy.")
    early_stopping_epochs: int | None = Field(
        None, ge=1, description="Stop after this many epochs in a row without a better monitor; null never stops."
    )
    halve_on_oom: bool = Field(
        False, description="Out of memory: halve the parts of a batch and continue, instead of failing the trial."
    )
    teacher: TeacherSettings | None = Field(None, description="Teacher for distillation.")
    shared_batch_norm: bool = Field(
        False,
        description="Whether batch norms see the images that all devices of a trial work on at a time, instead of "
        "those of one part; each then waits for all devices. Without runtime.devices_per_trial nothing changes.",
        exclude_if=lambda is_shared: not is_shared,  # files and digests are older than this field
    )

    @model_validator(mode="after")
    def _accumulation_divides(self) -> TrainSettings:
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation must divide batch_size {self.batch_size}, got {self.accumulation}")
        return self


class EvaluationSettings(Settings):
    """What is measured and stored of the best checkpoint."""

    n_images: int | None = Field(
        None, ge=1, description="Validation images whose maps each trial stores; null stores all."
    )
    scores: ScoreSettings = Field(ScoreSettings(), description="Scores of the saliency of the best checkpoint.")


class RuntimeSettings(Settings):
    """The machine; nothing here changes what is computed, so it is no part of the digest."""

    device: str = Field("auto", pattern=DEVICE, description="`auto`, `cpu`, `cuda` or `cuda:N`.")
    n_threads: int | None = Field(
        None, ge=1, description="Processor threads; null means an equal fraction of the cores for each worker."
    )
    compile: bool = Field(
        False,
        description="Compiles the model with torch.compile, on a GPU into CUDA graphs, one for each shape. The first "
        "step takes up to a minute and results round differently. Off: it gains nothing on a processor, and on a GPU "
        "nobody has measured it yet.",
    )
    trials_per_device: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        1,
        description="Trials of a study that train on one GPU at a time; more raise the number of workers. `auto` "
        "lets in as many as fit by the largest peak memory that trials of the study have measured, with a margin; 1 "
        "starts one worker per GPU, and takes n_workers at its word.",
    )
    devices_per_trial: int = Field(
        1,
        ge=1,
        le=64,
        description="Devices that each trial trains on: a batch is worked on in accumulation x devices parts, which "
        "they take in turn. Each is a process with a GPU of its own, or on a processor with n_threads threads. It "
        "computes what one device does with as many times the accumulation, to rounding.",
    )
    loggers: tuple[LoggerName, ...] = Field(
        (),
        description="Programs that hear of each epoch and of the end of a trial: `tensorboard`, `mlflow`, `trackio`, "
        "`wandb` (offline). They write below logs/ of the study, by a package that "
        "`pip install 'attnsearch[NAME]'` brings; one that fails is a warning.",
        exclude_if=lambda loggers: not loggers,
    )

    @model_validator(mode="after")
    def _trials_share_or_are_shared(self) -> RuntimeSettings:
        if self.devices_per_trial > 1 and self.trials_per_device != 1:
            raise ValueError(
                f"trials_per_device must be 1 where devices_per_trial is {self.devices_per_trial}, got "
                f"{self.trials_per_device}; a trial has several devices, or several trials have one"
            )
        return self


class ExperimentConfig(NamedByFolder):
    """One run. `attnsearch train FILE` repeats it from the file that each trial folder holds."""

    name: Name = Field(description="Name of the run, and of its files in the results folder.")
    experiment: Name = Field("default", description="Folder under results/; `auto` is the name of `data.root`.")
    seed: int = Field(1, ge=0, le=2**31 - 1, description="Seed of weights, order and augmentation.")
    monitor: MetricKey = Field(
        "val/accuracy", description="The one metric that decides which epoch is the best, and that stops and prunes."
    )
    monitor_direction: Direction = Field("maximize", description="Whether a larger or a smaller monitor is better.")
    data: DataConfig = Field(description="Data set.")
    model: ModelConfig = Field(description="Model family.")
    task: TaskConfig = Field(
        ClassificationSettings(),
        description="What the model is trained for.",
        exclude_if=lambda task: task == ClassificationSettings(),  # files and digests are older than tasks
    )
    train: TrainSettings = Field(TrainSettings(), description="Trainer.")
    evaluation: EvaluationSettings = Field(EvaluationSettings(), description="Evaluation.")
    runtime: RuntimeSettings = Field(RuntimeSettings(), description="Machine.")
    plugins: tuple[str, ...] = Field(
        (),
        description="Modules by name, or path/to/file.py, that register models, data sets or metrics of your own; a "
        "start imports them first, commands that read results never do.",
        exclude_if=lambda plugins: not plugins,
    )

    @field_validator("monitor")
    @classmethod
    def _monitor_is_held_out(cls, value: str) -> str:
        if not value.startswith("val/"):
            raise ValueError(
                f"monitor must be a val/ metric, so that nothing is chosen on training images, got {value!r}"
            )
        return check_monitor(value)

    @model_validator(mode="after")
    def _direction_is_written_where_smaller_is_better(self) -> ExperimentConfig:
        better = better_direction(self.monitor, "maximize")
        if "monitor_direction" not in self.model_fields_set and better != self.monitor_direction:
            raise ValueError(f"monitor {self.monitor} is better when smaller; write monitor_direction: {better}")
        return self

    @model_validator(mode="after")
    def _data_fit_the_task(self) -> ExperimentConfig:
        if self.data.task != self.task.name:
            wanted = f"task: {{name: {self.data.task}}}"
            raise ValueError(
                f"data {self.data.name} is for the task {self.data.task}, got {self.task.name}; write {wanted}"
            )
        return self

    @model_validator(mode="after")
    def _families_have_scores_of_the_task(self) -> ExperimentConfig:
        known = all_families(self.task.name)
        if other := [family for family in self.evaluation.scores.families if family not in known]:
            raise ValueError(
                f"evaluation.scores.families: {other[0]!r} has no score of the task {self.task.name}; use some of "
                f"{', '.join(known)}"
            )
        return self

    @model_validator(mode="after")
    def _parts_hold_whole_identities(self) -> ExperimentConfig:
        if not isinstance(self.task, ReidSettings):
            return self
        k = self.task.images_per_identity
        if not self.can_train_in(self.train.accumulation):
            raise ValueError(
                f"train.batch_size / accumulation must be a multiple of task.images_per_identity {k}, of 2 identities "
                f"at least, since triplets are found within, got {self.train.batch_size} / {self.train.accumulation}"
            )
        if self.train.teacher is not None:
            raise ValueError("train.teacher softens classes, which re-identification does not predict; remove it")
        return self

    @model_validator(mode="after")
    def _enough_images_at_once(self) -> ExperimentConfig:
        least = self.model.min_images_at_once
        if not self.can_train_in(self.train.accumulation):
            raise ValueError(
                f"model {self.model.name} with these settings must train at least {least} images at once, got train."
                f"batch_size {self.train.batch_size} with accumulation {self.train.accumulation}; lower accumulation"
            )
        return self

    @model_validator(mode="after")
    def _each_device_has_a_part(self) -> ExperimentConfig:
        n_devices = self.runtime.devices_per_trial
        if n_devices > 1 and not self.can_train_in(self.train.accumulation * n_devices):
            raise ValueError(
                f"runtime.devices_per_trial {n_devices} x train.accumulation {self.train.accumulation} must divide "
                f"train.batch_size {self.train.batch_size} into parts that model and task can train on; change one of "
                "the three"
            )
        return self

    @model_validator(mode="after")
    def _weighted_branches_have_no_teacher(self) -> ExperimentConfig:
        if self.train.teacher is not None and isinstance(self.model, DcalSettings) and self.model.variant != "sa_only":
            raise ValueError(
                f"train.teacher replaces a loss that model.variant {self.model.variant} weights against those of its "
                "other branches, whose weight would then fall without end; use model.variant=sa_only or no teacher"
            )
        return self

    def can_train_in(self, accumulation: int) -> bool:
        """Whether batches may be worked on in so many parts: enough images in each, and whole identities."""
        part, rest = divmod(self.train.batch_size, accumulation)
        if rest or part < self.model.min_images_at_once:
            return False
        if not isinstance(self.task, ReidSettings):
            return True
        k = self.task.images_per_identity
        return part % k == 0 and part >= 2 * k

    def digest(self) -> str:
        """SHA-256 of everything that changes the result."""
        return digest_of(self.identity())

    def identity(self) -> dict[str, Any]:
        """All settings that change the result, as plain values.

        Without the runtime block and the files of plugins; without the data root: data may move, their ids are compared
        by hash. Without the scores: they can be measured again of the same checkpoint, and are stored with their
        own settings.
        """
        return self.model_dump(
            mode="json", exclude={"runtime": True, "plugins": True, "data": {"root"}, "evaluation": {"scores"}}
        )
