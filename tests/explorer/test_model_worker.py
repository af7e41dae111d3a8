"""One kept model at a time answers, and a trial without one says how to get it."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from attnsearch.errors import ConfigError, DataError
from attnsearch.explorer.model_worker import KeptModel, ModelWorker, kept_weights
from attnsearch.results.reader import find_study
from attnsearch.results.study import StudyReader
from attnsearch.results.trial import TrialReader
from tests.explorer.built import Built


@pytest.fixture
def trial(finished_run: Path) -> TrialReader:
    return find_study("br_npa_low_res", finished_run).trial(0)


@pytest.fixture
def worker() -> ModelWorker:
    return ModelWorker()


def test_model_stays_loaded(trial: TrialReader, worker: ModelWorker) -> None:
    first = worker.ask(trial, lambda kept: kept)
    assert worker.ask(trial, lambda kept: kept) is first
    assert first.model.class_names == ("species_1", "species_2")


def test_questions_are_answered_one_by_one_in_one_thread(trial: TrialReader, worker: ModelWorker) -> None:
    at_work, most, names = [0], [0], set()

    def question(_kept: KeptModel) -> None:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        names.add(threading.current_thread().name)
        time.sleep(0.01)
        at_work[0] -= 1

    asking = [threading.Thread(target=worker.ask, args=(trial, question)) for _ in range(4)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert most == [1]
    assert len(names) == 1
    assert threading.current_thread().name not in names


def test_errors_of_a_question_reach_who_asked(trial: TrialReader, worker: ModelWorker) -> None:
    def question(_kept: KeptModel) -> None:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        worker.ask(trial, question)
    assert worker.ask(trial, lambda kept: kept.trial.number) == 0


def test_removed_weights_are_named_with_what_helps(built: Built, finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trial here/hunt:1 has no checkpoint any more: retention removed it"):
        kept_weights(StudyReader(built.layout).trial(1))
    copied = Path(shutil.copytree(finished_run, tmp_path / "results"))
    trial = find_study("br_npa_low_res", copied).trial(0)
    assert kept_weights(trial) == trial.files.best
    trial.files.best.unlink()
    with pytest.raises(ConfigError, match=r"`attnsearch train .*config\.yaml name=br_npa_low_res_again` trains it"):
        kept_weights(trial)


def test_one_image_is_scored_as_those_beside_it(trial: TrialReader, worker: ModelWorker) -> None:
    stored = trial.score_table("val")
    files = sorted(trial.files.directory.rglob("*"))
    before = [path.stat().st_mtime_ns for path in files]
    one = worker.ask(trial, lambda kept: kept.score("val", stored.image_ids[1]))
    assert one.image_ids == stored.image_ids[1:2]
    assert one.about["settings"] == stored.about["settings"]
    assert set(stored.values) == set(one.values)
    few = stored.among(np.arange(len(stored.image_ids)) == 1)
    for name, column in few.terms.items():
        assert one.terms[name] == pytest.approx(column, rel=1e-3, abs=1e-5), name
    for name in ("untouched_score", "energy_in_mask"):
        assert one.values[name] == pytest.approx(few.values[name], rel=1e-3, abs=1e-5), name
    assert sorted(trial.files.directory.rglob("*")) == files
    assert [path.stat().st_mtime_ns for path in files] == before


def test_one_image_of_a_trial_without_scores_is_measured_by_its_settings(
    worker: ModelWorker, finished_run: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(finished_run, tmp_path / "results"))
    trial = find_study("br_npa_low_res", copied).trial(0)
    image_id = trial.score_table("val").image_ids[0]
    trial.files.scores("val").about.unlink()
    one = worker.ask(trial, lambda kept: kept.score("val", image_id))
    with pytest.raises(DataError, match="no image 'nothing'"):
        worker.ask(trial, lambda kept: kept.score("val", "nothing"))
    assert one.about["settings"]["families"] == list(trial.config.evaluation.scores.families)
    assert "best_iou_in_mask" not in one.values  # a threshold of one image would flatter it
    assert not trial.has_scores("val")
