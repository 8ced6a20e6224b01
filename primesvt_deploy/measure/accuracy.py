"""Top-1 hits on a list of images, of an artifact on the device side or of a model in torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.native import NativeModel
from primesvt_deploy.edge.runtime.session import OnnxModel
from primesvt_deploy.lowering.lower_module import lower_module
from primesvt_deploy.model.svit import SViT, time_first
from primesvt_deploy.progress import SILENT, Progress

__all__ = ["artifact_hits", "torch_hits"]


def artifact_hits(
    model: OnnxModel | NativeModel,
    images: ImageList,
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> npt.NDArray[np.bool_]:
    """Classify images with an artifact; a flag for each that is right, `[n]`, in order.

    Args:
        model: the loaded artifact.
        images: labelled images.
        batch_size: images a run, where the artifact's batch is not fixed.
        progress: receives a step for each run.
    """
    size = model.fixed_batch or batch_size
    images = images.for_model(model.sample_dtype)
    flags = []
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        batch = images.inputs(start, stop)
        predicted = model.logits(batch).argmax(axis=1)
        flags.append(predicted == images.labels[start:stop])
        progress.step()
    return np.concatenate(flags)


@torch.no_grad()
def torch_hits(
    model: SViT, images: ImageList, progress: Progress = SILENT, stage: str = "accuracy"
) -> npt.NDArray[np.bool_]:
    """Classify images with the lowered model in torch; a flag for each that is right, `[n]`.

    Args:
        model: the SViT.
        images: labelled images.
        progress: receives a stage of this name, and a step for each batch.
        stage: the stage's name.
    """
    lowered = lower_module(model.module)
    if model.module.couplings_declared:
        lowered = lowered.to(memory_format=torch.channels_last)
    images = images.for_model(model.sample_dtype)
    size = model.batch_of(32)
    starts = range(0, len(images), size)
    progress.stage(stage, len(starts))
    flags = []
    for start in starts:
        stop = min(start + size, len(images))
        batch = time_first(torch.from_numpy(images.inputs(start, stop)))
        flags.append(lowered(batch).argmax(dim=1).numpy() == images.labels[start:stop])
        progress.step()
    return np.concatenate(flags)
