"""Decoded samples as rows of one array: in memory, or in a file that is mapped into it.

Every row of a file has a checksum, written after it. So a row that a killed process left half
written, or that was damaged since, is not there; all others are, for a later process, too.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import shutil
import stat
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from primesvt_deploy.edge.runtime.files import reason_of
from primesvt_deploy.errors import OutputError

__all__ = [
    "FileStore",
    "Form",
    "MemoryStore",
    "Rows",
    "Store",
    "require_free",
    "worded",
]

Rows = npt.NDArray[np.int64]
"""Indices of rows, `[n]`."""
_MAGIC = "primesvt-deploy decoded samples 1"
_PAGE = 4096
_CHECKSUM = np.dtype("<u4")


@dataclass(frozen=True)
class Form:
    """An array of samples, as a file of it names it.

    Args:
        key: digest of all that the samples depend on; may be empty for those in memory.
        count: number of samples.
        shape: of one.
        dtype: of its values.
    """

    key: str
    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all samples."""
        return self.count * self.row_bytes

    @property
    def header(self) -> bytes:
        """How a file of it begins."""
        named = {"key": self.key, "n": self.count, "shape": self.shape, "dtype": self.dtype.str}
        return f"{_MAGIC}\n{json.dumps(named)}\n".encode().ljust(_PAGE, b"\0")

    @property
    def begin(self) -> int:
        """Place of the first row in a file, behind the header and the checksums."""
        return _PAGE + -(-self.count * _CHECKSUM.itemsize // _PAGE) * _PAGE


class Store(Protocol):
    """Samples by row, of which those that are missing can be found and written."""

    form: Form

    def missing(self, rows: Rows) -> Rows:
        """Rows of these that are not there, in their order, each once."""

    def read(self, rows: Rows) -> npt.NDArray[Any]:
        """A copy of rows that are there, `[n, ...]`."""

    def write(self, row: int, sample: npt.NDArray[Any]) -> None:
        """Put a sample of the right type there."""


class MemoryStore:
    """Samples in memory.

    Args:
        form: of the array.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        self._samples = np.empty((form.count, *form.shape), form.dtype)
        self._there = np.zeros(form.count, bool)

    def missing(self, rows: Rows) -> Rows:
        """Rows that are not there."""
        return _once(rows[~self._there[rows]])

    def read(self, rows: Rows) -> npt.NDArray[Any]:
        """A copy of rows."""
        found: npt.NDArray[Any] = self._samples[rows]
        return found

    def write(self, row: int, sample: npt.NDArray[Any]) -> None:
        """Put a sample there."""
        self._samples[row] = sample
        self._there[row] = True


class FileStore:
    """Samples in a file that is mapped into memory; rows that an earlier process wrote are there.

    Args:
        path: of the file; one that is not of this form is made anew.
        form: of the array.

    Raises:
        OutputError: the disk has no room for it, or it cannot be written.
    """

    def __init__(self, path: Path, form: Form) -> None:
        self.path, self.form = path, form
        try:
            self._file = _opened(path, form, os.O_RDWR) or _made(path, form)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise _unwritable(path, error) from error
        self._checksums = np.frombuffer(self._map, _CHECKSUM, form.count, _PAGE)
        self._samples = _rows_in(self._map, form)
        self._checked = np.zeros(form.count, bool)

    def missing(self, rows: Rows) -> Rows:
        """Rows that are not there, or damaged; each is looked at once."""
        for row in _once(rows[~self._checked[rows]]).tolist():
            expected = int(self._checksums[row])
            self._checked[row] = expected and expected == _checksum(self._samples[row])
        return _once(rows[~self._checked[rows]])

    def read(self, rows: Rows) -> npt.NDArray[Any]:
        """A copy of rows."""
        found: npt.NDArray[Any] = self._samples[rows]
        return found

    def write(self, row: int, sample: npt.NDArray[Any]) -> None:
        """Put a sample there.

        Raises:
            OutputError: it cannot be written.
        """
        content = np.ascontiguousarray(sample)
        try:
            self._put(_bytes(content), self.form.begin + row * self.form.row_bytes)
            checksum = np.array(_checksum(content), _CHECKSUM)
            self._put(checksum.tobytes(), _PAGE + row * _CHECKSUM.itemsize)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._checked[row] = True

    def _put(self, content: bytes | memoryview, place: int) -> None:
        # Not through the map: there a disk's failure would end the process.
        left = memoryview(content)
        while left:
            written = os.pwrite(self._file.fileno(), left, place)
            left, place = left[written:], place + written


def mapped_samples(path: Path, form: Form) -> npt.NDArray[Any] | None:
    """All samples of a `FileStore`'s file, to be read; None: there is no such file."""
    file = _opened(path, form, os.O_RDONLY)
    if file is None:
        return None
    with file:
        return _rows_in(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), form)


def require_free(directory: Path, size: int) -> None:
    """Refuse a directory on whose disk so many bytes are not free.

    Raises:
        OutputError: says how many are.
    """
    free = shutil.disk_usage(directory).free
    if size > free:
        raise OutputError(
            f"the decoded images take {worded(size)}, and {directory} has {worded(free)} free: "
            "make room there, or take fewer images"
        )


def worded(count: float) -> str:
    """Bytes in GB or MB (powers of ten)."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _opened(path: Path, form: Form, flags: int) -> Any:
    """A file of this form; None: there is none at the path."""
    try:
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # it may be a link or a pipe
        file = os.fdopen(os.open(path, flags), "rb", buffering=0)
    except OSError:
        return None
    found = os.fstat(file.fileno())
    size = form.begin + form.size
    if stat.S_ISREG(found.st_mode) and found.st_size == size and file.read(_PAGE) == form.header:
        return file
    file.close()
    return None


def _made(path: Path, form: Form) -> Any:
    """A new file, in which no row is there yet, and all have their place on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    size = form.begin + form.size
    require_free(path.parent, size)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    file = os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)
    try:
        os.posix_fallocate(file.fileno(), 0, size)
        os.pwrite(file.fileno(), form.header, 0)
    except BaseException:
        file.close()
        path.unlink(missing_ok=True)
        raise
    return file


def _rows_in(mapped: mmap.mmap, form: Form) -> npt.NDArray[Any]:
    values = np.frombuffer(mapped, form.dtype, form.count * math.prod(form.shape), form.begin)
    return values.reshape(form.count, *form.shape)


def _checksum(sample: npt.NDArray[Any]) -> int:
    """Checksum of a sample; never 0, which stands for none."""
    return zlib.crc32(_bytes(np.ascontiguousarray(sample))) or 1


def _bytes(content: npt.NDArray[Any]) -> memoryview:
    return content.reshape(-1).view(np.uint8).data


def _once(rows: Rows) -> Rows:
    """Rows in their order, each once."""
    return np.asarray(list(dict.fromkeys(rows.tolist())), dtype=np.int64)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot keep the decoded images in {path} ({reason_of(error)}): make room there, or take "
        "fewer images"
    )
