"""What `visualize` does: opens trials or checkpoints, finds the pictures that are wanted, and writes the figures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from attnsearch.cli.checkpoints import is_file_name
from attnsearch.cli.found import find_run
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import load_stored_experiment, with_overrides, without_variables
from attnsearch.data.build import build_tables
from attnsearch.data.tables import ImageTable
from attnsearch.errors import ConfigError, DataError, StoreError, suggest
from attnsearch.figures.explanation import Explanation, ImageToDraw, from_archive, read_image
from attnsearch.figures.kinds import (
    KINDS,
    PAPER,
    PART_FAMILIES,
    DrawStyle,
    caption_of,
    check_kind,
    draw,
    draw_cell,
    extra_maps,
    legend_of_parts,
    needs_model,
    scale_of,
)
from attnsearch.figures.panels import FORMATS, Grid, Panel, PanelRow, Sheets, Style
from attnsearch.figures.raster import RULES, palette
from attnsearch.figures.selection import ImageIndex, ImageSelection, choose, pictures_at
from attnsearch.files import atomic_path
from attnsearch.results.image_files import copy_of
from attnsearch.results.study import StudyReader
from attnsearch.search.trials import read_study, reader_url
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable, has_scores, read_scores
from attnsearch.store.layout import StudyLayout
from attnsearch.types import AttentionArchive, Split


@dataclass(frozen=True, eq=False)
class ExplainedModel:
    """A trial or a checkpoint that pictures are explained by.

    Attributes:
        archive: of the split, with its arrays where they are kept; None where nothing was archived.
        layout: None for a checkpoint that belongs to no study.
    """

    name: str
    config: ExperimentConfig
    checkpoint: Path | None
    archive: AttentionArchive | None
    layout: StudyLayout | None = None
    number: int = 0

    def table(self, split: Split) -> ImageTable | None:
        """The split of its data set; None if the data set is not on this machine."""
        try:
            return build_tables(self.config.data).of(split)
        except DataError:
            return None

    def scores(self, split: Split) -> ScoreTable | None:
        """The scores of its maps, if they were measured."""
        if self.layout is None or not has_scores(self.layout.trial(self.number).scores(split)):
            return None
        return read_scores(self.layout.trial(self.number).scores(split))


@dataclass(frozen=True)
class FigureRequest:
    """What the user asked for; `to` is None for the figures folder of the experiment."""

    kinds: Sequence[str]
    choice: ImageSelection
    split: Split
    look: DrawStyle = field(default_factory=DrawStyle)
    style: Style = field(default_factory=Style)
    outlined: bool = False
    to: Path | None = None


def checked_kinds(kinds: Sequence[str] | None) -> list[str]:
    """The kinds as they are drawn, each once; an overlay where none is named.

    Raises:
        ConfigError: an unknown one.
    """
    for kind in kinds or ():
        if kind not in KINDS:
            raise ConfigError(f"--kind must be one of {', '.join(KINDS)}, got {kind!r}{suggest(kind, list(KINDS))}")
    return list(dict.fromkeys(kinds or ["overlay"]))


def checked_look(*, percentile: float, colours: str, rule: str, own_scale: bool, top_q: int) -> DrawStyle:
    """How maps are drawn.

    Raises:
        ConfigError: an unknown colour map, or another way to enlarge.
    """
    found = next((one for one in RULES if one == rule), None)
    if found is None:
        raise ConfigError(f"--enlarge must be one of {', '.join(RULES)}, got {rule!r}")
    try:
        palette(colours)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    return DrawStyle(percentile, colours, found, own_scale, top_q)


def checked_style(*, dpi: int, width_in: float, file_format: str) -> Style:
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
    order: FigureRequest,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> Iterator[Path]:
    """Writes all figures and yields their files.

    Args:
        storage: as `reader_url`.
    Raises:
        ConfigError: no such source, image or kind; or neither maps nor a checkpoint are left.
        DataError: a picture cannot be read.
    """
    if not sources:
        raise ConfigError("name a study, a run or a .safetensors file before the settings")
    settings = list(overrides)
    methods = [open_method(one, trial, order.split, overrides=settings, root=root, storage=storage) for one in sources]
    for kind in order.kinds:
        for method in methods:
            check_kind(kind, method.config.model)
    wanted = find_images(methods[0], order)
    folder = order.to or _default_folder(methods[0])
    sheets = Sheets(order.style)
    for kind in order.kinds:
        if kind == PAPER:
            yield _save_paper(methods, wanted, order, sheets, folder)
            continue
        for method in methods:
            yield from _save_each(kind, method, wanted, order, sheets, folder / method.name.replace(":", "-"))


def open_method(
    source: str,
    trial: int | None,
    split: Split,
    *,
    overrides: Iterable[str],
    root: Path,
    storage: str | None = None,
) -> ExplainedModel:
    """A trial of a study or run, `NAME:NUMBER` or by default its best, or a checkpoint file.

    Raises:
        ConfigError: there is none.
    """
    if is_file_name(source):
        from attnsearch.models.checkpoint import read_model_checkpoint  # imports torch

        stored = without_variables(read_model_checkpoint(source).config)
        return ExplainedModel(Path(source).stem, with_overrides(stored, overrides), Path(source), None)
    name, _, written = source.rpartition(":") if source.rpartition(":")[2].isdecimal() else (source, "", "")
    layout = find_run(name, root)
    number = int(written) if written else _best(layout, storage) if trial is None else trial
    files = layout.trial(number)
    if not files.config.is_file():
        raise ConfigError(f"study {layout.study!r} has no trial {number}; `attnsearch show {layout.study}` lists all")
    config = with_overrides(load_stored_experiment(files.config), overrides)
    checkpoint = files.kept if files.kept.is_file() else None
    return ExplainedModel(
        f"{layout.study}:{number}", config, checkpoint, _archive(layout, number, split), layout, number
    )


def _best(layout: StudyLayout, storage: str | None) -> int:
    """The best trial, on the front the first one; the one trial of a plain run."""
    if not layout.study_yaml.is_file():
        return 0
    best = read_study(reader_url(layout, storage), layout.study).best
    if not best:
        raise ConfigError(f"study {layout.study!r} has no complete trial yet; name one with --trial")
    return best[0]


def _archive(layout: StudyLayout, number: int, split: Split) -> AttentionArchive | None:
    paths = StudyReader(layout).trial(number).archives().get(split)
    if paths is None:
        return None
    try:
        return read_archive(paths)
    except StoreError:  # retention removed the arrays; the index still tells classes and predictions
        return read_archive(paths, index_only=True)


def _default_folder(method: ExplainedModel) -> Path:
    return Path("figures") if method.layout is None else method.layout.shared.figures


def find_images(method: ExplainedModel, order: FigureRequest) -> list[ImageToDraw]:
    """The files of the wanted images, and their classes; no picture is opened and no split is gone through.

    Raises:
        ConfigError: an image that is neither in the split nor a file, or one whose picture is not on this machine.
    """
    table = method.table(order.split)
    known = None
    if method.archive is not None:
        known = ImageIndex.of_archive(method.archive)
    elif table is not None:
        known = ImageIndex.of_table(table)
    if known is None and not order.choice.images:
        raise ConfigError(f"{method.name}: neither maps nor the data set are on this machine; name files with --image")
    path_of = {} if table is None else dict(zip(table.image_ids, table.paths, strict=True))
    true_of = {} if known is None else dict(zip(known.image_ids, known.true, strict=True))
    found: dict[str, ImageToDraw] = {}
    for name in order.choice.images:
        if name in true_of:
            found[name] = _of_split(name, method, path_of, true_of)
        else:
            found |= {one.image_id: one for one in _files(name, list(true_of.values()))}
    scores = method.scores(order.split)
    for name in [] if known is None else choose(known, order.choice, scores):
        found[name] = _of_split(name, method, path_of, true_of)
    if not found:
        raise ConfigError("no image fits; ask for others")
    return list(found.values())


def _of_split(image_id: str, method: ExplainedModel, path_of: dict[str, Path], true_of: dict[str, str]) -> ImageToDraw:
    """The original where it is there, else the small copy of the results."""
    path = path_of.get(image_id)
    if path is None or not path.is_file():
        path = None if method.layout is None else copy_of(method.layout, image_id)
    if path is not None:
        return ImageToDraw(image_id, path, true_of.get(image_id))
    raise ConfigError(f"there is no picture of {image_id}: the data set and the small copies are missing")


def _files(name: str, class_names: Sequence[str]) -> list[ImageToDraw]:
    path = Path(name)
    if not path.exists():
        raise ConfigError(f"--image {name!r} is neither an image of the split nor a file or folder")
    base = path if path.is_dir() else path.parent
    return [
        ImageToDraw(one.relative_to(base).as_posix(), one, one.parent.name if one.parent.name in class_names else None)
        for one in pictures_at(path)
    ]


def explained(
    kind: str, method: ExplainedModel, wanted: Sequence[ImageToDraw], order: FigureRequest
) -> Iterator[Explanation]:
    """The subjects of one method, from its archive where that holds all of it, else from its checkpoint.

    Raises:
        ConfigError: neither of them is left.
    """
    archive, settings = method.archive, method.config.model
    known = set() if archive is None or archive.saliency is None else set(archive.image_ids)
    if archive is not None and not needs_model(kind, settings) and all(one.image_id in known for one in wanted):
        return from_archive(archive, wanted)
    if method.checkpoint is None:
        raise ConfigError(
            f"{method.name} has no checkpoint any more, which --kind {kind} of these images needs; "
            "choose a trial that retention kept, or images and kinds of its archive"
        )
    return _explained_by_model(kind, method, wanted, order)


def _explained_by_model(
    kind: str, method: ExplainedModel, wanted: Sequence[ImageToDraw], order: FigureRequest
) -> Iterator[Explanation]:
    from attnsearch.evaluation.base import InferenceModel, build_for_inference, read_once  # these import torch
    from attnsearch.evaluation.explain import explain_images
    from attnsearch.store.trial_store import log_test_evaluation

    assert method.checkpoint is not None
    checkpoint = read_once(method.checkpoint)
    if method.layout is not None and order.split == "test":
        log_test_evaluation(method.layout, method.number, checkpoint.epoch, order.split)
    inference = InferenceModel(checkpoint, method.config, *build_for_inference(checkpoint, method.config))
    maps = extra_maps(kind, method.config.model, inference.model)
    return explain_images(inference, wanted, maps=maps, top_q=order.look.top_q if kind == "classes" else 0)


def _save_each(
    kind: str, method: ExplainedModel, wanted: Sequence[ImageToDraw], order: FigureRequest, sheets: Sheets, folder: Path
) -> Iterator[Path]:
    for subject in explained(kind, method, wanted, order):
        picture = read_image(subject.source, width_px=order.style.width_px)
        grid = draw(kind, subject, picture, order.look)
        path = folder / kind / _file_name(subject.image_id, order.style)
        with atomic_path(path) as temporary:
            sheets.save(grid, temporary)
        yield path


def _file_name(image_id: str, style: Style) -> Path:
    """The id with its own suffix, so that `a.png` and `a.jpg` do not meet, and with its folders."""
    parts = PurePosixPath(image_id).parts
    return Path(*parts[:-1], f"{parts[-1]}.{style.format}")


def _save_paper(
    methods: Sequence[ExplainedModel], wanted: Sequence[ImageToDraw], order: FigureRequest, sheets: Sheets, folder: Path
) -> Path:
    """Images by methods, the picture in the first column."""
    columns = [list(explained(PAPER, method, wanted, order)) for method in methods]
    as_parts = [method.config.model.name in PART_FAMILIES for method in methods]
    rows = []
    for row, one in enumerate(wanted):
        picture = read_image(one.source, width_px=order.style.width_px)
        cells = [
            draw_cell(subjects[row], picture, order.look, as_parts=parts, outlined=order.outlined)
            for subjects, parts in zip(columns, as_parts, strict=True)
        ]
        rows.append(PanelRow([Panel(picture), *cells], label=one.true or ""))
    first_parts = next((subjects[0] for subjects, parts in zip(columns, as_parts, strict=True) if parts), None)
    grid = Grid(
        rows,
        columns=["picture", *_short_names(methods)],
        legend=[] if first_parts is None else legend_of_parts(first_parts),
        scale=None if all(as_parts) else scale_of(order.look),
        caption=caption_of([subjects[0] for subjects in columns]),
    )
    path = folder / f"paper.{order.style.format}"
    with atomic_path(path) as temporary:
        sheets.save(grid, temporary)
    return path


def _short_names(methods: Sequence[ExplainedModel]) -> list[str]:
    """Studies by their name, with the trial's number only where a study stands twice."""
    names = [method.name.partition(":")[0] for method in methods]
    return [
        name if names.count(name) == 1 else f"{name} trial {method.number}"
        for name, method in zip(names, methods, strict=True)
    ]
