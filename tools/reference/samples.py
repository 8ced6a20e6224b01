"""Augmented training images whose order and augmentation depend on seed, epoch and image alone.

A run that is resumed at any step sees the samples that an uninterrupted one would have seen, with
any number of worker processes and of devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from reference.recipe import Training

__all__ = ["Order", "augmentation", "loader", "mixed"]

_CACHED_BYTES = 1 << 30
"""Bytes of decoded images that are kept in memory, at most."""
_Item = tuple[torch.Tensor, int]


def seeded(*parts: int) -> int:
    """A seed that depends on all parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


@dataclass(frozen=True)
class Order:
    """The images of each step; an incomplete last batch of an epoch is left out.

    Args:
        count: images in the train split.
        batch_size: images in a step, over all devices.
        seed: seed of the order.
        first: the first step.
        last: the step after the last one.
        rank: number of this device.
        devices: devices that share a step.
    """

    count: int
    batch_size: int
    seed: int
    first: int
    last: int
    rank: int = 0
    devices: int = 1

    @property
    def steps_per_epoch(self) -> int:
        """Complete batches in an epoch."""
        return self.count // self.batch_size

    def __len__(self) -> int:
        """Number of steps."""
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Epoch and image number of each sample of this device, a step at a time."""
        for step in range(self.first, self.last):
            epoch, index = divmod(step, self.steps_per_epoch)
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            whole = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield [(epoch, int(number)) for number in whole[self.rank :: self.devices]]


class Samples(Dataset[_Item]):
    """Augmented training images.

    Args:
        images: the train split.
        steps: preprocessing in evaluation: size and normalisation.
        training: settings of augmentation.
    """

    def __init__(self, images: ImageList, steps: Preprocessing, training: Training) -> None:
        self._images, self._seed = images, training.seed
        self._transform = augmentation(steps, training)
        self._cached: list[npt.NDArray[np.uint8]] = []
        left = _CACHED_BYTES
        for i in range(len(images)):
            pixels = images.pixels(i)
            left -= pixels.nbytes
            if left < 0:
                break
            self._cached.append(pixels)

    def __getitem__(self, index: tuple[int, int]) -> _Item:  # type: ignore[override]
        """Sample `[3, H, W]` and label."""
        epoch, number = index
        cached = number < len(self._cached)
        pixels = self._cached[number] if cached else self._images.pixels(number)
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed accelerators too, which fork_rng does not put back here.
            torch.default_generator.manual_seed(seeded(self._seed, epoch, number))
            sample: torch.Tensor = self._transform(Image.fromarray(pixels))
        return sample, int(self._images.labels[number])


def augmentation(steps: Preprocessing, training: Training) -> v2.Transform:
    """Transform of an RGB image to an input of the network.

    Up to 64 pixels: the image as in evaluation, padded by an eighth of its side and cropped at
    random; above: a random resized crop.
    """
    size, by = (steps.height, steps.width), v2.InterpolationMode(steps.interpolation)
    crop: list[v2.Transform] = (
        [
            v2.Resize(steps.resize, interpolation=by),
            v2.CenterCrop(size),
            v2.RandomCrop(size, padding=steps.height // 8),
        ]
        if steps.height <= 64
        else [v2.RandomResizedCrop(size, interpolation=by, antialias=True)]
    )
    further: dict[str, list[v2.Transform]] = {
        "none": [],
        "randaugment": [v2.RandAugment()],
        "trivialaugment": [v2.TrivialAugmentWide()],
        "autoaugment": [
            v2.AutoAugment(
                v2.AutoAugmentPolicy.CIFAR10
                if steps.height <= 64
                else v2.AutoAugmentPolicy.IMAGENET
            )
        ],
    }
    return v2.Compose(
        [
            *crop,
            v2.RandomHorizontalFlip(),
            *further[training.augmentation],
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(steps.mean), list(steps.std)),
            *([v2.RandomErasing(training.erasing)] if training.erasing else []),
        ]
    )


def loader(samples: Samples, order: Order, *, workers: int, pinned: bool) -> DataLoader[_Item]:
    """Loader of a batch for each step: samples `[N, 3, H, W]` and labels `[N]`."""
    return DataLoader(
        samples,
        batch_sampler=order,  # type: ignore[arg-type]
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=False,
    )


def mixed(
    inputs: torch.Tensor, labels: torch.Tensor, classes: int, training: Training, step: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix a batch by mixup or CutMix, or leave it as it is.

    Args:
        inputs: samples `[N, 3, H, W]`.
        labels: `[N]`.
        classes: number of classes K.
        training: settings of mixing.
        step: number of the step, on which the random choice depends.

    Returns:
        Samples and labels; of a mixed batch, labels are shares of classes `[N, K]`.
    """
    kinds: list[v2.Transform] = []
    if training.mixup:
        kinds.append(v2.MixUp(alpha=training.mixup, num_classes=classes))
    if training.cutmix:
        kinds.append(v2.CutMix(alpha=training.cutmix, num_classes=classes))
    if not kinds:
        return inputs, labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(training.seed, step, 1))
        if torch.rand(()) >= training.mixing:
            return inputs, labels
        found: tuple[torch.Tensor, torch.Tensor] = v2.RandomChoice(kinds)(inputs, labels)
    return found
