"""Held-out accuracy and latency of the dense and the shipped artifact, in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import artifact_hits
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.pipeline.context import BuildContext

__all__ = ["Evaluation", "evaluate"]

_LATENCY_RUNS, _LATENCY_SECONDS = 100, 60.0
_EVALUATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurements of the `dense` and the `shipped` artifact.

    Args:
        hits: per held-out image, whether it is classified rightly.
        latency: of one batch.
        runs: timed runs behind each latency.
    """

    hits: Mapping[str, npt.NDArray[np.bool_]]
    latency: Mapping[str, Latency]
    runs: int


def evaluate(
    context: BuildContext, dense: Artifact, chosen: Artifact, shipped: Artifact
) -> Evaluation:
    """Classify the held-out images with both artifacts and time both in turns.

    Args:
        context: of the build.
        dense: the dense float32 artifact.
        chosen: the artifact that is shipped; `dense` itself if nothing was changed.
        shipped: its copy in the bundle.
    """
    settings, progress, held_out = context.settings, context.progress, context.images.held_out
    models = {"dense": OnnxModel(dense.path, threads=settings.threads)}
    changed = chosen is not dense
    models["shipped"] = (
        OnnxModel(shipped.path, threads=settings.threads) if changed else models["dense"]
    )
    batch_size = context.model.batch_of(_EVALUATION_BATCH)
    size = settings.batch or batch_size
    progress.stage("held-out accuracy", -(-len(held_out) // size) * (2 if changed else 1))

    def hits_of(model: OnnxModel) -> npt.NDArray[np.bool_]:
        return artifact_hits(model, held_out, batch_size=batch_size, progress=progress)

    hits = {"dense": hits_of(models["dense"])}
    hits["shipped"] = hits_of(models["shipped"]) if changed else hits["dense"]
    progress.stage("latency", 1)
    latency = _latency(models, held_out, settings.batch or 1)
    return Evaluation(hits=hits, latency=latency, runs=len(latency["dense"].milliseconds))


def _latency(models: dict[str, OnnxModel], images: ImageList, batch: int) -> dict[str, Latency]:
    inputs = np.repeat(images.inputs(0, 1), batch, axis=0)
    calls = {name: (lambda m=model: m.logits(inputs)) for name, model in models.items()}
    return measure_latency(calls, runs=_LATENCY_RUNS, seconds=_LATENCY_SECONDS)
