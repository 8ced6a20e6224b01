"""Prune a trained Spiking Vision Transformer and turn it into an artifact for an edge device.

    import primesvt_deploy as svit

    model = svit.load("spikformer-2-192-cifar10")
    result = svit.build(model, "bundle", svit.BuildSettings(budget_mb=4))

Names are imported when first used, so that the edge side needs neither torch nor spikingjelly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from primesvt_deploy.version import __version__

if TYPE_CHECKING:
    from primesvt_deploy.analyzing import analyze
    from primesvt_deploy.building import BuildResult, build
    from primesvt_deploy.config import BuildSettings, FinetuneSettings, SearchSettings
    from primesvt_deploy.data import open_data
    from primesvt_deploy.errors import DeployError
    from primesvt_deploy.frontiers import frontier
    from primesvt_deploy.known_frontier import KnownFrontier
    from primesvt_deploy.loading import load
    from primesvt_deploy.model import SViT
    from primesvt_deploy.own import adopt
    from primesvt_deploy.pipeline import export, prune
    from primesvt_deploy.runtime.predict import Classifier
    from primesvt_deploy.training.finetune import finetune

__all__ = [
    "BuildResult",
    "BuildSettings",
    "Classifier",
    "DeployError",
    "FinetuneSettings",
    "KnownFrontier",
    "SViT",
    "SearchSettings",
    "__version__",
    "adopt",
    "analyze",
    "build",
    "export",
    "finetune",
    "frontier",
    "load",
    "open_data",
    "prune",
]

_HOMES = {
    "BuildResult": "building",
    "BuildSettings": "config",
    "Classifier": "runtime.predict",
    "DeployError": "errors",
    "FinetuneSettings": "config",
    "KnownFrontier": "known_frontier",
    "SViT": "model",
    "SearchSettings": "config",
    "adopt": "own",
    "analyze": "analyzing",
    "build": "building",
    "export": "pipeline",
    "finetune": "training.finetune",
    "frontier": "frontiers",
    "load": "loading",
    "open_data": "data",
    "prune": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
