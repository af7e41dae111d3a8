"""Feature extractors from timm, without classifiers."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from typing import Any

import timm

from attnsearch.errors import ConfigError


def check_known(name: str, *, modules: Sequence[str] = (), examples: Sequence[str]) -> None:
    """Checks that timm has a model.

    Args:
        modules: of timm, whose models are proposed for a misspelled name; of all modules by default.
        examples: are proposed where no name is near.
    Raises:
        ConfigError: it has none.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(module=list(modules) or ""), n=3) or examples
        raise ConfigError(f"model.backbone {name!r} is unknown to timm {timm.__version__}, try {' or '.join(near)}")


def create_body(name: str, *, width: float = 1.0, **options: Any) -> Any:
    """A timm model without classifier and weights.

    Args:
        width: that the options stand for, for the message.
    Raises:
        ConfigError: timm cannot build it with these options.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # timm renames old models such as tv_resnet50
            return timm.create_model(name, pretrained=False, num_classes=0, **options)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        given = "" if width == 1.0 else f" with model.width {width:g}"
        raise ConfigError(f"model.backbone {name!r}{given} cannot be built: {reason}; use another one") from error
