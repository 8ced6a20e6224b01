"""Random labelled samples of the kind that a model takes."""

from __future__ import annotations

import numpy as np

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import SViT

__all__ = ["random_images"]


def random_images(model: SViT, count: int) -> ImageList:
    """Images or event frames of the model's input size; the same ones for the same model."""
    steps, *_ = shape = model.config.example(1).shape  # of frames: T, then the sample
    generator = np.random.default_rng(0)
    if model.config.frames:
        pixels = generator.random((count, steps, *shape[2:])).astype(np.float32)
    else:
        pixels = generator.integers(0, 256, (count, *shape[2:], 3), dtype=np.uint8)
    labels = generator.integers(0, model.config.num_classes, count)
    return ImageList(lambda i: pixels[i], np.arange(count), labels, model.preprocessing)
