"""What an archive of one split holds, as tables: its images, and in re-identification its ranked galleries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from attnsearch.evaluation.ranking import query_columns, ranking_row, scores_of
from attnsearch.types import AttentionArchive, Retrieval

if TYPE_CHECKING:
    import pandas as pd


def images_frame(archive: AttentionArchive) -> pd.DataFrame:
    """The predictions of an archive as `TrialReader.images` returns them."""
    import pandas as pd

    boxes = dict(zip(("crop_left", "crop_top", "crop_right", "crop_bottom"), archive.crop_boxes.T, strict=True))
    frame = pd.DataFrame(
        {
            "true_class": _names(archive, archive.labels),
            "predicted_class": _names(archive, archive.predictions),
            "label": archive.labels,
            "prediction": archive.predictions,
            "is_correct": archive.labels == archive.predictions,
            "confidence": archive.confidences,
            **{"height_px": archive.sizes_hw[:, 0], "width_px": archive.sizes_hw[:, 1]},
            **boxes,
        },
        index=pd.Index(archive.image_ids, name="image_id"),
    )
    is_predicted = ~np.isnan(archive.confidences)  # of gallery images nothing is
    if not is_predicted.all():
        frame["predicted_class"] = frame["predicted_class"].where(is_predicted, None)
        frame["is_correct"] = frame["is_correct"].astype("boolean").where(is_predicted)
    frame.attrs.update(split=archive.split, epoch=archive.epoch, config_digest=archive.config_digest)
    return frame


def _names(archive: AttentionArchive, labels: NDArray[np.int64]) -> list[str]:
    """The classes of labels (N,)."""
    names = archive.class_names
    return [names[label] if 0 <= label < len(names) else f"class {label}" for label in labels.tolist()]


@dataclass(frozen=True, eq=False, repr=False)
class RetrievalReader:
    """The ranked galleries of one split.

    Attributes:
        retrieval: as it is stored; its arrays are mapped from disk.
    """

    retrieval: Retrieval

    def __repr__(self) -> str:
        scores = self.scores["mean"]
        n_queries = len(self.retrieval.first_match)
        n_gallery = len(self.retrieval.image_ids) - n_queries
        return f"<retrieval of {n_queries} queries among {n_gallery} images: {scores.index[0]} {scores.iloc[0]:.4g}>"

    def _repr_html_(self) -> str:
        return str(self.scores.to_html(float_format="{:.4g}".format))

    @property
    def features(self) -> NDArray[np.float32]:
        """(N, D) what images are compared by, in the order of `images`."""
        return self.retrieval.features

    @property
    def ranks(self) -> NDArray[np.int64]:
        """(Q, k) rows of `images`, nearest first, of each query in the order of `queries`; -1 beyond the last one."""
        return self.retrieval.ranked_rows

    @property
    def images(self) -> pd.DataFrame:
        """All images of the split, index `image_id`, columns `identity`, `camera` (None = not known), `is_query`."""
        import pandas as pd

        one = self.retrieval
        cameras = [None] * len(one.labels) if one.cameras is None else [one.camera_names[n] for n in one.cameras]
        identities = [one.identities[label] for label in one.labels]
        index = pd.Index(one.image_ids, name="image_id")
        return pd.DataFrame({"identity": identities, "camera": cameras, "is_query": one.is_query}, index=index)

    @property
    def queries(self) -> pd.DataFrame:
        """A row per query, index `image_id`.

        Returns:
            Columns `identity`, `camera` (None = not known), `average_precision` and `inverse_negative_penalty` (NaN =
            no match in the gallery), `first_match` (its rank from 1, 0 = no match), `nearest` and `nearest_identity` of
            the gallery image at the top.
        """
        import pandas as pd

        return pd.DataFrame(query_columns(self.retrieval)).set_index("image_id")

    @property
    def scores(self) -> pd.DataFrame:
        """Metric -> `mean` over the queries that have a match, with its 95 % interval `low` to `high`."""
        import pandas as pd

        row = ranking_row("combined", scores_of(self.retrieval), self.retrieval.match_rule)
        columns = ("mean", "low", "high")
        cells = [[getattr(one, column) for column in columns] for one in row.scores.values()]
        return pd.DataFrame(cells, index=pd.Index(row.scores, name="metric"), columns=list(columns))
