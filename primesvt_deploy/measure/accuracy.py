"""Predictions on a list of images, of an artifact on the device side or of a model in torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.compute.device import CPU
from primesvt_deploy.compute.fitting_batches import FittingBatches
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.measure.intervals import Accuracy
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["Predictions", "artifact_hits", "artifact_predictions", "probabilities", "torch_hits"]


@dataclass(frozen=True)
class Predictions:
    """The class that a model gives each image; of the other classes nothing is kept.

    Args:
        classes: predicted class, int64 `[n]`.
        probabilities: softmax of the predicted class's logit, float32 `[n]`.
    """

    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @classmethod
    def of(cls, logits: npt.NDArray[np.float32]) -> Predictions:
        """Predictions of logits `[n, K]`."""
        classes = logits.argmax(axis=1)
        rows = np.arange(len(logits))
        return cls(classes.astype(np.int64), probabilities(logits)[rows, classes])

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Predictions of one batch after another; at least one."""
        return cls(
            np.concatenate([part.classes for part in parts]),
            np.concatenate([part.probabilities for part in parts]),
        )


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax of logits `[n, K]`, float32."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)


def artifact_hits(
    model: OnnxModel | NativeModel,
    images: ImageList,
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
    name: str = "",
) -> npt.NDArray[np.bool_]:
    """Classify images with an artifact; a flag for each that is right, `[n]`, in order.

    Args:
        model: the loaded artifact.
        images: labelled images.
        batch_size: images a run, where the artifact's batch is not fixed.
        progress: receives the images done, and a step at the end with the accuracy.
        name: of the model, for that step; may be empty.
    """
    found = artifact_predictions(model, images, batch_size=batch_size, progress=progress, name=name)
    return np.asarray(found.classes == images.labels)


def artifact_predictions(
    model: OnnxModel | NativeModel,
    images: ImageList,
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
    name: str = "",
) -> Predictions:
    """Classify images with an artifact, in order.

    Args:
        model: the loaded artifact.
        images: labelled images.
        batch_size: images a run, where the artifact's batch is not fixed.
        progress: receives the images done, and a step at the end with the accuracy.
        name: of the model, for that step; may be empty.
    """
    size = model.fixed_batch or batch_size
    images = images.for_model(model.sample_dtype)
    parts = []
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        parts.append(Predictions.of(model.logits(images.inputs(start, stop))))
        progress.advance(stop, len(images))
    found = Predictions.joined(parts)
    progress.step(_in_words(found.classes == images.labels, name))
    return found


@torch.no_grad()
def torch_hits(
    model: SViT,
    images: ImageList,
    progress: Progress = SILENT,
    stage: str = "accuracy",
    *,
    device: torch.device = CPU,
) -> npt.NDArray[np.bool_]:
    """Classify images with the lowered model in torch; a flag for each that is right, `[n]`.

    Args:
        model: the SViT.
        images: labelled images.
        progress: receives a stage of this name, the images done, and the accuracy.
        stage: the stage's name.
        device: that it runs on.
    """
    lowered = lower_module(model.module).to(device)
    if model.module.couplings_declared:
        lowered = lowered.to(memory_format=torch.channels_last)
    images = images.for_model(model.sample_dtype)
    progress.stage(stage, 1)
    flags = []

    def classify(start: int, stop: int) -> None:
        batch = time_first(torch.from_numpy(images.inputs(start, stop))).to(device)
        flags.append(lowered(batch).argmax(dim=1).cpu().numpy() == images.labels[start:stop])
        progress.advance(stop, len(images))

    FittingBatches(progress.message).each(classify, len(images), model.batch_of(32))
    hits = np.concatenate(flags)
    progress.step(_in_words(hits))
    return hits


def _in_words(hits: npt.NDArray[np.bool_], name: str = "") -> str:
    return f"{name} {Accuracy.of(hits).percent:.2f}%".strip()
