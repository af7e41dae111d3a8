"""Figures of trials, written into their experiment: opens trials or checkpoints and finds the images to draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from attnsearch.figures.kinds import (
    KINDS,
    PAPER,
    DrawStyle,
    check_kind,
    draw,
    needs_model,
)
from attnsearch.figures.panels import FORMATS, Sheets, Style
from attnsearch.figures.raster import RULES, palette
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose, images_at
from attnsearch.files import atomic_path
from attnsearch.results.checkpoints import find_trial, is_file_name
from attnsearch.results.shared import copy_of
from attnsearch.results.trial import TrialReader
from attnsearch.store.image_scores import ScoreTable, has_scores, read_scores
from attnsearch.store.study_files import log_test_evaluation
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

    def scores(self, split: Split) -> ScoreTable | None:
        """The scores of its maps, if they were measured."""
        if self.trial is None or not has_scores(self.trial.files.scores(split)):
            return None
        return read_scores(self.trial.files.scores(split))

    def copy_of(self, image_id: str) -> Path | None:
        """The small copy of an image in the results, if there is one."""
        return None if self.trial is None else copy_of(self.trial.study.layout, image_id)

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
    look: DrawStyle = field(default_factory=DrawStyle)
    style: Style = field(default_factory=Style)
    outlined: bool = False
    to: Path | None = None


def request_figures(
    kinds: Sequence[str] | None,
    split: Split,
    *,
    selection: Mapping[str, Any],
    look: Mapping[str, Any],
    style: Mapping[str, Any],
    outlined: bool = False,
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
    return FigureRequest(
        _checked_kinds(kinds), choice, split, _checked_look(**look), _checked_style(**style), outlined, to
    )


def _checked_kinds(kinds: Sequence[str] | None) -> list[str]:
    """The kinds as they are drawn, each once; an overlay where none is named.

    Raises:
        ConfigError: an unknown one.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}{suggest(kind, list(KINDS))}")
    return list(dict.fromkeys(kinds or ["overlay"]))


def _checked_look(*, percentile: float, colours: str, rule: str, own_scale: bool, top_q: int) -> DrawStyle:
    """How maps are drawn.

    Raises:
        ConfigError: an unknown colour map, or another way to enlarge.
    """
    way = next((one for one in RULES if one == rule), None)
    if way is None:
        raise ConfigError(f"--enlarge must be one of {', '.join(RULES)}, got {rule!r}")
    try:
        palette(colours)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return DrawStyle(percentile, colours, way, own_scale, top_q)


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
    table = model.table(request.split)
    index = None
    if model.archive is not None:
        index = ImageIndex.of_archive(model.archive)
    elif table is not None:
        index = ImageIndex.of_table(table)
    if index is None and not request.selection.images:
        raise ConfigError(f"{model.name}: neither maps nor the data set are on this machine; name files with --image")
    path_of = {} if table is None else dict(zip(table.image_ids, table.paths, strict=True))
    true_of = {} if index is None else dict(zip(index.image_ids, index.true, strict=True))
    images: dict[str, ImageToDraw] = {}
    for name in request.selection.images:
        if name in true_of:
            images[name] = _of_split(name, model, path_of, true_of)
        else:
            images |= {image.image_id: image for image in _files(name, list(true_of.values()))}
    for name in [] if index is None else choose(index, request.selection, model.scores(request.split)):
        images[name] = _of_split(name, model, path_of, true_of)
    if not images:
        raise ConfigError("no image fits; ask for others")
    return list(images.values())


def _of_split(
    image_id: str, model: ExplainedModel, path_of: Mapping[str, Path], true_of: Mapping[str, str]
) -> ImageToDraw:
    """The original where it is there, else the small copy of the results."""
    path = path_of.get(image_id)
    if path is None or not path.is_file():
        path = model.copy_of(image_id)
    if path is not None:
        return ImageToDraw(image_id, path, true_of.get(image_id))
    raise ConfigError(f"there is no file of image {image_id}: the data set and the small copies are missing")


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
    return _explained_by_model(kind, model, model.checkpoint, images, request)


def _explained_by_model(
    kind: str, model: ExplainedModel, path: Path, images: Sequence[ImageToDraw], request: FigureRequest
) -> Iterator[Explanation]:
    from attnsearch.evaluation.base import InferenceModel, build_for_inference  # these import torch
    from attnsearch.evaluation.explain import explain_images
    from attnsearch.models.checkpoint import read_model_checkpoint

    checkpoint = read_model_checkpoint(path)
    if model.trial is not None and request.split == "test":
        log_test_evaluation(model.trial.study.layout, model.trial.number, checkpoint.epoch, request.split)
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
    grid = compare_models(columns, request.look, width_px=request.style.width_px, outlined=request.outlined)
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
