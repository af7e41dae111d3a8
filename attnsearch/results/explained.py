"""Opened trials and checkpoints whose images are explained, from their archives or by their models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_overrides, without_variables
from attnsearch.data.tables import ImageTable, build_tables
from attnsearch.errors import ConfigError, DataError, StoreError
from attnsearch.figures.explanation import Explanation, ImageToDraw, from_archive
from attnsearch.figures.kinds import needs_model
from attnsearch.figures.selection import ImageIndex, images_at
from attnsearch.results.checkpoints import find_trial
from attnsearch.results.names import is_file_name
from attnsearch.results.trial import TrialReader
from attnsearch.store.image_scores import ScoreTable
from attnsearch.types import AttentionArchive, Split

if TYPE_CHECKING:
    from attnsearch.evaluation.base import InferenceModel


@dataclass(frozen=True, eq=False)
class ExplainedModel:
    """A trial or a checkpoint that images of a split are explained by.

    Attributes:
        config: with the overrides of the command line.
        archive: of the split, with its arrays where retention left them; None where nothing was archived.
        trial: None for a checkpoint that belongs to no study.
    """

    name: str
    config: ExperimentConfig
    checkpoint: Path | None
    split: Split
    archive: AttentionArchive | None = None
    trial: TrialReader | None = None

    @cached_property
    def table(self) -> ImageTable | None:
        """The split of its data set; None if the data set is not on this machine."""
        try:
            return build_tables(self.config.data).of(self.split)
        except DataError:
            return None

    @cached_property
    def index(self) -> ImageIndex | None:
        """The images to choose from, with what was predicted where the split is archived; None where nothing is."""
        if self.archive is not None:
            return ImageIndex.of_archive(self.archive)
        return None if self.table is None else ImageIndex.of_table(self.table)

    @property
    def scores(self) -> ScoreTable | None:
        """The scores of single images of the split; None where they were not measured."""
        if self.trial is None or self.archive is None or not self.trial.has_scores(self.split):
            return None
        return self.trial.score_table(self.split)

    @property
    def figures(self) -> Path:
        """Where its figures go by default."""
        return Path("figures") if self.trial is None else self.trial.study.layout.shared.figures

    @cached_property
    def inference(self) -> InferenceModel:
        """Its model; an evaluation of it on the test split is logged.

        Raises:
            ConfigError: it has no checkpoint any more.
        """
        from attnsearch.evaluation.base import InferenceModel, build_for_inference  # these import torch
        from attnsearch.models.checkpoint import read_model_checkpoint

        if self.checkpoint is None:
            raise ConfigError(
                f"{self.name} has no checkpoint any more, which these figures need; choose a trial whose checkpoint "
                "retention left, or images and kinds of its archive"
            )
        path = self.checkpoint if self.trial is None else self.trial.checkpoint  # its checksum is compared
        checkpoint = read_model_checkpoint(path)
        if self.trial is not None and self.split == "test":
            self.trial.log_test_evaluation(checkpoint.epoch)
        return InferenceModel(checkpoint, self.config, *build_for_inference(checkpoint, self.config))

    def explain(self, kind: str, images: Sequence[ImageToDraw], *, top_q: int = 0) -> Iterator[Explanation]:
        """The explanations of images, from the archive where that holds all of it, else from the checkpoint.

        Args:
            kind: the figure type that shows them.
            top_q: how many classes get a map of their own where the checkpoint is asked.
        Raises:
            ConfigError: neither of them is left.
        """
        archive = self.archive
        archived = set() if archive is None or archive.saliency is None else set(archive.image_ids)
        is_archived = all(image.image_id in archived for image in images)
        if archive is not None and is_archived and not needs_model(kind, archive.map_names):
            return from_archive(archive, images)
        inference = self.inference
        from attnsearch.evaluation.explain import explain_images  # imports torch

        return explain_images(inference, images, maps=inference.model.figure_maps(kind), top_q=top_q)


def open_source(
    source: str,
    trial: int | None,
    split: Split,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> ExplainedModel:
    """A trial of a study, `NAME:NUMBER` or by default its best, or a checkpoint file.

    Raises:
        ConfigError: there is none.
        DataError: another folder of the data set is named, which cannot be used.
    """
    if is_file_name(source):
        from attnsearch.models.checkpoint import read_model_checkpoint  # imports torch

        stored = without_variables(read_model_checkpoint(source).config)
        return ExplainedModel(Path(source).stem, with_overrides(stored, overrides), Path(source), split)
    name, _, number = source.rpartition(":") if source.rpartition(":")[2].isdecimal() else (source, "", "")
    reader = find_trial(name, int(number) if number else trial, root, storage)
    files, study = reader.files, reader.study.layout.study
    if not files.config.is_file():
        raise ConfigError(f"study {study!r} has no trial {reader.number}; `attnsearch show {study}` lists all")
    config = with_overrides(reader.config, overrides)
    checkpoint = files.best if files.best.is_file() else None
    archive = _archive(reader, split)
    if archive is not None and _shows_other_images(archive, reader.config, config):
        archive = None
    return ExplainedModel(f"{study}:{reader.number}", config, checkpoint, split, archive, reader)


def _shows_other_images(archive: AttentionArchive, trained: ExperimentConfig, config: ExperimentConfig) -> bool:
    """Whether the overrides in `config` name another data set than that which a trial was trained on and archived.

    Raises:
        DataError: the folder that they name cannot be used.
    """
    if config.data == trained.data:
        return False
    if config.identity()["data"] != trained.identity()["data"]:
        return True
    return not set(archive.image_ids) <= set(build_tables(config.data).of(archive.split).image_ids)


def _archive(trial: TrialReader, split: Split) -> AttentionArchive | None:
    if split not in trial.archives():
        return None
    try:
        return trial.archive(split)
    except StoreError:  # retention removed the arrays; the index still tells classes and predictions
        return trial.archive(split, index_only=True)


@dataclass(frozen=True)
class ImagesOfSplit:
    """Where the images of a split lie, and what they show.

    Attributes:
        trial: has small copies of them; None for a checkpoint that belongs to no study.
        paths: image id -> original; empty where the data set is not on this machine.
        classes: image id -> name of its class or identity.
        cameras: image id -> number of its camera, where it is known.
    """

    trial: TrialReader | None
    split: Split
    paths: Mapping[str, Path]
    classes: Mapping[str, str]
    cameras: Mapping[str, int]

    @classmethod
    def of(cls, model: ExplainedModel, classes: Mapping[str, str]) -> ImagesOfSplit:
        """Of what is there.

        Args:
            classes: of the images that may be named by their ids.
        """
        table = model.table
        if table is None:
            return cls(model.trial, model.split, {}, classes, {})
        paths = dict(zip(table.image_ids, table.paths, strict=True))
        cameras = {} if table.cameras is None else dict(zip(table.image_ids, table.cameras.tolist(), strict=True))
        return cls(model.trial, model.split, paths, classes, cameras)

    def image(self, image_id: str) -> ImageToDraw:
        """The original where it is there, else the small copy of the results.

        Raises:
            ConfigError: neither is there.
        """
        path = self.paths.get(image_id)
        if path is None or not path.is_file():
            path = None if self.trial is None else self.trial.image_file(image_id, self.split)
        if path is None:
            raise ConfigError(f"there is no file of image {image_id}: the data set and the small copies are missing")
        return ImageToDraw(image_id, path, self.classes.get(image_id), self.cameras.get(image_id))

    def named(self, name: str, *, option: str = "--image") -> list[ImageToDraw]:
        """The image of the split with this id, or those of a file or folder.

        Args:
            option: of the command line, for messages.
        Raises:
            ConfigError: it is none of them.
        """
        if name in self.classes:
            return [self.image(name)]
        return _files(name, list(self.classes.values()), option)


def _files(name: str, class_names: Sequence[str], option: str) -> list[ImageToDraw]:
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"{option} {name!r} is neither an image of the split nor a file or folder")
    base = path if path.is_dir() else path.parent
    return [
        ImageToDraw(
            file.relative_to(base).as_posix(), file, file.parent.name if file.parent.name in class_names else None
        )
        for file in images_at(path)
    ]
