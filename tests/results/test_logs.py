"""A study is logged after its search, with the numbers of its database, and only once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from attnsearch.cli.app import main
from attnsearch.errors import StoreError
from attnsearch.loggers.base import LoggerName
from attnsearch.metrics.registry import is_score
from attnsearch.results.logs import log_study
from attnsearch.results.reader import load_study as read_study
from attnsearch.results.study import StudyReader
from tests.loggers.reading import ON_EACH_LOGGER, read_back
from tests.loggers.test_logger_contract import single


@pytest.fixture
def study(finished_run: Path, tmp_path: Path) -> StudyReader:
    """A copy of a trained run, without loggers."""
    return read_study(Path(shutil.copytree(finished_run, tmp_path / "results")) / "demo/br_npa_low_res")


def key_of(study: StudyReader) -> str:
    return f"{study.rows.uuid[:13]}-00000"


@ON_EACH_LOGGER
def test_what_is_stored_is_what_the_logger_holds(study: StudyReader, name: LoggerName) -> None:
    for _ in range(2):  # the second call finds all of it there
        words = ["log", str(study.layout.study_dir), "--to", name]
        assert main(words) == 0
    found = read_back(name, study.layout.logged(name), number=0, key=key_of(study))
    kept = single if name == "tensorboard" else float
    stored = [
        [epoch, key, kept(value)]
        for epoch, row in study.trial(0).epochs.T.to_dict().items()
        for key, value in row.items()
        if not is_score(str(key).partition("/")[2])  # those of the best epoch are not of its training
    ]
    assert found["epochs"] == sorted(stored)
    assert found["best"] == {key: kept(value) for key, value in study.trial(0).row.metrics.items()}
    assert float(found["settings"]["train.optimizer.lr"]) == study.trial(0).config.train.optimizer.lr
    assert (found["state"], found["n_images"]) == ("complete", 1)


def test_logger_that_fails_is_an_error_here(study: StudyReader, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", str(study.layout.study_dir), "--to", "mlfow"]) == 2
    assert "no logger 'mlfow'" in capsys.readouterr().err
    study.layout.study_dir.joinpath("logs").write_text("no folder")
    with pytest.raises(StoreError, match="not all of it was logged by tensorboard"):
        log_study(study, "tensorboard")
