"""Figures of trials, written into their experiment: opens trials or checkpoints and finds the images to draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_overrides, without_variables
from attnsearch.data.tables import ImageTable, build_tables
from attnsearch.errors import ConfigError, DataError, StoreError, suggest
from attnsearch.figures.explanation import (
    Explanation,
    ImageToDraw,
    ModelColumn,
    compare_models,
    from_archive,
    read_image,
)
from attnsearch.figures.grid import FORMATS, Style
from attnsearch.figures.kinds import (
    KINDS,
    PAPER,
    DrawStyle,
    check_kind,
    draw,
    needs_model,
)
from attnsearch.figures.panels import Sheets
from attnsearch.figures.raster import RULES, palette
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose, images_at
from attnsearch.files import atomic_path
from attnsearch.results.checkpoints import find_trial, is_file_name
from attnsearch.results.trial import TrialReader
from attnsearch.types import AttentionArchive, Split


@dataclass(frozen=True, eq=False)
class ExplainedModel:
    """A trial or a checkpoint that images are explained by.

    Attributes:
        config: with the overrides of the command line.
        archive: of the split, with its arrays where retention left them; None where nothing was archived.
        trial: None for a checkpoint that belongs to no study.
    """

    name: str
    config: ExperimentConfig
    checkpoint: Path | None
    archive: AttentionArchive | None = None
    trial: TrialReader | None = None

    def table(self, split: Split) -> ImageTable | None:
        """The split of its data set; None if the data set is not on this machine."""
        try:
            return build_tables(self.config.data).of(split)
        except DataError:
            return None

    def index(self, table: ImageTable | None) -> ImageIndex | None:
        """The images to choose from, with what was predicted where the split is archived; None where nothing is."""
        if self.archive is not None:
            return ImageIndex.of_archive(self.archive)
        return None if table is None else ImageIndex.of_table(table)

    def selected(self, index: ImageIndex | None, request: FigureRequest) -> Sequence[str]:
        """The ids of the images that a request selects by class, score or error."""
        if index is None:
            return []
        scored = self.trial if self.trial is not None and self.trial.has_scores(request.split) else None
        return choose(index, request.selection, None if scored is None else scored.score_table(request.split))

    @property
    def figures(self) -> Path:
        """Where its figures go by default."""
        return Path("figures") if self.trial is None else self.trial.study.layout.shared.figures


@dataclass(frozen=True)
class FigureRequest:
    """What to draw; `to` is None for the figures folder of the experiment."""

    kinds: Sequence[str]
    selection: ImageSelection
    split: Split
    look: DrawStyle
    style: Style
    to: Path | None = None


def request_figures(
    kinds: Sequence[str] | None,
    split: Split,
    *,
    selection: Mapping[str, Any],
    look: Mapping[str, Any],
    style: Mapping[str, Any],
    to: Path | None = None,
) -> FigureRequest:
    """A checked request.

    Args:
        kinds: None is an overlay.
        selection, look, style: fields of `ImageSelection`, `DrawStyle` and `Style`.
    Raises:
        ConfigError: an unknown figure type, colour map, way to enlarge or format.
    """
    choice = ImageSelection(**selection)
    return FigureRequest(_checked_kinds(kinds), choice, split, _checked_look(**look), _checked_style(**style), to)


def _checked_kinds(kinds: Sequence[str] | None) -> list[str]:
    """The kinds as they are drawn, each once; an overlay where none is named.

    Raises:
        ConfigError: an unknown one.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}{suggest(kind, list(KINDS))}")
    return list(dict.fromkeys(kinds or ["overlay"]))


def _checked_look(*, rule: str, colours: str, **settings: Any) -> DrawStyle:
    """How maps are drawn.

    Raises:
        ConfigError: an unknown colour map, or another way to enlarge.
    """
    way = next((known for known in RULES if known == rule), None)
    if way is None:
        raise ConfigError(f"--enlarge must be one of {', '.join(RULES)}, got {rule!r}")
    try:
        palette(colours)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return DrawStyle(rule=way, colours=colours, **settings)


def _checked_style(*, dpi: int, width_in: float, file_format: str) -> Style:
    """How files are written.

    Raises:
        ConfigError: an unknown format.
    """
    if file_format not in FORMATS:
        raise ConfigError(f"--format must be one of {', '.join(FORMATS)}, got {file_format!r}")
    return Style(dpi, width_in, file_format)


def visualize_all(
    sources: Sequence[str],
    trial: int | None,
    request: FigureRequest,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> Iterator[Path]:
    """Writes all figures and yields their files.

    Args:
        storage: as `load_results`.
    Raises:
        ConfigError: no such source, image or kind; or neither maps nor a checkpoint are left.
        DataError: an image cannot be read.
    """
    if not sources:
        raise ConfigError("name a study, a run or a .safetensors file before the settings")
    settings = list(overrides)
    models = [
        open_source(source, trial, request.split, overrides=settings, root=root, storage=storage) for source in sources
    ]
    for kind in request.kinds:
        for model in models:
            check_kind(kind, model.config.model)
    images = find_images(models[0], request)
    folder = request.to or models[0].figures
    sheets = Sheets(request.style)
    for kind in request.kinds:
        if kind == PAPER:
            yield _save_paper(models, images, request, sheets, folder)
            continue
        for model in models:
            yield from _save_each(kind, model, images, request, sheets, folder / model.name.replace(":", "-"))


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
    """
    if is_file_name(source):
        from attnsearch.models.checkpoint import read_model_checkpoint  # imports torch

        stored = without_variables(read_model_checkpoint(source).config)
        return ExplainedModel(Path(source).stem, with_overrides(stored, overrides), Path(source))
    name, _, number = source.rpartition(":") if source.rpartition(":")[2].isdecimal() else (source, "", "")
    reader = find_trial(name, int(number) if number else trial, root, storage)
    files, study = reader.files, reader.study.layout.study
    if not files.config.is_file():
        raise ConfigError(f"study {study!r} has no trial {reader.number}; `attnsearch show {study}` lists all")
    config = with_overrides(reader.config, overrides)
    checkpoint = files.best if files.best.is_file() else None
    return ExplainedModel(f"{study}:{reader.number}", config, checkpoint, _archive(reader, split), reader)


def _archive(trial: TrialReader, split: Split) -> AttentionArchive | None:
    if split not in trial.archives():
        return None
    try:
        return trial.archive(split)
    except StoreError:  # retention removed the arrays; the index still tells classes and predictions
        return trial.archive(split, index_only=True)


def find_images(model: ExplainedModel, request: FigureRequest) -> list[ImageToDraw]:
    """The files of the selected images, and their classes; no image is opened and no split is gone through.

    Raises:
        ConfigError: an image that is neither in the split nor a file, or one that is not on this machine.
    """
    table, split, selection = model.table(request.split), request.split, request.selection
    index = model.index(table)
    if index is None and not selection.images:
        raise ConfigError(f"{model.name}: neither maps nor the data set are on this machine; name files with --image")
    images = _ImagesOfSplit.of(model.trial, split, table, index)
    selected = [image for name in selection.images for image in images.named(name)]
    selected += [images.image(image_id) for image_id in model.selected(index, request)]
    if not selected:
        raise ConfigError("no image fits; ask for others")
    return list({image.image_id: image for image in selected}.values())


@dataclass(frozen=True)
class _ImagesOfSplit:
    """Where the images of a split lie, and what they show.

    Attributes:
        trial: has small copies of them; None for a checkpoint that belongs to no study.
        paths: image id -> original; empty where the data set is not on this machine.
        classes: image id -> name of its class.
    """

    trial: TrialReader | None
    split: Split
    paths: Mapping[str, Path]
    classes: Mapping[str, str]

    @classmethod
    def of(
        cls, trial: TrialReader | None, split: Split, table: ImageTable | None, index: ImageIndex | None
    ) -> _ImagesOfSplit:
        """Of what is there."""
        paths = {} if table is None else dict(zip(table.image_ids, table.paths, strict=True))
        classes = {} if index is None else dict(zip(index.image_ids, index.true, strict=True))
        return cls(trial, split, paths, classes)

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
        return ImageToDraw(image_id, path, self.classes.get(image_id))

    def named(self, name: str) -> list[ImageToDraw]:
        """The image of the split with this id, or those of a file or folder.

        Raises:
            ConfigError: it is none of them.
        """
        if name in self.classes:
            return [self.image(name)]
        return _files(name, list(self.classes.values()))


def _files(name: str, class_names: Sequence[str]) -> list[ImageToDraw]:
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"--image {name!r} is neither an image of the split nor a file or folder")
    base = path if path.is_dir() else path.parent
    return [
        ImageToDraw(
            file.relative_to(base).as_posix(), file, file.parent.name if file.parent.name in class_names else None
        )
        for file in images_at(path)
    ]


def explained(
    kind: str, model: ExplainedModel, images: Sequence[ImageToDraw], request: FigureRequest
) -> Iterator[Explanation]:
    """The explanations of one model, from its archive where that holds all of it, else from its checkpoint.

    Raises:
        ConfigError: neither of them is left.
    """
    archive = model.archive
    archived = set() if archive is None or archive.saliency is None else set(archive.image_ids)
    is_archived = all(image.image_id in archived for image in images)
    if archive is not None and is_archived and not needs_model(kind, archive.map_names):
        return from_archive(archive, images)
    if model.checkpoint is None:
        raise ConfigError(
            f"{model.name} has no checkpoint any more, which --kind {kind} of these images needs; "
            "choose a trial whose checkpoint retention left, or images and kinds of its archive"
        )
    path = model.checkpoint if model.trial is None else model.trial.checkpoint  # its checksum is compared
    return _explained_by_model(kind, model, path, images, request)


def _explained_by_model(
    kind: str, model: ExplainedModel, path: Path, images: Sequence[ImageToDraw], request: FigureRequest
) -> Iterator[Explanation]:
    from attnsearch.evaluation.base import InferenceModel, build_for_inference  # these import torch
    from attnsearch.evaluation.explain import explain_images
    from attnsearch.models.checkpoint import read_model_checkpoint

    checkpoint = read_model_checkpoint(path)
    if model.trial is not None and request.split == "test":
        model.trial.log_test_evaluation(checkpoint.epoch)
    inference = InferenceModel(checkpoint, model.config, *build_for_inference(checkpoint, model.config))
    maps = inference.model.figure_maps(kind)
    return explain_images(inference, images, maps=maps, top_q=request.look.top_q if kind == "classes" else 0)


def _save_each(
    kind: str,
    model: ExplainedModel,
    images: Sequence[ImageToDraw],
    request: FigureRequest,
    sheets: Sheets,
    folder: Path,
) -> Iterator[Path]:
    for explanation in explained(kind, model, images, request):
        grid = draw(kind, explanation, read_image(explanation.source, width_px=request.style.width_px), request.look)
        path = folder / kind / _file_name(explanation.image_id, request.style)
        with atomic_path(path) as temporary:
            sheets.save(grid, temporary)
        yield path


def _file_name(image_id: str, style: Style) -> Path:
    """The id with its own suffix, so that `a.png` and `a.jpg` do not meet, and with its folders."""
    parts = PurePosixPath(image_id).parts
    return Path(*parts[:-1], f"{parts[-1]}.{style.format}")


def _save_paper(
    models: Sequence[ExplainedModel],
    images: Sequence[ImageToDraw],
    request: FigureRequest,
    sheets: Sheets,
    folder: Path,
) -> Path:
    """Images by models, the image in the first column."""
    columns = [
        ModelColumn(name, list(explained(PAPER, model, images, request)), "parts" in model.config.model.figure_kinds)
        for name, model in zip(_short_names(models), models, strict=True)
    ]
    grid = compare_models(columns, request.look, width_px=request.style.width_px)
    path = folder / f"paper.{request.style.format}"
    with atomic_path(path) as temporary:
        sheets.save(grid, temporary)
    return path


def _short_names(models: Sequence[ExplainedModel]) -> list[str]:
    """Studies by their name, with the trial's number only where a study stands twice."""
    names = [model.name.partition(":")[0] for model in models]
    return [
        name if names.count(name) == 1 or model.trial is None else f"{name} trial {model.trial.number}"
        for name, model in zip(names, models, strict=True)
    ]
