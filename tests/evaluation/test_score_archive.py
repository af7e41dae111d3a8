"""Scores of an archive: what they are of, that they continue where they were cut off, and what is refused."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attnsearch.config.evaluation import ScoreSettings
from attnsearch.config.experiment import ExperimentConfig
from attnsearch.config.load import with_settings
from attnsearch.data.fixed_rows import fixed_subset
from attnsearch.data.loader import DataSource, open_data
from attnsearch.errors import ConfigError, DataError, TrialInterrupted
from attnsearch.evaluation import score_archive as module
from attnsearch.evaluation.evaluation import Evaluation
from attnsearch.evaluation.score_archive import score_image, scored_ids
from attnsearch.metrics.gains import influence_values
from attnsearch.store.archive import read_archive
from attnsearch.store.image_scores import ScoreTable, read_scores
from attnsearch.store.trial_layout import TrialLayout
from attnsearch.training.trainer import fit
from tests.tiny import ConfigMaker, RecordingContext, reid_config

MODEL = {"name": "br_npa", "stride_stage3": 1, "stride_stage4": 1}  # maps of 4 x 4 cells
ALL = ("faithfulness", "localisation", "complexity", "correlation", "average_drop", "road")
SETTINGS = ScoreSettings(families=ALL, n_images=6, n_steps=4, n_random=1, second_fill="blur")
Scorer = Callable[..., ScoreTable]


@pytest.fixture(scope="module")
def config(tiny_config: ConfigMaker) -> ExperimentConfig:
    return tiny_config(model=MODEL, train={"epochs": 1})


@pytest.fixture(scope="module")
def trained(config: ExperimentConfig, data: DataSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained trial with an archive of its six validation images."""
    context = RecordingContext(tmp_path_factory.mktemp("trained"))
    fit(config, context, data=data)
    files = TrialLayout(context.directory)
    Evaluation.open(files.best, data).run("val", archive=files.archive("val"))
    return context.directory


@pytest.fixture
def files(trained: Path, tmp_path: Path) -> TrialLayout:
    return TrialLayout(Path(shutil.copytree(trained, tmp_path / "trial")))


@pytest.fixture
def scored(data: DataSource, files: TrialLayout) -> Scorer:
    evaluation = Evaluation.open(files.best, data)

    def run(**named: Any) -> ScoreTable:
        return evaluation.score(files.archive("val"), files.scores("val"), **{"settings": SETTINGS, **named})

    return run


def test_every_score_of_every_image_is_written(scored: Scorer, files: TrialLayout, data: DataSource) -> None:
    table = scored()
    assert table.image_ids == data.tables.val.image_ids
    assert set(table.values) == {
        *("relevance_gain", "decision_gain", "deletion_gain", "deletion", "insertion", "random_deletion"),
        *(
            "untouched_score",
            "masked_score",
            "relevance_gain_blur",
            "decision_gain_blur",
            "deletion_correlation",
            "insertion_correlation",
        ),
        *("average_drop", "average_increase", "average_deletion_drop", "road"),
        *("saliency_sparsity", "gini", "entropy", "effective_area"),
    }  # this data set has no masks, boxes or points
    assert table.curve_names == ("deletion", "least_first", "insertion", "random_deletion")
    assert table.fractions == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert table.curves.shape == (6, 4, 5)
    read = read_scores(files.scores("val"))
    for written, stored in ((table.values, read.values), (table.terms, read.terms)):
        assert list(stored) == list(written)
        for name, column in written.items():
            np.testing.assert_array_equal(stored[name], column)
    assert read.about["checkpoint"] == {"epoch": 1, "config": table.about["checkpoint"]["config"]}


def test_curves_agree_with_their_areas(scored: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnsearch.metrics.gains.LEAST_MEAN_DROP", 0.01)  # this model has seen one epoch
    table = scored()
    curves = dict(zip(table.curve_names, np.asarray(table.curves, dtype=np.float64).swapaxes(0, 1), strict=True))
    np.testing.assert_allclose(table.values["deletion"], np.trapezoid(curves["deletion"], dx=0.25), atol=1e-6)
    np.testing.assert_allclose(table.values["insertion"], np.trapezoid(curves["insertion"], dx=0.25), atol=1e-6)
    np.testing.assert_array_equal(curves["insertion"], curves["least_first"][:, ::-1])
    np.testing.assert_allclose(table.values["masked_score"], curves["deletion"][:, -1], atol=1e-6)
    areas = np.trapezoid(curves["least_first"] - curves["deletion"], dx=0.25)
    drops = curves["deletion"][:, 0] - curves["deletion"][:, -1]
    np.testing.assert_allclose(table.terms["relevance_gain.area"], areas, atol=1e-6)
    np.testing.assert_allclose(table.values["relevance_gain"], influence_values(areas, drops), atol=1e-5)
    assert table.trial_means()["relevance_gain"] == pytest.approx(areas.sum() / drops.sum(), abs=1e-6)
    assert table.mean_drop("relevance_gain") == pytest.approx(drops.mean(), abs=1e-6)


def test_a_model_that_the_fill_does_not_change_has_no_gain(scored: Scorer) -> None:
    """It counts as uninformative where trials are chosen, and says why."""
    table = scored()
    assert 0 < table.mean_drop("relevance_gain") < 0.1
    assert math.isnan(table.means()["relevance_gain"])
    assert table.n_undefined()["relevance_gain"] == 6
    assert table.trial_means()["relevance_gain"] == 0.0
    assert "relevance_gain" in table.never_defined()


def test_one_image_alone_has_the_scores_that_it_has_among_all(
    scored: Scorer, files: TrialLayout, data: DataSource
) -> None:
    table, opened = scored(), Evaluation.open(files.best, data)
    one = score_image(opened, files.archive("val"), table.image_ids[4], settings=SETTINGS, stored=table.about)
    assert one.image_ids == table.image_ids[4:5]
    assert one.curve_names == table.curve_names
    np.testing.assert_allclose(one.curves[0], table.curves[4], atol=1e-4)
    for name in ("deletion", "insertion", "gini", "entropy", "untouched_score"):
        np.testing.assert_allclose(one.values[name], table.values[name][4:5], atol=1e-4)
    for name, column in one.terms.items():
        np.testing.assert_allclose(column, table.terms[name][4:5], atol=1e-4)


def test_more_images_at_once_change_no_score(scored: Scorer, files: TrialLayout) -> None:
    first = scored()
    files.scores("val").about.unlink()
    second = scored(settings=SETTINGS.model_copy(update={"batch_images": 3}))
    assert second.digest == first.digest
    for name, column in first.values.items():
        np.testing.assert_allclose(second.values[name], column, atol=1e-4)


def test_images_are_those_of_every_trial(scored: Scorer, data: DataSource) -> None:
    few = scored(settings=SETTINGS.model_copy(update={"n_images": 2, "families": ("complexity",)}))
    table = data.tables.val
    assert few.image_ids == tuple(table.image_ids[row] for row in fixed_subset(table, 2))
    assert few.curves.shape == (2, 0, 0)


def test_finished_scoring_is_not_repeated(scored: Scorer) -> None:
    def check() -> None:
        pytest.fail("an image is scored, or a file is written")

    assert scored().digest == scored(check=check).digest


def test_other_settings_are_another_scoring(scored: Scorer) -> None:
    first = scored()
    second = scored(settings=SETTINGS.model_copy(update={"n_steps": 2}))
    assert second.digest != first.digest
    assert len(second.fractions) == 3


def test_cut_off_scoring_goes_on_after_its_last_chunk(
    scored: Scorer, files: TrialLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_IMAGES", 2)
    whole, paths = scored(), files.scores("val")
    paths.about.unlink()
    paths.journal.unlink()
    seen: list[int] = []

    def check() -> None:
        seen.append(1)
        if len(seen) == 2:
            raise TrialInterrupted

    with pytest.raises(TrialInterrupted):
        scored(check=check)
    assert len(paths.journal.read_text().splitlines()) == 2
    again = scored(check=lambda: seen.append(1))
    assert len(seen) == 2 + 2 + 3  # two chunks were left, and three files were written
    for name, column in whole.values.items():
        np.testing.assert_array_equal(again.values[name], column)
    np.testing.assert_array_equal(again.curves, whole.curves)


def test_protocol_of_br_npa_changes_raw_areas_alone(scored: Scorer) -> None:
    standard, other = scored(), scored(settings=SETTINGS.model_copy(update={"protocol": "br_npa"}))
    curve = np.asarray(other.curves[:, 0], dtype=np.float64)
    np.testing.assert_allclose(other.values["deletion"], np.trapezoid(curve[:, 1:], dx=1 / 3), atol=1e-6)
    np.testing.assert_array_equal(other.values["relevance_gain"], standard.values["relevance_gain"])
    assert not np.allclose(other.values["insertion"], standard.values["insertion"])


def test_finer_maps_are_pooled_to_the_grid(scored: Scorer) -> None:
    table = scored(settings=SETTINGS.model_copy(update={"grid": 2, "n_steps": 16}))
    assert table.about["grid"] == [2, 2]
    assert table.fractions == (0.0, 0.25, 0.5, 0.75, 1.0)  # a step for each of the four cells


def test_maps_with_nan_are_undefined_counted_and_said(
    scored: Scorer, files: TrialLayout, caplog: pytest.LogCaptureFixture
) -> None:
    saliency = np.load(files.archive("val").saliency)
    saliency[0, 1, 1], saliency[1] = np.nan, 0.25
    np.save(files.archive("val").saliency, saliency)
    with caplog.at_level(logging.WARNING):
        table = scored()
    assert all(math.isnan(column[0]) for name, column in table.values.items() if not table.is_gain(name))
    assert table.terms["relevance_gain.area"][:2].tolist() == [0.0, 0.0]  # it tells nothing, and the image counts
    assert np.isfinite([*table.terms.values()]).all()
    assert np.isnan(table.curves[0]).all()
    assert math.isnan(table.values["deletion"][1])  # a flat map has no order
    assert table.values["gini"][1] == 0.0
    assert table.n_undefined()["gini"] == 1
    assert "1 of 6 maps are not finite" in caplog.text


def test_class_is_the_predicted_one_or_the_label(scored: Scorer, files: TrialLayout) -> None:
    path = files.archive("val").images
    first, row, *rest = path.read_text().splitlines()
    cells = row.split(",")
    cells[4] = str(1 - int(cells[2]))  # the prediction of the first image is wrong
    path.write_text("\n".join([first, ",".join(cells), *rest]) + "\n")
    wrong, right = (scored(settings=SETTINGS.model_copy(update={"target": one})) for one in ("predicted", "label"))
    np.testing.assert_allclose(wrong.curves[0], 1 - np.asarray(right.curves[0]), atol=1e-5)
    np.testing.assert_array_equal(wrong.curves[1:], right.curves[1:])


def test_archive_of_another_checkpoint_is_refused(scored: Scorer, files: TrialLayout) -> None:
    path = files.archive("val").about
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "epoch": 7}))
    with pytest.raises(ConfigError, match=r"archive_val\.json is of epoch 7 .* of epoch 1"):
        scored()


def test_archive_of_another_data_set_is_refused(
    scored: Scorer, files: TrialLayout, data: DataSource, config: ExperimentConfig
) -> None:
    path = files.archive("val").images
    path.write_text(path.read_text().replace("val/red/0.png", "val/red/zero.png"))
    with pytest.raises(DataError, match=r"1 images that the val split lacks, the first is 'val/red/zero\.png'"):
        scored()


def test_archive_of_another_crop_is_refused(config: ExperimentConfig, data: DataSource, files: TrialLayout) -> None:
    other = with_settings(config, {"data.crop_ratio": 0.5})
    with pytest.raises(ConfigError, match=r"data\.crop_ratio: is 0\.5, and .*archive_val\.json was made with 0\.875"):
        Evaluation.open(files.best, data, config=other).score(files.archive("val"), files.scores("val"))


def test_other_pictures_under_the_same_names_are_refused(scored: Scorer, files: TrialLayout) -> None:
    """The model is as sure of the archived images as it can be, and of these ones it is not at all."""
    path = files.archive("val").images
    head, *rows = [line.split(",") for line in path.read_text().splitlines()]
    column = head.index("confidence")
    for row in rows:
        row[column] = str(float(row[column]) - 0.4)
    path.write_text("\n".join(map(",".join, [head, *rows])) + "\n")
    with pytest.raises(DataError, match=r"get other probabilities than in the archive .* 0\.40\), so their pixels"):
        scored()
    assert not files.scores("val").about.exists()


def test_other_classes_of_the_same_images_are_refused(scored: Scorer, files: TrialLayout) -> None:
    path = files.archive("val").images
    first, row, *rest = path.read_text().splitlines()
    cells = row.split(",")
    cells[2], cells[3] = "0" if cells[2] == "1" else "1", cells[3]
    path.write_text("\n".join([first, ",".join(cells), *rest]) + "\n")
    with pytest.raises(DataError, match="has 1 images of other classes than the val split, the first is"):
        scored()


def test_split_with_more_images_than_the_archive_is_refused(data: DataSource, files: TrialLayout) -> None:
    """An archive of two of the six images, that are not those which all trials are scored on."""
    table = data.tables.val
    wanted = {table.image_ids[row] for row in fixed_subset(table, 2)}
    archived = replace(read_archive(files.archive("val")), image_ids=tuple(sorted({*table.image_ids} - wanted))[:2])
    with pytest.raises(DataError, match="val split has 2 images to score that the archive lacks, the first is 'val/"):
        scored_ids(archived, table, 2)


def test_more_images_than_archived_are_refused(scored: Scorer) -> None:
    with pytest.raises(ConfigError, match=r"at most the 6 archived val images, got 7"):
        scored(settings=SETTINGS.model_copy(update={"n_images": 7}))


def test_archive_without_saliency_is_refused(scored: Scorer, files: TrialLayout) -> None:
    path = files.archive("val").about
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "arrays": {}}))
    with pytest.raises(ConfigError, match="has no saliency"):
        scored()


def test_baselines_are_scored_on_the_same_images(data: DataSource, files: TrialLayout) -> None:
    evaluation = Evaluation.open(files.best, data)
    found = evaluation.baselines(files.archive("val"), ["uniform", "centre"], settings=SETTINGS)
    assert found["uniform"].image_ids == data.tables.val.image_ids
    assert found["uniform"].n_undefined()["relevance_gain"] == 6
    assert found["uniform"].means()["entropy"] == pytest.approx(1.0)
    assert found["centre"].means()["gini"] > 0.1


def test_sanity_steps_are_of_the_named_images(data: DataSource, files: TrialLayout) -> None:
    steps = Evaluation.open(files.best, data).sanity("val", data.tables.val.image_ids[:2])
    assert {len(step.similarity) for step in steps} == {2}
    assert steps[0].parts == ("head",)


def test_ground_truth_is_scored_where_there_is_some(tmp_path: Path) -> None:
    from attnsearch.config.load import load_experiment
    from tests.conftest import TINY

    config = load_experiment("br_npa_low_res", profile="demo", overrides=[*TINY, "data.image_size_px=64"])
    data = open_data(config.data)
    context = RecordingContext(tmp_path)
    fit(config, context, data=data)
    files = TrialLayout(tmp_path)
    evaluation = Evaluation.open(files.best, data)
    evaluation.run("val", archive=files.archive("val"))
    table = evaluation.score(files.archive("val"), files.scores("val"))
    assert {"pointing_hit", "energy_in_mask", "rank_in_mask", "iou_in_mask", "best_iou_in_mask"} < set(table.values)
    assert not [name for name in table.values if "@" in name]
    means = table.means()
    assert means["best_iou_in_mask"] >= means["iou_in_mask"]  # 0.5 is one of those that it is chosen from
    assert 0.1 <= table.about["iou_thresholds"]["iou_in_mask"] <= 0.9
    truth = evaluation.baselines(files.archive("val"), ["parts"])["parts"]
    assert truth.means()["pointing_hit"] == 1.0
    check_parts(evaluation, files)
    assert truth.means()["energy_in_mask"] > table.means()["energy_in_mask"]


def check_parts(evaluation: Evaluation, files: TrialLayout) -> None:
    """Parts are exchanged and removed in the images of an archive; each of three parts alone tells the two classes."""
    settings = ScoreSettings(families=("parts",))
    table = evaluation.score(files.archive("val"), files.scores("val"), settings=settings)
    means = table.means()
    assert {name: reason.partition(":")[0] for name, reason in table.reasons.items()} == {
        "csdc": "trivial",
        "completeness": "trivial",
        "target_sensitivity": "no pairs",
        "explainability": "trivial",
    }
    assert all(math.isnan(means[name]) for name in table.reasons)
    assert all(0 <= means[name] <= 1 for name in ("sd_swap", "deletion_check", "background_independence"))
    assert len({table.about["iou_thresholds"][name] for name in ("csdc", "deletion_check", "distractibility")}) == 1
    assert table.trial_means()["target_sensitivity"] == 0.5
    floor = evaluation.baselines(files.archive("val"), ["random"], settings=settings)["random"]
    assert floor.means()["background_independence"] == pytest.approx(means["background_independence"])
    assert floor.means()["saliency_on_parts"] != means["saliency_on_parts"]


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """A trained trial of re-identification, opened on its data, with an archive of its validation images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTNSEARCH_CACHE", str(tmp_path_factory.mktemp("drawn")))
        config = reid_config()
        data = open_data(config.data)
        context = RecordingContext(tmp_path_factory.mktemp("retrieved"))
        fit(config, context, data=data)
    files = TrialLayout(context.directory)
    evaluation = Evaluation.open(files.best, data)
    evaluation.run("val", archive=files.archive("val"))
    return evaluation, context.directory


@pytest.fixture
def matches(retrieved: tuple[Evaluation, Path], tmp_path: Path) -> Scorer:
    evaluation, folder = retrieved
    files = TrialLayout(Path(shutil.copytree(folder, tmp_path / "trial")))
    few = ScoreSettings(families=("faithfulness", "localisation"), n_steps=4, n_random=1, grid=4, fill="black")

    def run(**changes: Any) -> ScoreTable:
        return evaluation.score(files.archive("val"), files.scores("val"), settings=few.model_copy(update=changes))

    return run


def test_queries_are_scored_and_the_rank_of_their_matches_is_followed(
    matches: Scorer, retrieved: tuple[Evaluation, Path]
) -> None:
    table, archived = matches(), read_archive(TrialLayout(retrieved[1]).archive("val"))
    retrieval = archived.retrieval
    assert retrieval is not None
    queries = np.flatnonzero(retrieval.is_query)
    assert table.image_ids == tuple(retrieval.image_ids[row] for row in queries)
    assert len(table.image_ids) == 6  # 3 individuals, 2 cameras
    assert {"relevance_gain", "ap_relevance_gain", "ap_deletion_gain", "pointing_hit"} < set(table.values)
    curves = dict(zip(table.curve_names, table.curves.swapaxes(0, 1), strict=True))
    np.testing.assert_allclose(curves["ap_deletion"][:, 0], retrieval.average_precision, atol=1e-6)
    confidences = archived.confidences[[archived.image_ids.index(image_id) for image_id in table.image_ids]]
    np.testing.assert_allclose(curves["deletion"][:, 0], confidences, atol=1e-5)


def test_the_label_of_a_query_is_its_nearest_match(matches: Scorer, retrieved: tuple[Evaluation, Path]) -> None:
    retrieval = read_archive(TrialLayout(retrieved[1]).archive("val")).retrieval
    assert retrieval is not None
    cosines = retrieval.features @ retrieval.features.T  # features have length 1
    is_match = (retrieval.labels[:, None] == retrieval.labels) & ~retrieval.is_query
    is_match &= retrieval.removal_keys[:, None] != retrieval.removal_keys
    nearest = np.where(is_match, cosines, -2.0).max(axis=1)[retrieval.is_query]
    np.testing.assert_allclose(matches(target="label").curves[:, 0, 0], nearest, atol=1e-5)


def test_more_images_than_queries_are_refused(matches: Scorer) -> None:
    assert len(matches(n_images=2).image_ids) == 2
    with pytest.raises(ConfigError, match="at most the 6 archived val queries with a match, got 7"):
        matches(n_images=7)


def test_a_gallery_of_other_images_is_refused(matches: Scorer, tmp_path: Path) -> None:
    path = TrialLayout(tmp_path / "trial").archive("val").retrieval
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(DataError, match=r"features_val\.npy is of other images than the val split"):
        matches()


def test_other_queries_under_the_same_names_are_refused(matches: Scorer, tmp_path: Path) -> None:
    path = TrialLayout(tmp_path / "trial").archive("val").retrieval
    rows = list(csv.DictReader(path.read_text().splitlines()))
    for row in rows:
        if row["is_query"] == "1":
            row["average_precision"] = str(float(row["average_precision"]) - 0.4)
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"get other average precisions than in the archive \(median gap 0\.40\)"):
        matches()


def test_baselines_of_a_match_are_scored_for_the_same_queries(retrieved: tuple[Evaluation, Path]) -> None:
    evaluation, folder = retrieved
    settings = ScoreSettings(families=("faithfulness", "localisation"), n_steps=4, fill="black")
    found = evaluation.baselines(TrialLayout(folder).archive("val"), ["pair", "occlusion", "parts"], settings=settings)
    assert {table.image_ids for table in found.values()} == {found["pair"].image_ids}
    assert found["parts"].means()["pointing_hit"] == 1.0
    drop = found["occlusion"].curves[:, 0, 0] - found["occlusion"].curves[:, 0, 1]
    assert (drop >= found["pair"].curves[:, 0, 0] - found["pair"].curves[:, 0, 1] - 1e-5).all()


def test_a_gain_of_calibrated_probabilities_stands_where_a_temperature_was_fitted(
    scored: Scorer, files: TrialLayout
) -> None:
    """The archive of validation holds it; that of test takes it from there."""
    assert "calibrated_gain" not in scored().values
    path = files.archive("val").about
    about = json.loads(path.read_text())
    assert about["temperature"] is None  # six images cannot have twenty errors
    path.write_text(json.dumps({**about, "temperature": 2.0}))
    table = scored()
    assert table.about["temperature"] == 2.0
    plain, calibrated = (table.terms[f"{gain}.untouched"] for gain in ("relevance_gain", "calibrated_gain"))
    odds = plain / (1 - plain)  # two classes, so that halved logits give the root of the odds
    np.testing.assert_allclose(calibrated / (1 - calibrated), np.sqrt(odds), rtol=1e-4)
