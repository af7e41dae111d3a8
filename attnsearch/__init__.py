"""Hyper-parameter search for interpretable fine-grained vision models: what Python code uses, imported on use.

`import attnsearch as at` imports neither torch nor pandas; each name below does so when it is first used. The names of
`__all__` are the public ones, described in README.md, "From Python".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnsearch.api import run_search, run_training
    from attnsearch.config.data import DataSettings
    from attnsearch.config.model import BackboneSettings
    from attnsearch.data.tables import ListedImage, Listing, register_dataset
    from attnsearch.errors import AttnSearchError
    from attnsearch.evaluation.explain import TrainedModel, load_model
    from attnsearch.figures.explanation import Explanation
    from attnsearch.metrics.perturbation import SaliencyCase
    from attnsearch.metrics.registry import Metric, register_metric
    from attnsearch.models import register_model
    from attnsearch.models.backbones.generic import FeatureBackbone, build_backbone
    from attnsearch.models.base import AttentionModel, Heads, select_maps
    from attnsearch.results.reader import Results, load_results, load_study
    from attnsearch.results.study import StudyReader
    from attnsearch.results.trial import TrialReader
    from attnsearch.types import AttentionOutput, Batch, HeadOutput, Split

__version__ = "0.1.0"
__all__ = [
    "AttentionModel",
    "AttentionOutput",
    "AttnSearchError",
    "BackboneSettings",
    "Batch",
    "DataSettings",
    "Explanation",
    "FeatureBackbone",
    "HeadOutput",
    "Heads",
    "ListedImage",
    "Listing",
    "Metric",
    "Results",
    "SaliencyCase",
    "Split",
    "StudyReader",
    "TrainedModel",
    "TrialReader",
    "build_backbone",
    "load_model",
    "load_results",
    "load_study",
    "register_dataset",
    "register_metric",
    "register_model",
    "run_search",
    "run_training",
    "select_maps",
]

_MODULE_OF = {
    "AttentionModel": "models.base",
    "AttentionOutput": "types",
    "AttnSearchError": "errors",
    "BackboneSettings": "config.model",
    "Batch": "types",
    "DataSettings": "config.data",
    "Explanation": "figures.explanation",
    "FeatureBackbone": "models.backbones.generic",
    "HeadOutput": "types",
    "Heads": "models.base",
    "ListedImage": "data.tables",
    "Listing": "data.tables",
    "Metric": "metrics.registry",
    "Results": "results.reader",
    "SaliencyCase": "metrics.perturbation",
    "Split": "types",
    "StudyReader": "results.study",
    "TrainedModel": "evaluation.explain",
    "TrialReader": "results.trial",
    "build_backbone": "models.backbones.generic",
    "load_model": "evaluation.explain",
    "load_results": "results.reader",
    "load_study": "results.reader",
    "register_dataset": "data.tables",
    "register_metric": "metrics.registry",
    "register_model": "models",
    "run_search": "api",
    "run_training": "api",
    "select_maps": "models.base",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
