"""How long the part protocol takes: every score of the family `parts` of a trial's archived validation images.

usage: python tests/benchmarks/parts.py RESULTS STUDY TRIAL [key=value ...], as of `attnsearch faithfulness`
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

from attnsearch.results import full_scores
from attnsearch.store.trial_layout import TrialLayout


def main(root: Path, study: str, trial: int, overrides: list[str]) -> None:
    """Scores the trial in a folder of its own, so that nothing is read of an earlier scoring."""
    target = full_scores.find_target(study, trial, root)
    settings = ["families=[parts]", "n_images=320", *overrides]
    with full_scores.open_target(target, settings) as evaluation, tempfile.TemporaryDirectory() as folder:
        scores = TrialLayout(Path(folder)).scores(target.split)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        table = evaluation.score(target.archive, scores)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{study}, trial {trial}: {len(table.image_ids)} images, {table.about['settings']['precision']}, ", end="")
    print(f"{torch.get_num_threads()} threads: {seconds:.1f} s, {used:.1f} processor seconds")
    errors = table.standard_errors()
    for name, mean in table.means().items():
        print(f"{name:24} {mean:.4f} ± {errors[name]:.4f}  ({table.n_undefined().get(name, 0)} undefined)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
