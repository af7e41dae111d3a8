"""All commands in one place, and what becomes of an error: lines on stderr and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from attnsearch import __version__
from attnsearch.cli import data, weights
from attnsearch.cli._console import (
    command_text,
    interruptible,
    libraries_to_stderr,
    logging_to_stderr,
    print_line,
    records_redacted,
    report_error,
    report_interruption,
    report_unexpected,
    say,
)
from attnsearch.cli._hints import with_hint
from attnsearch.cli._options import with_plugins
from attnsearch.cli._style import FAINT, is_terminal, painted
from attnsearch.cli.compare import compare
from attnsearch.cli.confirm import confirm
from attnsearch.cli.confusion import confusion
from attnsearch.cli.dashboard import dashboard
from attnsearch.cli.evaluate import evaluate
from attnsearch.cli.export import export
from attnsearch.cli.extend import extend
from attnsearch.cli.faithfulness import faithfulness
from attnsearch.cli.follow import follow
from attnsearch.cli.leakage import leakage
from attnsearch.cli.list import list_all
from attnsearch.cli.log import log
from attnsearch.cli.prune_files import prune_files
from attnsearch.cli.ray import ray
from attnsearch.cli.report import report
from attnsearch.cli.retrieval import retrieval
from attnsearch.cli.search import demo, search
from attnsearch.cli.show import show
from attnsearch.cli.slurm import slurm
from attnsearch.cli.status import status
from attnsearch.cli.train import train
from attnsearch.cli.validate import validate
from attnsearch.cli.visualize import visualize
from attnsearch.cli.worker import worker
from attnsearch.errors import DONE, FAILED, INTERRUPTED, MISUSED, AttnSearchError

app = typer.Typer(
    name="attnsearch",
    help="Hyper-parameter search for interpretable fine-grained image classifiers.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"attnsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hyper-parameter search for interpretable fine-grained image classifiers."""


app.command()(demo)
app.command()(search)
app.command()(confirm)
app.command()(extend)
app.command()(train)
app.command()(worker)
app.command()(slurm)
app.command()(ray)
app.command(hidden=True)(follow)
app.command()(evaluate)
app.command()(faithfulness)
app.command()(leakage)
app.command()(confusion)
app.command()(retrieval)
app.command()(compare)
app.command("list")(list_all)
app.command()(show)
app.command()(status)
app.command()(validate)
app.command()(dashboard)
app.command()(visualize)
app.command()(report)
app.command()(log)
app.command()(export)
app.command("prune-files")(prune_files)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
for group in (app, data.app, weights.app):
    for command in group.registered_commands:
        assert command.callback is not None
        command.callback = with_plugins(libraries_to_stderr()(command.callback))


CONTINUING = ("search", "train", "demo", "confirm", "faithfulness")
"""Commands that continue where they stopped when they are given again."""
COMPLETION_VARIABLE = "_ATTNSEARCH_COMPLETE"
"""Set by a shell that asks for completions."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after `attnsearch`; None takes those of the process.
    Returns:
        0 done, 1 failed or environment, 2 what the user wrote, 75 a worker has more to do, 130 interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = _ended(words)
    if code == INTERRUPTED and words[0] in CONTINUING:
        say(f"to continue: {command_text(words)}")
    return code


def _ended(words: list[str]) -> int:
    """Runs one command; the exit code, whatever it raises."""
    try:
        with interruptible(), records_redacted(), logging_to_stderr():
            _announce(words)
            return _run(words or ["--help"])
    except typer.TyperException as error:  # a wrong option or argument
        return report_error(with_hint(error.format_message().replace(": Value error, ", ": "), words), MISUSED)
    except AttnSearchError as error:
        return report_error(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        return report_interruption(INTERRUPTED)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:  # an error of the package: the user gets one line, the traceback goes to a file
        return report_unexpected(error, FAILED)


def _announce(words: Sequence[str]) -> None:
    """Says at once what begins, where somebody looks: importing what a command needs takes seconds."""
    named = [word for word in words[:2] if not word.startswith("-")]
    if named and not {"--help", "-h"} & {*words} and COMPLETION_VARIABLE not in os.environ and is_terminal(sys.stderr):
        say(painted(f"{' '.join(named)} ..", FAINT, sys.stderr))


def _run(words: list[str]) -> int:
    """Runs one command as typer does, but leaves Ctrl-C and all errors to the caller."""
    command = typer.main.get_command(app)
    if COMPLETION_VARIABLE in os.environ:
        return int(command.main(words, prog_name="attnsearch", standalone_mode=False) or DONE)
    try:
        with command.make_context("attnsearch", words) as context:
            return int(command.invoke(context) or DONE)
    except typer.Exit as ended:  # by --help or --version
        return ended.exit_code
