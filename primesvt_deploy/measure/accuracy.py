"""Top-1 of an artifact, in ONNX Runtime, on a list of images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.progress import SILENT, Progress
from primesvt_deploy.runtime.session import OnnxModel

__all__ = ["artifact_hits"]


def artifact_hits(
    model: OnnxModel,
    images: ImageList,
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> npt.NDArray[np.bool_]:
    """Whether `model` classifies each image rightly, in order.

    Args:
        model: the loaded artifact.
        images: what to classify.
        batch_size: images a run, where the artifact's batch is not fixed.
        progress: told of each run.
    """
    size = model.fixed_batch or batch_size
    flags = []
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        batch = images.inputs(start, stop)
        predicted = model.logits(batch).argmax(axis=1)
        flags.append(predicted == images.labels[start:stop])
        progress.step()
    return np.concatenate(flags)
