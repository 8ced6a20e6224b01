"""Prune a trained Spiking Vision Transformer and turn it into an artifact for an edge device.

    import primesvt_deploy as svit

    model = svit.load("spikformer-2-192-cifar10")
    result = svit.build(model, "bundle", svit.BuildSettings(budget_mb=4))

Names are imported when first used, so that the edge side needs neither torch nor spikingjelly: an
edge install has those that run a bundle, such as `Classifier`, and says of others what to install.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from primesvt_deploy.version import __version__

if TYPE_CHECKING:
    from primesvt_deploy.bundle.signature import check_signature, load_signing_key
    from primesvt_deploy.data import open_data
    from primesvt_deploy.edge.runtime.predict import Classifier
    from primesvt_deploy.errors import DeployError
    from primesvt_deploy.model.adopt import adopt
    from primesvt_deploy.model.load import load
    from primesvt_deploy.model.svit import SViT
    from primesvt_deploy.pipeline.analyze import analyze
    from primesvt_deploy.pipeline.build import BuildResult, build
    from primesvt_deploy.pipeline.cost import estimate
    from primesvt_deploy.pipeline.export import export
    from primesvt_deploy.pipeline.frontier import frontier
    from primesvt_deploy.pipeline.frontier_files import KnownFrontier
    from primesvt_deploy.pipeline.prune import prune
    from primesvt_deploy.settings import (
        BuildSettings,
        ComputeSettings,
        FinetuneSettings,
        SearchSettings,
    )
    from primesvt_deploy.training.finetune import finetune

__all__ = [
    "BuildResult",
    "BuildSettings",
    "Classifier",
    "ComputeSettings",
    "DeployError",
    "FinetuneSettings",
    "KnownFrontier",
    "SViT",
    "SearchSettings",
    "__version__",
    "adopt",
    "analyze",
    "build",
    "check_signature",
    "estimate",
    "export",
    "finetune",
    "frontier",
    "load",
    "load_signing_key",
    "open_data",
    "prune",
]

_HOMES = {
    "BuildResult": "pipeline.build",
    "BuildSettings": "settings",
    "Classifier": "edge.runtime.predict",
    "ComputeSettings": "settings",
    "DeployError": "errors",
    "FinetuneSettings": "settings",
    "KnownFrontier": "pipeline.frontier_files",
    "SViT": "model.svit",
    "SearchSettings": "settings",
    "adopt": "model.adopt",
    "analyze": "pipeline.analyze",
    "build": "pipeline.build",
    "check_signature": "bundle.signature",
    "estimate": "pipeline.cost",
    "export": "pipeline.export",
    "finetune": "training.finetune",
    "frontier": "pipeline.frontier",
    "load": "model.load",
    "load_signing_key": "bundle.signature",
    "open_data": "data",
    "prune": "pipeline.prune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        from primesvt_deploy.errors import not_installed

        explained = not_installed(error, f"primesvt_deploy.{name}")
        if explained is None:
            raise
        raise explained from None


def __dir__() -> list[str]:
    return sorted(__all__)
