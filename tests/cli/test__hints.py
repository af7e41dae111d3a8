"""What to write instead of an option or command that does not exist."""

from __future__ import annotations

import pytest

from attnsearch.cli import main
from attnsearch.cli._hints import with_hint
from attnsearch.errors import MISUSED


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("search cnn --epochs 3", "write train.epochs=3"),
        ("search cnn --epochs=3", "write train.epochs=3"),
        ("search cnn --n_trials 4", "write n_trials=4"),
        ("search cnn --batch-size 8", "write train.batch_size=8"),
        ("search cnn --lr", "write train.optimizer.lr=.."),
        ("search cnn --demo", "write --profile demo"),
        ("search cnn --resume", "a search or training that is started again continues"),
        ("help", "write attnsearch --help"),
        ("ls", "write attnsearch list"),
    ],
)
def test_a_wrong_word_names_the_right_one(line: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == MISUSED
    err = capsys.readouterr().err
    assert err.startswith("error: No such ")
    assert hint in err


def test_what_nobody_knows_stays_as_it_is() -> None:
    assert with_hint("No such option: --xyzzy", ["--xyzzy"]) == "No such option: --xyzzy"
    assert with_hint("Missing argument 'STUDY'.", []) == "Missing argument 'STUDY'."
