"""Decoders: samples by number, from arrays, files or JPEGs in memory; each can be sent elsewhere.

A decoder holds no model, and `only` gives one that holds no other samples than are asked for.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.runtime.errors import PreprocessingError
from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.edge.runtime.frames import FrameSteps
from primesvt_deploy.edge.runtime.images import decode_image
from primesvt_deploy.edge.runtime.preprocess import Preprocessing
from primesvt_deploy.edge.runtime.steps import InputSteps, read_sample
from primesvt_deploy.errors import DataError

__all__ = [
    "ArrayDecoder",
    "CroppedDecoder",
    "Decoder",
    "FileDecoder",
    "JpegDecoder",
    "Numbers",
    "crop_of",
    "cropped",
    "shape_of",
    "stacked",
]

Numbers = npt.NDArray[np.int64]
"""Numbers of samples, `[n]`."""


def cropped(steps: InputSteps, sample: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A decoded sample resized and cropped, the first half of `steps.apply`.

    Raises:
        PreprocessingError: it does not fit.
    """
    result: npt.NDArray[Any] = steps.crop_batch(sample[np.newaxis])[0]
    return result


def crop_of(steps: InputSteps) -> tuple[Any, ...]:
    """All of a preprocessing that a cropped sample depends on."""
    if isinstance(steps, Preprocessing):
        return steps.height, steps.width, steps.resize, steps.interpolation, steps.channels
    return ("frames", *steps.shape)


def shape_of(steps: InputSteps) -> tuple[int, ...]:
    """Shape of a cropped sample."""
    if isinstance(steps, Preprocessing):
        return steps.height, steps.width, steps.channels
    return steps.shape


def stacked(samples: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Samples as one array; frames of several types become float32, as they do in the end."""
    if len({sample.dtype for sample in samples}) > 1:
        return np.stack([sample.astype(np.float32) for sample in samples])
    return np.stack(samples)


class Decoder(ABC):
    """Decodes samples of a data set by their numbers."""

    is_decoded = False
    """Whether the samples lie decoded in memory, so that nothing is gained by keeping them."""

    @abstractmethod
    def __call__(self, number: int) -> npt.NDArray[Any]:
        """One sample: uint8 `[H, W, 3]` (RGB) or `[H, W, 1]` (grey), or frames `[T, C, H, W]`."""

    @abstractmethod
    def only(self, numbers: Numbers) -> Decoder:
        """A decoder of these samples alone; number i there is `numbers[i]` here."""

    def identity(self, numbers: Numbers) -> Iterable[str | bytes]:
        """Parts of a digest by which a later process knows these samples again."""
        del numbers
        return ()

    def check_visible(self, numbers: Numbers) -> None:
        """Refuse samples that this machine cannot read; those in memory it can.

        Raises:
            DataError: the first file that is not there, or is another one.
        """
        del numbers


class CroppedDecoder(Decoder):
    """A decoder that has samples resized and cropped as well."""

    is_decoded = True

    @abstractmethod
    def samples(self, numbers: Numbers, steps: InputSteps) -> npt.NDArray[Any]:
        """Samples resized and cropped: uint8 `[n, H, W, C]` or frames `[n, T, C, H, W]`.

        Args:
            numbers: of the samples, `[n]`.
            steps: preprocessing, of which the resize and the crop are done.
        """


class ArrayDecoder(Decoder):
    """Samples that lie decoded in memory.

    Args:
        samples: uint8 `[n, H, W, C]`, or frames `[n, T, C, H, W]`.
    """

    is_decoded = True

    def __init__(self, samples: npt.NDArray[Any]) -> None:
        self._samples = samples

    def __call__(self, number: int) -> npt.NDArray[Any]:
        """One sample."""
        sample: npt.NDArray[Any] = self._samples[number]
        return sample

    def only(self, numbers: Numbers) -> ArrayDecoder:
        """A decoder of a copy of these samples."""
        return ArrayDecoder(self._samples[numbers])


class FileDecoder(Decoder):
    """Samples in files below one directory.

    Args:
        root: the directory.
        files: paths of the samples below it, `[n]`.
        sizes: bytes of each file, `[n]`.
        steps: preprocessing, which says what kind of file is expected.
    """

    def __init__(
        self, root: str, files: tuple[str, ...], sizes: tuple[int, ...], steps: InputSteps
    ) -> None:
        self._root, self._files, self._sizes, self._steps = root, files, sizes, steps

    def __call__(self, number: int) -> npt.NDArray[Any]:
        """Read one file.

        Raises:
            DataError, ImageError: it cannot be read; one line that names it.
        """
        file = self._path(number)
        try:
            sample = read_sample(self._steps, file, upright=False)
            if isinstance(self._steps, FrameSteps):
                cropped(self._steps, sample)
        except PreprocessingError as error:
            raise DataError(f"{file}: {error}") from error
        return sample

    def only(self, numbers: Numbers) -> FileDecoder:
        """A decoder of these files."""
        files = tuple(self._files[number] for number in numbers.tolist())
        sizes = tuple(self._sizes[number] for number in numbers.tolist())
        return FileDecoder(self._root, files, sizes, self._steps)

    def identity(self, numbers: Numbers) -> Iterable[str | bytes]:
        """Path, size and time of the last change of each file.

        Raises:
            DataError: a file is gone.
        """
        for number in numbers.tolist():
            found = self._stat(number)
            path = os.path.abspath(self._path(number))
            yield f"{path}:{found.st_size}:{found.st_mtime_ns}"

    def check_visible(self, numbers: Numbers) -> None:
        """Refuse files that are not on this machine, or are of another size here.

        Raises:
            DataError: names the first of them.
        """
        for number in numbers.tolist():
            found = self._stat(number).st_size
            if found != self._sizes[number]:
                raise DataError(
                    f"{self._path(number)} has {found} bytes on this machine, expected "
                    f"{self._sizes[number]}: give every machine the same data"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        """For a process that may have another working directory."""
        root = os.path.abspath(self._root)
        return FileDecoder, (root, self._files, self._sizes, self._steps)

    def _path(self, number: int) -> Path:
        return Path(self._root) / self._files[number]

    def _stat(self, number: int) -> os.stat_result:
        try:
            return self._path(number).stat()
        except OSError as error:
            raise DataError(
                f"{self._path(number)} cannot be read on this machine ({reason_of(error)}): every "
                "machine that works on these images needs them at that path"
            ) from error


class JpegDecoder(Decoder):
    """Image files that lie end to end in memory.

    Args:
        name: of the data set, for messages.
        content: the files.
        offsets: of each file and of the end, int64 `[n + 1]`.
        grey: turn colours into grey.
    """

    def __init__(
        self, name: str, content: bytes, offsets: npt.NDArray[np.int64], *, grey: bool
    ) -> None:
        self._name, self._content, self._offsets, self._grey = name, content, offsets, grey

    def __call__(self, number: int) -> npt.NDArray[np.uint8]:
        """Decode one image.

        Raises:
            ImageError: it is damaged.
        """
        return decode_image(self._file(number), name=f"{self._name}[{number}]", grey=self._grey)

    def only(self, numbers: Numbers) -> JpegDecoder:
        """A decoder of these files."""
        files = [self._file(number) for number in numbers.tolist()]
        offsets = np.cumsum([0, *map(len, files)])
        return JpegDecoder(self._name, b"".join(files), offsets, grey=self._grey)

    def identity(self, numbers: Numbers) -> Iterable[str | bytes]:
        """The files themselves."""
        yield str(self._grey)
        for number in numbers.tolist():
            yield self._file(number)

    def _file(self, number: int) -> bytes:
        return self._content[self._offsets[number] : self._offsets[number + 1]]
