"""Arguments and options that several commands share."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from attnsearch import plugins
from attnsearch.cli import _completion
from attnsearch.errors import ConfigError
from attnsearch.types import URL_VARIABLE

RESULTS = Path("results")


def parse_workers(text: str) -> int:
    """A number of processes.

    Raises:
        ConfigError: not a whole number, or one beyond the bounds of `n_workers`.
    """
    from attnsearch.config.study import MAX_WORKERS

    if not text.isdecimal() or len(text) > len(str(MAX_WORKERS)) or not 1 <= int(text) <= MAX_WORKERS:
        message = f"must be a whole number of at least 1 and at most {MAX_WORKERS}"
        raise ConfigError(f"--workers {message}, got {text[:80]!r}")
    return int(text)


_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s?)?")
_SECONDS = (86_400, 3600, 60, 1)


def parse_duration(text: str) -> float:
    """Seconds, from text such as `90`, `45m` or `3h50m`.

    Raises:
        ConfigError: another form, or no time at all.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = sum(int(part or 0) * unit for part, unit in zip(found.groups(), _SECONDS, strict=True)) if found else 0
    if not seconds:
        raise ConfigError(f"a time is written as 3h50m, 45m or 90s, got {text[:80]!r}")
    return float(seconds)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings by dotted key, for example train.epochs=5.",
        show_default=False,
        autocompletion=_completion.settings,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        help="A file of configs/profiles: demo, photos or your own.",
        autocompletion=_completion.profiles,
    ),
]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all results.")]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        envvar=URL_VARIABLE,
        show_default=False,
        help="Database of the trials; by default hypSearch.db of the experiment, whatever its files name.",
    ),
]


def import_plugins(modules: list[str] | None) -> list[str]:
    """Imports what `--plugin` names, before anything is looked up by its name."""
    plugins.load(modules or ())
    return modules or []


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        show_default=False,
        callback=import_plugins,
        help="A module, or path/to/file.py, with models, data sets or metrics of your own; may be repeated.",
    ),
]


def with_plugins(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the option `--plugin`, where it reads settings and does not take the plugins itself."""
    parameters = inspect.signature(command, eval_str=True).parameters
    if "plugins" in parameters or not {"overrides", "results"} & set(parameters):
        return command

    @wraps(command)
    def run(*args: Any, plugins: list[str], **named: Any) -> Any:  # they are imported already
        return command(*args, **named)

    return _with_parameters(command, run, {"plugins": Plugins})


PORT = 8080
"""Where `attnsearch dashboard` serves unless another port is named."""
SETTINGS = {"n_trials": "n_trials", "device": "runtime.device", "seed": "seed"}
"""Name of an option -> the setting that it is another way to write."""
_SETTING_OPTIONS = {
    "n_trials": Annotated[
        int | None, typer.Option("--n-trials", metavar="N", help="As n_trials=N.", show_default=False)
    ],
    "device": Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="As runtime.device=NAME.", show_default=False)
    ],
    "seed": Annotated[int | None, typer.Option("--seed", metavar="N", help="As seed=N.", show_default=False)],
}


def setting_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Gives a command options that are settings: each becomes an override, behind those that are written."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def run(*args: Any, **named: Any) -> Any:
            given = {name: named.pop(name, None) for name in names}
            more = [f"{SETTINGS[name]}={value}" for name, value in given.items() if value is not None]
            return command(*args, **named | {"overrides": [*(named.get("overrides") or ()), *more]})

        return _with_parameters(command, run, {name: _SETTING_OPTIONS[name] for name in names})

    return decorate


def _with_parameters(
    command: Callable[..., Any], run: Callable[..., Any], options: Mapping[str, Any]
) -> Callable[..., Any]:
    """The function that wraps a command, with the command's parameters and those of more options."""
    parameters = inspect.signature(command, eval_str=True).parameters
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in options.items()
    ]
    signature = inspect.Signature([*parameters.values(), *more])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
    return run


AsJson = Annotated[bool, typer.Option("--json", help="One JSON object per line, for machines.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        help="Worker processes; by default one per GPU.",
        parser=parse_workers,
        show_default=False,
    ),
]
StudyArgument = Annotated[
    str,
    typer.Argument(
        help="A study or run in the results: NAME, EXPERIMENT/NAME or its folder.",
        autocompletion=_completion.stored_studies,
    ),
]
BegunStudy = Annotated[
    str,
    typer.Argument(
        help="A study that was begun: NAME, EXPERIMENT/NAME or its folder.", autocompletion=_completion.stored_studies
    ),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        help="Two or more: STUDY is its published trial, STUDY:7 or STUDY:1,2,3 name trials.",
        autocompletion=_completion.stored_studies,
    ),
]
StudyOrFile = Annotated[
    str,
    typer.Argument(
        metavar="STUDY|FILE",
        help="A study or run in the results, or a .safetensors file.",
        autocompletion=_completion.stored_studies,
    ),
]
StudyToSearch = Annotated[
    str,
    typer.Argument(help="A file of studies/ by its bare name, or a path.", autocompletion=_completion.shipped_studies),
]
ConfigToTrain = Annotated[
    str,
    typer.Argument(help="A file of configs/ by its bare name, or a path.", autocompletion=_completion.shipped_configs),
]
StudyOrConfig = Annotated[
    str,
    typer.Argument(
        help="A study or config by its bare name, or a path; a study wins.", autocompletion=_completion.shipped_studies
    ),
]
