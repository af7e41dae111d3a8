"""Hyper-parameter search for interpretable fine-grained vision models: what Python code uses, imported on use.

`import attnsearch as at` imports neither torch nor pandas; each name below does so when it is first used. The names of
`__all__` are the public ones, described in docs/reference/api.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnsearch.api import run_search as run_search
    from attnsearch.api import run_training as run_training
    from attnsearch.config.images import DataSettings as DataSettings
    from attnsearch.config.images import RootedData as RootedData
    from attnsearch.config.model import BackboneSettings as BackboneSettings
    from attnsearch.data.listing import ListedImage as ListedImage
    from attnsearch.data.listing import Listing as Listing
    from attnsearch.data.listing import register_dataset as register_dataset
    from attnsearch.errors import AttnSearchError as AttnSearchError
    from attnsearch.evaluation.evaluation import TrainedModel as TrainedModel
    from attnsearch.evaluation.evaluation import load_model as load_model
    from attnsearch.figures.explanation import Explanation as Explanation
    from attnsearch.metrics.base import Metric as Metric
    from attnsearch.metrics.perturbation import SaliencyCase as SaliencyCase
    from attnsearch.metrics.registry import register_metric as register_metric
    from attnsearch.models import register_model as register_model
    from attnsearch.models.backbones.generic import FeatureBackbone as FeatureBackbone
    from attnsearch.models.backbones.generic import build_backbone as build_backbone
    from attnsearch.models.base import AttentionModel as AttentionModel
    from attnsearch.models.base import Heads as Heads
    from attnsearch.models.base import select_maps as select_maps
    from attnsearch.results.reader import Results as Results
    from attnsearch.results.reader import load_results as load_results
    from attnsearch.results.reader import load_study as load_study
    from attnsearch.results.study import StudyReader as StudyReader
    from attnsearch.results.trial import TrialReader as TrialReader
    from attnsearch.types import AttentionOutput as AttentionOutput
    from attnsearch.types import Batch as Batch
    from attnsearch.types import HeadOutput as HeadOutput
    from attnsearch.types import Split as Split

__version__ = "0.2.0.dev0"
_MODULE_OF = {
    "AttentionModel": "models.base",
    "AttentionOutput": "types",
    "AttnSearchError": "errors",
    "BackboneSettings": "config.model",
    "Batch": "types",
    "DataSettings": "config.images",
    "Explanation": "figures.explanation",
    "FeatureBackbone": "models.backbones.generic",
    "HeadOutput": "types",
    "Heads": "models.base",
    "ListedImage": "data.listing",
    "Listing": "data.listing",
    "Metric": "metrics.base",
    "Results": "results.reader",
    "RootedData": "config.images",
    "SaliencyCase": "metrics.perturbation",
    "Split": "types",
    "StudyReader": "results.study",
    "TrainedModel": "evaluation.evaluation",
    "TrialReader": "results.trial",
    "build_backbone": "models.backbones.generic",
    "load_model": "evaluation.evaluation",
    "load_results": "results.reader",
    "load_study": "results.reader",
    "register_dataset": "data.listing",
    "register_metric": "metrics.registry",
    "register_model": "models",
    "run_search": "api",
    "run_training": "api",
    "select_maps": "models.base",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names and those of every module, such as `__version__`."""
    return sorted([*_MODULE_OF, *(name for name in globals() if name.startswith("__"))])
