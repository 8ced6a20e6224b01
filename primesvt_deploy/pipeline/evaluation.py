"""Held-out accuracy and latency of the dense and the shipped model, as devices run them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import Predictions, artifact_predictions
from primesvt_deploy.measure.latency import Latency, measure_latency
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.progress import Progress

__all__ = ["Evaluation", "evaluate"]

_LATENCY_RUNS, _LATENCY_SECONDS = 100, 60.0
_EVALUATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Anytime:
    """Runs on the held-out images that stop early.

    Args:
        hits: per image, whether it is classified rightly.
        whole: the same of the whole model, which takes all timesteps.
        timesteps: that each image took.
    """

    hits: npt.NDArray[np.bool_]
    whole: npt.NDArray[np.bool_]
    timesteps: npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Measurements of the `dense` and the `shipped` model.

    Args:
        labels: classes of the held-out images, `[n]`.
        predictions: of each model for them.
        latency: of one batch; where the bundle has both runtimes, of the `native` one besides.
        runs: timed runs behind each latency.
        anytime: what runs that stop early come to; None: they do not.
    """

    labels: npt.NDArray[np.int64]
    predictions: Mapping[str, Predictions]
    latency: Mapping[str, Latency]
    runs: int
    anytime: Anytime | None = None

    @property
    def hits(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Per held-out image, whether each model classifies it rightly."""
        return {name: found.classes == self.labels for name, found in self.predictions.items()}


def evaluate(context: BuildContext, dense: Artifact, staged: StagedArtifact) -> Evaluation:
    """Classify the held-out images with the dense and the shipped model, and time both in turns.

    The shipped model is the ONNX artifact, or, without one, that of the native engine.

    Args:
        context: of the build.
        dense: the dense float32 artifact.
        staged: the shipped model in the bundle's directory.
    """
    settings, progress, held_out = context.settings, context.progress, context.held_out
    models: dict[str, OnnxModel | NativeModel] = {
        "dense": OnnxModel(dense.path, threads=settings.threads)
    }
    if not staged.is_dense:
        models["shipped"] = staged.model(settings.threads)
    batch_size = context.model.batch_of(_EVALUATION_BATCH)
    progress.stage("held-out accuracy", len(models), "models")
    predictions = {
        name: artifact_predictions(
            model, held_out, batch_size=batch_size, progress=progress, name=name
        )
        for name, model in models.items()
    }
    if staged.is_dense:
        models["shipped"], predictions["shipped"] = models["dense"], predictions["dense"]
    if staged.native is not None and staged.artifact is not None:
        models["native"] = NativeModel(staged.native.path)
    anytime = _anytime(staged, settings.threads, held_out, progress)
    progress.stage("latency", 1)
    latency = _latency(models, held_out, settings.batch or 1, progress)
    progress.step()
    return Evaluation(
        labels=held_out.labels,
        predictions=predictions,
        latency=latency,
        runs=len(latency["dense"].milliseconds),
        anytime=anytime,
    )


def _anytime(
    staged: StagedArtifact, threads: int, images: ImageList, progress: Progress
) -> Anytime | None:
    """Classify images with a model that stops early, and with the whole one alone."""
    model: OnnxModel | NativeModel
    whole: OnnxModel | NativeModel
    if staged.native is not None:
        model = NativeModel(staged.native.path)
        whole = model.whole()
    else:
        model = staged.model(threads)
        whole = OnnxModel(staged.whole.path, threads=threads)
    if len(model.stages) < 2:
        return None
    images = images.for_model(model.sample_dtype)
    progress.stage("held-out accuracy of stages", 1)
    hits, whole_hits, timesteps = [], [], []
    for start in range(0, len(images), _EVALUATION_BATCH):
        stop = min(start + _EVALUATION_BATCH, len(images))
        batch, labels = images.inputs(start, stop), images.labels[start:stop]
        logits, taken = model.logits_and_timesteps(batch)
        hits.append(logits.argmax(axis=1) == labels)
        whole_hits.append(whole.logits(batch).argmax(axis=1) == labels)
        timesteps.append(taken)
        progress.advance(stop, len(images))
    progress.step()
    return Anytime(
        hits=np.concatenate(hits),
        whole=np.concatenate(whole_hits),
        timesteps=np.concatenate(timesteps),
    )


def _latency(
    models: Mapping[str, OnnxModel | NativeModel],
    images: ImageList,
    batch: int,
    progress: Progress,
) -> dict[str, Latency]:
    def call(model: OnnxModel | NativeModel) -> Callable[[], object]:
        taken = images.for_model(model.sample_dtype)
        if len(model.stages) < 2:
            inputs = np.repeat(taken.inputs(0, 1), batch, axis=0)
            return lambda: model.logits(inputs)
        # Where runs stop early, each takes another image: a single one always stops alike.
        count = min(len(taken), _LATENCY_RUNS)
        turns = itertools.cycle(np.split(taken.inputs(0, count), count))
        return lambda: model.logits(np.repeat(next(turns), batch, axis=0))

    calls = {name: call(model) for name, model in models.items()}
    return measure_latency(calls, runs=_LATENCY_RUNS, seconds=_LATENCY_SECONDS, progress=progress)
