"""Hyper-parameter search for interpretable fine-grained vision models: what Python code uses, imported on use.

`import attnsearch as at` imports neither torch nor pandas; each name below does so when it is first used. The names of
`__all__` are the public ones, described in README.md, "From Python".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnsearch.config.data import DataSettings
    from attnsearch.config.model import BackboneSettings
    from attnsearch.data.build import register_dataset
    from attnsearch.data.tables import ListedImage, Listing
    from attnsearch.errors import AttnSearchError
    from attnsearch.metrics.registry import Metric, register_metric
    from attnsearch.models import register_model
    from attnsearch.models.backbones.generic import FeatureBackbone, build_backbone
    from attnsearch.models.base import AttentionModel
    from attnsearch.types import AttentionOutput, Batch

__version__ = "0.1.0"
__all__ = [
    "AttentionModel",
    "AttentionOutput",
    "AttnSearchError",
    "BackboneSettings",
    "Batch",
    "DataSettings",
    "FeatureBackbone",
    "ListedImage",
    "Listing",
    "Metric",
    "build_backbone",
    "register_dataset",
    "register_metric",
    "register_model",
]

_MODULES = {
    "config.data": ("DataSettings",),
    "config.model": ("BackboneSettings",),
    "data.build": ("register_dataset",),
    "data.tables": ("ListedImage", "Listing"),
    "errors": ("AttnSearchError",),
    "metrics.registry": ("Metric", "register_metric"),
    "models": ("register_model",),
    "models.backbones.generic": ("FeatureBackbone", "build_backbone"),
    "models.base": ("AttentionModel",),
    "types": ("AttentionOutput", "Batch"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
