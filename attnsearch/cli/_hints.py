"""What to write instead of an option or command that does not exist."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NO_OPTION = re.compile(r"No such option: '?(--?[\w-]+)")
_NO_COMMAND = re.compile(r"No such command '([^']*)'")
_INSTEAD = {
    "--dry-run": "`attnsearch search STUDY --dry-run` says what a study will cost, `attnsearch validate` checks one",
    "--demo": "write --profile demo",
    "--gpu": "write --device cuda:0",
    "--resume": "leave it out: a search or training that is started again continues",
    "--output": "write --results DIR",
    "--help-all": "write --help",
}
_COMMANDS = {
    "help": "write attnsearch --help, or attnsearch COMMAND --help",
    "run": "write attnsearch search STUDY, or attnsearch train CONFIG",
    "ls": "write attnsearch list",
    "check": "write attnsearch data check FOLDER, or attnsearch validate STUDY",
    "serve": "write attnsearch dashboard",
    "ui": "write attnsearch dashboard",
}


def with_hint(message: str, words: Sequence[str]) -> str:
    """The message of a parser, with what to write instead where that is known.

    Args:
        words: of the command line.
    """
    if command := _NO_COMMAND.search(message):
        hint = _COMMANDS.get(command[1], "")
    elif option := _NO_OPTION.search(message):
        hint = _INSTEAD.get(option[1]) or _setting(option[1], words)
    else:
        hint = ""
    return f"{message.rstrip('.')}; {hint}" if hint else message


def _setting(option: str, words: Sequence[str]) -> str:
    """How a setting is written whose name was taken for that of an option, with the value that stands behind it."""
    from attnsearch.config.study import setting_keys

    name = option.lstrip("-").replace("-", "_").lower()
    keys = [key for key in setting_keys() if name in (key, key.split(".")[-1])]
    return f"write {' or '.join(f'{key}={_value(option, words)}' for key in keys)}" if keys else ""


def _value(option: str, words: Sequence[str]) -> str:
    for index, word in enumerate(words):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and index + 1 < len(words) and not words[index + 1].startswith("-"):
            return words[index + 1]
    return ".."
