"""Lists of labelled images, decoded and preprocessed when they are used."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.data.decoders import CroppedDecoder, Decoder, cropped
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import DataError
from primesvt_deploy.summary import Shown, Summary

__all__ = [
    "MIN_SPLIT",
    "DataSet",
    "ImageList",
    "check_visible",
    "fingerprint",
    "halves",
    "require_enough",
]

MIN_SPLIT = 50
"""Fewest images of a search or held-out split: below, an interval spans tens of points."""


@dataclass(frozen=True, repr=False)
class ImageList(Shown):
    """Labelled images, or sequences of event frames, of one split.

    Pickled it holds its own images alone, of whichever larger list it was taken.

    Args:
        decode: gives an image by its number, uint8 `[H, W, 3]` (RGB) or `[H, W, 1]` (grey), or
            frames `[T, C, H, W]`; a `Decoder` can be pickled.
        numbers: numbers of the images in this list, int64 `[n]`, in order.
        labels: classes of these images, int64 `[n]`.
        preprocessing: makes the model's input of an image.
    """

    decode: Callable[[int], npt.NDArray[Any]]
    numbers: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    preprocessing: InputSteps

    def __len__(self) -> int:
        """Number of images."""
        return len(self.numbers)

    def inputs(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Preprocessed samples `start..stop-1`, float32 `[n, C, H, W]` or `[n, T, C, H, W]`.

        Where the preprocessing leaves pixels as they are (`as_pixels`) they are uint8.
        """
        if isinstance(self.decode, CroppedDecoder):
            inputs: npt.NDArray[Any] = self.preprocessing.normalise(self.samples(start, stop))
            return inputs
        return np.stack([self.preprocessing.apply(self.pixels(i)) for i in range(start, stop)])

    def samples(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Samples `start..stop-1` resized and cropped, but not normalised.

        Returns:
            uint8 `[n, H, W, C]`, or frames `[n, T, C, H, W]`.
        """
        if isinstance(self.decode, CroppedDecoder):
            return self.decode.samples(self.numbers[np.arange(start, stop)], self.preprocessing)
        return np.stack([cropped(self.preprocessing, self.pixels(i)) for i in range(start, stop)])

    def pixels(self, index: int) -> npt.NDArray[Any]:
        """The sample at `index` before preprocessing: uint8 `[H, W, C]` or frames."""
        return self.decode(int(self.numbers[index]))

    def first(self, count: int) -> ImageList:
        """The first `count` images."""
        return self.select(np.arange(min(count, len(self))))

    def shuffled(self, seed: int) -> ImageList:
        """The same images in a random order fixed by `seed`; every prefix is a random sample."""
        return self.select(np.random.default_rng(seed).permutation(len(self)))

    def select(self, chosen: npt.NDArray[np.int64]) -> ImageList:
        """A part of the list, such as a worker's shard.

        Args:
            chosen: indices into this list, `[n]`, in the order of the part.
        """
        return replace(self, numbers=self.numbers[chosen], labels=self.labels[chosen])

    def as_pixels(self) -> ImageList:
        """The same images, resized and cropped, but not normalised: uint8."""
        assert isinstance(self.preprocessing, Preprocessing)
        return replace(self, preprocessing=replace(self.preprocessing, pixels=True))

    def for_model(self, sample_dtype: npt.DTypeLike) -> ImageList:
        """The same images as a model takes them: as pixels where its samples are uint8."""
        return self.as_pixels() if np.dtype(sample_dtype) == np.uint8 else self

    def _summary(self) -> Summary:
        return Summary(f"ImageList: {_counted(self)}, as samples of {_shape(self)}", ())

    def __reduce__(self) -> tuple[Any, ...]:
        decode, numbers = self.decode, self.numbers
        if isinstance(decode, Decoder):
            used, numbers = np.unique(numbers, return_inverse=True)
            decode = decode.only(used)
        return ImageList, (decode, numbers, self.labels, self.preprocessing)


def check_visible(images: ImageList) -> None:
    """Refuse images that this machine cannot read, before any of them is needed.

    A list of files that came from another machine holds their paths, and expects them here.

    Raises:
        DataError: names the first file that is missing here, or is of another size.
    """
    if isinstance(images.decode, Decoder):
        images.decode.check_visible(images.numbers)


@dataclass(frozen=True, kw_only=True, repr=False)
class DataSet(Shown):
    """Disjoint splits of one source.

    Args:
        name: name of the data set in reports.
        digest: SHA-256 that identifies content and split.
        train: images for fine-tuning; empty where the source has none.
        search: images that every decision is based on.
        held_out: images that reported figures are measured on, and nothing else.
    """

    name: str
    digest: str
    train: ImageList
    search: ImageList
    held_out: ImageList

    def _summary(self) -> Summary:
        return Summary(
            f"DataSet {self.name}",
            (
                ("train", _counted(self.train)),
                ("search", _counted(self.search)),
                ("held-out", _counted(self.held_out)),
                ("samples", _shape(self.held_out)),
                ("digest", f"{self.digest[:12]}..."),
            ),
        )


def _counted(images: ImageList) -> str:
    kind = "images" if isinstance(images.preprocessing, Preprocessing) else "sequences"
    classes = len(np.unique(images.labels))
    return f"{len(images):,} {kind} of {classes} classes" if len(images) else "none"


def _shape(images: ImageList) -> str:
    return " x ".join(map(str, images.preprocessing.sample_shape))


def halves(
    labels: npt.NDArray[np.int64], *, seed: int, source: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Split images in two halves, each class as evenly as possible.

    Args:
        labels: class of each image, int64 `[n]`.
        seed: seed of the random choice.
        source: name of the data set in error messages.

    Returns:
        Sorted numbers of the images of either half.

    Raises:
        DataError: a half would have fewer than `MIN_SPLIT` images.
    """
    if len(labels) < 2 * MIN_SPLIT:
        raise DataError(
            f"{source} has {len(labels)} images to search and report on: expected at least "
            f"{2 * MIN_SPLIT}, half of them for each"
        )
    generator = np.random.default_rng(seed)
    parts: tuple[list[int], list[int]] = ([], [])
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        # An odd class gives its extra image to the smaller half.
        larger = int(len(parts[0]) > len(parts[1]))
        parts[larger].extend(members[0::2])
        parts[1 - larger].extend(members[1::2])
    first, second = (np.sort(np.asarray(part, dtype=np.int64)) for part in parts)
    return first, second


def require_enough(source: Path, parts: Mapping[str, npt.NDArray[np.int64]]) -> None:
    """Refuse two parts, search and held-out, of which one is too small.

    Args:
        source: file or directory of the data set, for the message.
        parts: numbers of the images of each, by the part's name.

    Raises:
        DataError: one has fewer than `MIN_SPLIT` images.
    """
    if min(map(len, parts.values())) < MIN_SPLIT:
        (search, first), (held_out, second) = parts.items()
        raise DataError(
            f"{source}: {search} has {len(first)} images and {held_out} {len(second)}: expected "
            f"at least {MIN_SPLIT} each"
        )


def fingerprint(*parts: str | bytes | npt.NDArray[Any] | Sequence[str]) -> str:
    """SHA-256 of all parts, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()
