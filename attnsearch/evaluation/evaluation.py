"""The two forms of an opened checkpoint: `TrainedModel` for images of one's own, `Evaluation` on an opened data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from attnsearch.config.evaluation import VERSION, ScoreSettings
from attnsearch.config.load import with_settings, without_variables
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import UsageError
from attnsearch.evaluation.base import InferenceModel, ModelOnData, build_for_inference, run_split
from attnsearch.evaluation.baselines import OCCLUSION
from attnsearch.evaluation.confusion import ConfusionReport, analyse_predictions, predict_split
from attnsearch.evaluation.explain import IMAGE_TYPES, AnyImage, explain_images, name_images, open_images, own_batches
from attnsearch.evaluation.matches import SimilarityTo, check_compares, embed_batch, explain_matches
from attnsearch.evaluation.retrieval import measure_floors, rank_galleries
from attnsearch.evaluation.sanity import check_sanity
from attnsearch.evaluation.score_archive import score_archive, score_baselines
from attnsearch.evaluation.scorer import image_families, score_images
from attnsearch.figures.explanation import Explanation
from attnsearch.figures.kinds import Method
from attnsearch.figures.pairs import METHODS
from attnsearch.metrics.registry import find_metric
from attnsearch.models.checkpoint import read_model_checkpoint
from attnsearch.store.image_scores import score_columns
from attnsearch.types import Split

TOP_Q = 5
Explained = str | int | SimilarityTo | None
"""What an explanation may be about."""


class Evaluation(ModelOnData):
    """A checkpoint, its model in eval mode, and the data that it is evaluated on: read and built once by `open`.

    A context manager, which forgets the loaders of the splits at its end: they hold pixels that were read ahead.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loaders.clear()

    # Functions of this package as methods; each takes the evaluation as its first argument.
    run = run_split
    score = score_archive
    baselines = score_baselines
    explain = explain_images
    predict = predict_split
    sanity = check_sanity
    retrieval = rank_galleries
    floors = measure_floors

    def confusion(self, split: Split) -> ConfusionReport:
        """Confused classes, accuracies of classes and branches, calibration; see `analyse_predictions`."""
        return analyse_predictions(self.predict(split))


@dataclass(frozen=True, eq=False, repr=False)
class TrainedModel(InferenceModel):
    """A checkpoint's model, its preprocessing and its class names.

    Images are what `to_image` takes: a file, a PIL image, or an (H, W, 3) uint8 RGB array, of any size. A model of
    re-identification predicts no classes: its explanations and scores are about its embedding, or about the similarity
    of two images.

    Attributes:
        config: of the run that trained it.
        on_test: called with the checkpoint's epoch before an evaluation on the test split, to log it.
    """

    on_test: Callable[[int], None] | None = None

    def __repr__(self) -> str:
        height, width = self.config.data.image_hw
        classes = f"{len(self.class_names)} {'classes' if self.task.predicts_classes else 'training identities'}"
        return (
            f"<TrainedModel {self.config.model.name} of {self.checkpoint.path}, {classes}, "
            f"{height} x {width} px, on {self.device}>"
        )

    @overload
    def explain(
        self, images: AnyImage, target: Explained = None, *, maps: tuple[str, ...] = (), top_q: int = TOP_Q
    ) -> Explanation: ...

    @overload
    def explain(
        self, images: list[Any], target: Explained = None, *, maps: tuple[str, ...] = (), top_q: int = TOP_Q
    ) -> list[Explanation]: ...

    def explain(
        self,
        images: AnyImage | list[Any],
        target: Explained = None,
        *,
        maps: tuple[str, ...] = (),
        top_q: int = TOP_Q,
    ) -> Explanation | list[Explanation]:
        """What the model makes of an image, or a list of them for a list.

        Args:
            target: the class that the saliency explains, by name or index, or `similarity_to` another image; None
                explains the predicted class, and gives the family's own map in re-identification.
            maps: names of maps of the model beside the family's default ones.
            top_q: how many of the most probable classes get a map of their own.
        Raises:
            DataError: an image cannot be read.
            UsageError: no such class or map, or an array that is no 8-bit RGB image; or the model predicts no classes,
                or it can have no map of the method of `similarity_to`.
        """
        named = name_images(images)
        if isinstance(target, SimilarityTo):
            others = [target.image] * len(named)
            explained = list(explain_matches(self, named, others, maps=maps, method=target.method))
        else:
            explained = list(explain_images(self, named, target=target, maps=maps, top_q=top_q))
        return explained[0] if isinstance(images, IMAGE_TYPES) else explained

    def similarity_to(self, image: AnyImage, *, method: Method = OCCLUSION) -> SimilarityTo:
        """The similarity to an image, as a target: `model.explain("a.jpg", target=model.similarity_to("b.jpg"))`.

        Args:
            method: of the maps: `occlusion` is what the cosine loses without each cell, `pair` what each adds to it,
                `gradient_rollout` its gradients along the attention of a transformer, and `own` the family's map.
        Raises:
            UsageError: no such method, the model compares no images, or as `explain`.
        """
        check_compares(self)
        if method not in METHODS:
            raise UsageError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        named = name_images([image])[0]
        return SimilarityTo(named if isinstance(named.source, Path) else replace(named, image_id="reference"), method)

    def embed(self, images: AnyImage | list[Any]) -> NDArray[np.float32]:
        """(N, D) float32, what images are compared by: in re-identification of length 1, unless the config says no.

        Raises:
            DataError: an image cannot be read.
            UsageError: the family offers no embedding, or an array is no 8-bit RGB image.
        """
        batches = own_batches(self, open_images(name_images(images), self.config.data, self.class_names))
        return np.concatenate([embed_batch(self, batch).cpu().numpy() for batch in batches])

    def score(
        self,
        images: AnyImage | list[Any],
        metrics: Sequence[str],
        *,
        masks: Sequence[AnyImage] | None = None,
        settings: ScoreSettings | None = None,
    ) -> pd.DataFrame:
        """Scores of the model's saliency of images: a row per image id, a column per metric, NaN where undefined.

        Args:
            metrics: names of image metrics, such as `relevance_gain`.
            masks: an image per image that is bright on its discriminative parts, for metrics that need masks.
            settings: how it is measured; None takes those of the config. Their `families` and `target` are not used,
                as images of one's own have no labels.
        Returns:
            A gain is a ratio of means over the images, and its column holds the influence value of each, whose mean it
            is. `.attrs` has the `version` and the `settings` of the measurement.
        Raises:
            ConfigError: no such metric.
            DataError: an image cannot be read.
            UsageError: a metric of a whole data set or of another task, or one that needs what only a data set knows.
        """
        families = image_families(metrics, task=self.config.task.name, has_masks=masks is not None)
        settings = settings or self.config.evaluation.scores
        n_random = max(settings.n_random, int(any(find_metric(name).uses_random_orders for name in metrics)))
        settings = settings.model_copy(update={"families": families, "target": "predicted", "n_random": n_random})
        source = open_images(name_images(images), self.config.data, self.class_names, masks=masks)
        scores = score_images(self, own_batches(self, source), settings)
        values, _ = score_columns(scores)
        frame = pd.DataFrame(
            {name: values[name] for name in metrics},
            index=pd.Index([score.image_id for score in scores], name="image_id"),
        )
        frame.attrs = {"version": VERSION, "settings": settings.identity()}
        return frame

    def evaluate(self, split: Split = "val", *, data: DataSource | None = None) -> dict[str, float]:
        """The metrics of a split as `split/name`; one of the test split is recorded first where `on_test` was given.

        Args:
            data: opened; None opens the data set of the config.
        Raises:
            DataError: the data set cannot be used, or has other classes or no such split.
        """
        evaluation = Evaluation.of(self, open_data(self.config.data) if data is None else data)
        evaluation.table(split)
        if split == "test" and self.on_test is not None:
            self.on_test(self.checkpoint.epoch)
        return evaluation.run(split)


def load_model(path: str | Path, *, device: str = "auto", on_test: Callable[[int], None] | None = None) -> TrainedModel:
    """The model of a checkpoint file, such as a trial's or an imported one; only weights and settings are read.

    Args:
        device: as `runtime.device`: auto, cpu, cuda or cuda:N.
        on_test: as `TrainedModel.on_test`.
    Raises:
        ConfigError: the file is missing or broken, or the device does not exist.
    """
    checkpoint = read_model_checkpoint(path)
    config = with_settings(without_variables(checkpoint.config), {"runtime.device": device})
    return TrainedModel(checkpoint, config, *build_for_inference(checkpoint, config), on_test)
