"""Decoded samples that are sent to another process: themselves, or rows of a file that both see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy.typing as npt

from primesvt_deploy.data.decoders import (
    CroppedDecoder,
    Decoder,
    Numbers,
    crop_of,
    cropped,
    stacked,
)
from primesvt_deploy.data.pixel_store import Form, Rows, mapped_samples
from primesvt_deploy.edge.runtime.steps import InputSteps
from primesvt_deploy.errors import DataError

__all__ = ["FileRows", "SentDecoder"]


class SentDecoder(CroppedDecoder):
    """Samples that were decoded in another process.

    Args:
        source: decodes them anew.
        kept: the samples, resized and cropped.
        steps: preprocessing that they were resized and cropped by.
    """

    def __init__(
        self, source: Decoder, kept: npt.NDArray[Any] | FileRows, steps: InputSteps
    ) -> None:
        self.source, self._kept, self._steps = source, kept, steps

    def __call__(self, number: int) -> npt.NDArray[Any]:
        """One sample as its source has it."""
        return self.source(number)

    def samples(self, numbers: Numbers, steps: InputSteps) -> npt.NDArray[Any]:
        """Samples resized and cropped."""
        if crop_of(steps) != crop_of(self._steps):
            return stacked([cropped(steps, self.source(int(number))) for number in numbers])
        found: npt.NDArray[Any] = self._kept[numbers]
        return found

    def only(self, numbers: Numbers) -> SentDecoder:
        """A decoder of these samples."""
        kept = self._kept
        part = kept.only(numbers) if isinstance(kept, FileRows) else kept[numbers]
        return SentDecoder(self.source.only(numbers), part, self._steps)

    def check_visible(self, numbers: Numbers) -> None:
        """Refuse a file of samples that is not here; samples in memory are."""
        if isinstance(self._kept, FileRows):
            self._kept.check_visible()


class FileRows:
    """Some rows of a `FileStore`'s file, to be read by a process that it is sent to.

    Args:
        path: of the file.
        form: of its array.
        rows: in the file; row i here is `rows[i]` there.
    """

    def __init__(self, path: Path, form: Form, rows: Rows) -> None:
        self._path, self._form, self._rows = path, form, rows
        self._samples: npt.NDArray[Any] | None = None

    def __getitem__(self, rows: Rows) -> npt.NDArray[Any]:
        """A copy of rows, `[n, ...]`.

        Raises:
            DataError: the file is not there.
        """
        if self._samples is None:
            self._samples = self._mapped()
        found: npt.NDArray[Any] = self._samples[self._rows[rows]]
        return found

    def only(self, rows: Rows) -> FileRows:
        """Some of these rows."""
        return FileRows(self._path, self._form, self._rows[rows])

    def check_visible(self) -> None:
        """Refuse a file that is not on this machine.

        Raises:
            DataError: it is not.
        """
        self._mapped()

    def _mapped(self) -> npt.NDArray[Any]:
        samples = mapped_samples(self._path, self._form)
        if samples is None:
            raise DataError(
                f"{self._path}, which keeps decoded images, is not on this machine: send the "
                "images without it"
            )
        return samples

    def __reduce__(self) -> tuple[Any, ...]:
        return FileRows, (self._path, self._form, self._rows)
