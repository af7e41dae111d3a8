"""Reads files that may be damaged or foreign: whatever breaks becomes one line with the place and the fix."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from attnsearch.errors import AttnSearchError, StoreError
from attnsearch.files import explain_os_error
from attnsearch.store.urls import redact

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_REASON = 200
"""Characters of a reason that are shown, because it may quote damaged content at any length."""

Model = TypeVar("Model", bound="Content")


class Content(BaseModel):
    """What a JSON file of the results must hold; other keys are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")


class _Version(Content):
    format: int


@contextlib.contextmanager
def content_errors(path: Path, fix: str, *, what: str = "cannot be read") -> Iterator[None]:
    """Turns whatever the content of a file raises while it is read into a `StoreError` that names file and fix.

    Parsers raise nearly anything on damaged bytes, and all of it means the same here; keep the block to reading.

    Args:
        what: the predicate of the message, before the reason.
    """
    try:
        yield
    except AttnSearchError:
        raise
    except OSError as error:
        raise explain_os_error(error, path) from error
    except Exception as error:
        raise StoreError(f"{path} {what} ({reason_of(error)}), {fix}") from error


def reason_of(error: BaseException) -> str:
    """The first line of the innermost cause of an error, with its type unless that is `ValueError`."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    else:
        message = str(error).strip().partition("\n")[0]
        text = message if type(error) is ValueError and message else f"{type(error).__name__}: {message}"
    text = "".join(letter if letter.isprintable() else "?" for letter in redact(text))
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"


def read_json(path: Path, model: type[Model], *, version: int, fix: str) -> Model:
    """A JSON file that holds its own `format`.

    Raises:
        StoreError: the file is missing or damaged, or of another format.
    """
    with content_errors(path, fix):
        text = path.read_bytes()
        stored = _Version.model_validate_json(text).format
        if stored != version:
            raise StoreError(f"{path} has the format {stored}, this version reads {version}, update attnsearch")
        return model.model_validate_json(text)


def open_array(path: Path, fix: str) -> NDArray[Any]:
    """A `.npy` file mapped read-only; it may not hold Python objects.

    Raises:
        StoreError: the file is missing, cut off or no array.
    """
    import numpy as np

    with content_errors(path, fix, what="is not a whole .npy file"):
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
        return array
