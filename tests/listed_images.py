"""Lists of images in files, and a decoder that counts what it decodes, for tests of `data`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from primesvt_deploy.data.decoders import Decoder, FileDecoder, Numbers
from primesvt_deploy.data.images import ImageList
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps

STEPS = Preprocessing(6, 8, 9, "bilinear", (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
GREY = Preprocessing(6, 6, 6, "bicubic", (0.5,), (0.5,))
FRAMES = FrameSteps(2, 2, 4, 5)


class Counting(Decoder):
    """Decodes as another decoder does, and remembers of what it was asked."""

    def __init__(self, inner: Decoder) -> None:
        self.inner = inner
        self.seen: list[int] = []

    def __call__(self, number: int) -> npt.NDArray[Any]:
        self.seen.append(number)
        return self.inner(number)

    def only(self, numbers: Numbers) -> Decoder:
        return self.inner.only(numbers)

    def identity(self, numbers: Numbers) -> Any:
        return self.inner.identity(numbers)


def image_files(root: Path, count: int, steps: InputSteps = STEPS, seed: int = 0) -> ImageList:
    """Random images, or sequences of frames, of random sizes, written below `root`."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    suffix = "npy" if isinstance(steps, FrameSteps) else "png"
    names = tuple(f"{number:05}.{suffix}" for number in range(count))
    for name in names:
        if isinstance(steps, FrameSteps):
            np.save(root / name, random.integers(0, 200, steps.shape).astype(np.uint8))
        else:
            height, width = random.integers(4, 20, 2)
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            Image.fromarray(pixels).save(root / name)
    return listed(root, names, steps)


def listed(root: Path, names: tuple[str, ...], steps: InputSteps = STEPS) -> ImageList:
    """The images in these files; the label of each is its number modulo 5."""
    sizes = tuple((root / name).stat().st_size for name in names)
    decode = FileDecoder(str(root), names, sizes, steps)
    numbers = np.arange(len(names))
    return ImageList(decode, numbers, numbers % 5, steps)


def everything(images: ImageList) -> npt.NDArray[Any]:
    """The inputs of a list."""
    return images.inputs(0, len(images))
