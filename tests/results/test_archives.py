"""Archives as tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError
from attnsearch.results.reader import load_study
from attnsearch.results.study import StudyReader


@pytest.fixture
def study(people: Path) -> StudyReader:
    return load_study(people / "people" / "cnn_people")


def test_ranked_galleries_are_read_as_tables(study: StudyReader) -> None:
    reader = study.trial(0).retrieval("val")
    images, queries = reader.images, reader.queries
    assert len(reader.features) == len(images)
    assert list(queries.index) == list(images.index[images["is_query"]])
    assert queries["average_precision"].mean() == pytest.approx(study.trial(0).metrics["val/mAP"])
    assert reader.scores.loc["mAP", "mean"] == pytest.approx(study.trial(0).metrics["val/mAP"])
    assert reader.scores.loc["mAP", "low"] <= reader.scores.loc["mAP", "mean"] <= reader.scores.loc["mAP", "high"]
    assert list(queries["nearest"]) == list(images.index[reader.ranks[:, 0]])
    is_hit = queries["nearest_identity"] == queries["identity"]
    assert is_hit.tolist() == (queries["first_match"] == 1).tolist()
    assert set(images["camera"]) == {"1", "2", "3"}
    assert repr(reader).startswith(
        f"<retrieval of {len(queries)} queries among {len(images) - len(queries)} images: mAP"
    )


def test_gallery_images_are_neither_right_nor_wrong(study: StudyReader) -> None:
    trial = study.trial(0)
    images, galleries = trial.images("val"), trial.retrieval("val")
    is_query = galleries.images.loc[images.index, "is_query"]
    assert images.loc[~is_query, ["predicted_class", "is_correct"]].isna().all(axis=None)
    assert images["is_correct"].mean() == pytest.approx(trial.metrics["val/rank1"])
    queries = galleries.queries
    assert images.loc[queries.index, "predicted_class"].tolist() == queries["nearest_identity"].tolist()


def test_scores_of_queries_outlive_the_features(study: StudyReader) -> None:
    trial = study.trial(0)
    whole = trial.retrieval("val").queries["average_precision"]
    for path in trial.archives()["val"].large:
        path.unlink(missing_ok=True)
    np.testing.assert_array_equal(trial.query_table("val").values["mAP"], whole)


def test_a_published_trial_knows_its_floors(study: StudyReader) -> None:
    first = study.first_published()
    assert first is not None
    floors = study.trial(first["trial"]).floors()
    assert list(floors) == [f"test/floor_{name}_mAP" for name in ("random", "histogram", "untrained")]
    assert study.trial(1 - first["trial"]).floors() == {}
    assert floors.items() <= study.trial(first["trial"]).metrics.items()


def test_a_classifier_ranks_nothing(finished_run: Path) -> None:
    trial = load_study(finished_run / "demo" / "br_npa_low_res").trial(0)
    assert trial.floors() == {}
    for read in (trial.retrieval, trial.query_table):
        with pytest.raises(ConfigError, match="has no ranked galleries, as it predicts classes"):
            read("val")
