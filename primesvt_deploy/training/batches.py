"""Training batches whose order and augmentation depend on seed, epoch and image alone.

A training that is resumed at any step sees the samples that an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.model.svit import time_first

__all__ = ["WHOLE", "Batches", "Share"]

_SHIFT = 8
"""Crops move by up to an eighth of the sides."""


@dataclass(frozen=True)
class Share:
    """The part of each batch that one of several processes takes.

    Args:
        number: number of the process, from 0.
        of: how many processes there are; they divide the batch.
    """

    number: int
    of: int


WHOLE = Share(0, 1)


@dataclass(frozen=True)
class Batches:
    """Shuffled, augmented batches; a last one that is not whole is left out.

    Args:
        images: the train split.
        batch_size: images in a batch.
        seed: seed of order and augmentation.
        mirrored: whether samples may be flipped left to right.
        share: the part of each batch that is made.
    """

    images: ImageList
    batch_size: int
    seed: int
    mirrored: bool = True
    share: Share = WHOLE

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Order of the images in an epoch, `[N]`."""
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.images))

    def batch(self, epoch: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples `[N, C, H, W]`, or `[T, N, C, H, W]` of frames, and labels `[N]`."""
        each = self.batch_size // self.share.of
        start = index * self.batch_size + self.share.number * each
        chosen = self.order(epoch)[start : start + each]
        samples = [self._augmented(epoch, int(number)) for number in chosen]
        labels = torch.from_numpy(self.images.labels[chosen])
        return time_first(torch.from_numpy(np.stack(samples))), labels

    def _augmented(self, epoch: int, number: int) -> npt.NDArray[np.float32]:
        """A sample shifted at random, edges filled with the mean colour, and flipped or not."""
        generator = np.random.default_rng([self.seed, epoch, number])
        sample: npt.NDArray[np.float32] = self.images.inputs(number, number + 1)[0]
        height, width = sample.shape[-2:]
        down, right = (
            int(generator.integers(-(size // _SHIFT), size // _SHIFT + 1))
            for size in (height, width)
        )
        moved = np.zeros_like(sample)
        moved[..., max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)] = (
            sample[
                ..., max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)
            ]
        )
        if self.mirrored and generator.random() < 0.5:
            moved = np.ascontiguousarray(moved[..., ::-1])
        return moved
