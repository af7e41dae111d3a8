"""How much the command line imports before it has something to do."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("optuna", "pandas", "torch", "sklearn", "matplotlib", "sqlalchemy")
"""Libraries that take from half a second to several to import."""
CODE = f"""
import sys
from attnsearch.cli import main
code = main(sys.argv[1:])
print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["serach"], 2),
        (["search", "br_npa_low_res", "n_trials=many"], 2),
        (["data", "make", "birds", "data.n_images=many"], 2),
    ],
)
def test_help_and_refused_words_import_nothing_heavy(words: list[str], code: int) -> None:
    ended = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (code, "[]"), ended.stderr
