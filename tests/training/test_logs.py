"""The log file of a trial."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from attnsearch.errors import StoreError
from attnsearch.training.trainer import log_to


def test_only_the_package_is_logged_and_only_during_the_block(tmp_path: Path) -> None:
    path, package = tmp_path / "log.txt", logging.getLogger("attnsearch")
    level = package.level
    with log_to(path):
        logging.getLogger("attnsearch.training.trainer").info("epoch %d", 1)
        logging.getLogger("attnsearch.training.trainer").debug("detail")
        logging.getLogger("another").warning("not ours")
    logging.getLogger("attnsearch").warning("too late")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO epoch 1\n", path.read_text())
    assert (package.handlers, package.level) == ([], level)


def test_a_second_attempt_appends(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with log_to(tmp_path / "new" / "log.txt"):
            logging.getLogger("attnsearch").info("attempt %d", attempt)
    assert len((tmp_path / "new" / "log.txt").read_text().splitlines()) == 2


def test_the_handler_goes_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), log_to(tmp_path / "log.txt"):
        raise KeyError
    assert not logging.getLogger("attnsearch").handlers


def test_a_folder_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"/file: File exists"), log_to(tmp_path / "file" / "log.txt"):
        pass
