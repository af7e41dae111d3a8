"""The command `evaluate`: the metrics of one checkpoint on one split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._console import number, print_json, print_line, print_table, say
from attnsearch.cli._options import RESULTS, AsJson, Overrides, Results, Storage, StudyOrFile
from attnsearch.types import Split


def evaluate(
    study: StudyOrFile,
    overrides: Overrides = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="By default the best one.")] = None,
    split: Annotated[Split, typer.Option("--split", help="Which images; a test evaluation is logged.")] = "val",
    results: Results = RESULTS,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Measure the best checkpoint of a trial, or of a file, on a split."""
    from attnsearch.results.names import is_file_name, require_folder_of

    if not is_file_name(study) and storage is None:
        require_folder_of(study, results)
    from attnsearch.results.checkpoints import describe_source, find_trial, open_evaluation
    from attnsearch.results.quality import known_quality, quality_lines

    source = Path(study) if is_file_name(study) else find_trial(study, trial, results, storage)
    with open_evaluation(source, split, overrides or ()) as evaluation:
        title = describe_source(source, evaluation, split)
        say(f"evaluating {title}")
        scores = evaluation.run(split)
        scores |= {f"{split}/{name}": value for name, value in evaluation.floors(split).items()}
    if as_json:
        print_json(scores)
        return
    print_table(("metric", "value"), [(key, number(value)) for key, value in scores.items()], title=title)
    if not isinstance(source, Path):
        print_line("\n".join(["on validation, beside the floors:", *quality_lines(known_quality(source))]))
