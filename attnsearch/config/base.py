"""The base of every settings class, and the error of a check over several keys."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Frozen, strict settings; unknown keys and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True)


class PlacedError(ValueError):
    """Faults of a settings class that lie at places inside of it."""

    def __init__(self, faults: Mapping[tuple[str, ...], str]) -> None:
        super().__init__("; ".join(f"{'.'.join(place)} {message}" for place, message in faults.items()))
        self.faults = faults
