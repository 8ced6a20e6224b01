"""Held-out accuracy and latency of the dense and the shipped model, as devices run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from primesvt_deploy.artifact.onnx_export import Artifact
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.data.pixel_cache import read_ahead
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.measure.accuracy import Predictions, artifact_predictions
from primesvt_deploy.measure.artifact_latency import TimedFile, Timings, physical_cores, time_files
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.pipeline.context import BuildContext
from primesvt_deploy.pipeline.staged import StagedArtifact
from primesvt_deploy.progress import Progress

__all__ = ["Evaluation", "evaluate"]

_SAMPLE_BYTES = 2_000_000
"""Bytes of the images that a model is timed on, at most."""
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
        latency: of one batch; `shipped` is not among them where it is the dense model as it was,
            and where the bundle has both runtimes, the `native` one is.
        anytime: what runs that stop early come to; None: they do not.
    """

    labels: npt.NDArray[np.int64]
    predictions: Mapping[str, Predictions]
    latency: Timings
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
    read_ahead(held_out, progress)
    progress.stage("held-out accuracy", len(models), "models")
    predictions = {
        name: artifact_predictions(
            model, held_out, batch_size=batch_size, progress=progress, name=name
        )
        for name, model in models.items()
    }
    # Where sizes alone decided, nothing was measured on search images that would have told it.
    dense_hits = predictions["dense"].classes == held_out.labels
    context.search.doubt(Accuracy.of(dense_hits), "held-out")
    if staged.is_dense:
        predictions["shipped"] = predictions["dense"]
    anytime = _anytime(staged, settings.threads, held_out, progress)
    files = {"dense": dense.path, **staged.files}
    if staged.is_dense:
        # One model: two figures of it would differ by noise alone.
        del files["shipped"]
    if "native" in files:
        models["native"] = NativeModel(files["native"])
    latency = _latency(context, files, models)
    return Evaluation(
        labels=held_out.labels, predictions=predictions, latency=latency, anytime=anytime
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
    context: BuildContext,
    files: Mapping[str, Path],
    models: Mapping[str, OnnxModel | NativeModel],
) -> Timings:
    """Time model files as `bench` does it, on held-out images in turn.

    Args:
        context: of the build.
        files: what is timed, by name.
        models: the same files, loaded, which say what samples they take.
    """
    settings, images = context.settings, context.images.held_out.shuffled(0)
    threads = settings.threads or physical_cores()
    timed = {}
    for name, path in files.items():
        taken = images.for_model(models[name].sample_dtype)
        count = max(1, _SAMPLE_BYTES // taken.inputs(0, 1).nbytes)
        samples = taken.inputs(0, min(count, len(taken)))
        timed[name] = TimedFile(path=path, threads=threads, samples=samples)
    return time_files(timed, batch=settings.batch or 1, progress=context.progress)
