"""An opened checkpoint on opened data: everything that is measured of a model is asked of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.evaluation.base import ModelOnData, run_split
from attnsearch.evaluation.confusion import ConfusionReport, Predictions, analyse_predictions, predict_split
from attnsearch.evaluation.explain import explain_images
from attnsearch.evaluation.sanity import SanityStep, randomise_downwards
from attnsearch.evaluation.score_archive import score_archive, score_baselines
from attnsearch.figures.explanation import Explanation, ImageToDraw
from attnsearch.store.image_scores import ScoreTable
from attnsearch.store.layout import ArchivePaths, ScorePaths
from attnsearch.types import Split


class Evaluation(ModelOnData):
    """A checkpoint, its model in eval mode, and the data that it is evaluated on: read and built once by `open`.

    A context manager: at its end the loaders and the memory of the device are released.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, split: Split, *, archive: ArchivePaths | None = None, check: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """The metrics of a split as `split/name`, and its archive; see `run_split`."""
        return run_split(self, split, archive=archive, check=check)

    def score(
        self,
        archive: ArchivePaths,
        scores: ScorePaths,
        *,
        settings: ScoreSettings | None = None,
        iou_thresholds: Mapping[str, float] | None = None,
        check: Callable[[], None] = lambda: None,
        progress: bool = False,
    ) -> ScoreTable:
        """Scores of the saliency of an archive, image by image; see `score_archive`."""
        return score_archive(
            self,
            archive,
            scores,
            settings=settings,
            iou_thresholds=iou_thresholds,
            check=check,
            progress=progress,
        )

    def baselines(
        self,
        archive: ArchivePaths,
        names: Sequence[str],
        *,
        settings: ScoreSettings | None = None,
        progress: bool = False,
    ) -> dict[str, ScoreTable]:
        """Scores of baseline maps of the images of an archive; see `score_baselines`."""
        return score_baselines(self, archive, names, settings=settings, progress=progress)

    def explain(
        self,
        images: Sequence[ImageToDraw],
        *,
        target: str | int | None = None,
        maps: tuple[str, ...] = (),
        top_q: int = 0,
    ) -> Iterator[Explanation]:
        """What the model makes of some images, of this data set or of others; see `explain_images`."""
        return explain_images(self, images, target=target, maps=maps, top_q=top_q)

    def confusion(self, split: Split, *, check: Callable[[], None] = lambda: None) -> ConfusionReport:
        """Confused classes, accuracies of classes and branches, calibration; see `analyse_predictions`."""
        return analyse_predictions(self.predict(split, check=check))

    def sanity(self, split: Split, image_ids: Sequence[str]) -> list[SanityStep]:
        """How similar the saliency of some images stays while weights are randomised, see `randomise_downwards`."""
        rows = self.rows_of(split, image_ids)
        batches = self.row_batches(split, rows, n_images=self.loader(split).batch_size)
        return randomise_downwards(self.model, [self.arithmetic.place_images(batch) for batch in batches])

    def predict(self, split: Split, *, check: Callable[[], None] = lambda: None, progress: bool = False) -> Predictions:
        """The logits of a split, of all branches; see `predict_split`."""
        return predict_split(self, split, check=check, progress=progress)
