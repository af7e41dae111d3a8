"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attnsearch.cli._options import RESULTS, Storage


def report(
    results: Annotated[Path, typer.Argument(help="The results folder, an experiment in it, or its name.")] = RESULTS,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="By default report.html in the folder.")
    ] = None,
    pdf: Annotated[Path | None, typer.Option("--pdf", metavar="DIR", help="Also writes every chart as PDF.")] = None,
    storage: Storage = None,
) -> None:
    """Write one HTML file that tells of all studies of an experiment and needs no network."""
    from attnsearch.cli._console import print_line, size
    from attnsearch.report.page import build_report, save_figures, write_page
    from attnsearch.results.reader import find_folder

    folder = find_folder(results, RESULTS)
    built = build_report(folder, storage=storage)
    target = to or folder / "report.html"
    write_page(built, target)
    print_line(f"{target}: {size(target.stat().st_size)}")
    for path in [] if pdf is None else save_figures(built, pdf):
        print_line(str(path))
