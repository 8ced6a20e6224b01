"""Read arrays from `.npy` and `.npz` files that others may have written: the header, then the data.

Only the member that is asked for is unpacked. Its size must be what its header says, and fit into
memory, before any of it is allocated; nothing in it is executed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import re
import struct
from collections.abc import Iterator
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from .errors import on_one_line
from .files import open_regular

if TYPE_CHECKING:
    import zipfile

__all__ = ["ArrayFile", "available_memory", "read_npy"]

_MAGIC = b"\x93NUMPY"
_MOST_HEADER = 10_000
"""Longest header of an array, as in numpy."""
_PIECE = 2**20
"""Bytes that are read at once; a list of members of more is refused."""
_MOST_NAME = 200
_INFLATION = 1032
"""Deflate does not make more bytes of one."""
_STORED, _DEFLATED = 0, 8
_SUFFIX = ".npy"
_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""A container's limit, in the second and the first version of control groups."""
_ENTRY = re.compile(
    r"""\s*(?P<q>['"])(?P<key>descr|fortran_order|shape)(?P=q)\s*:\s*"""
    r"""(?:'(?P<descr>[^'\\]*)'|"(?P<other>[^"\\]*)"|(?P<flag>True|False)"""
    r"""|\((?P<shape>[\d\s,L]*)\))\s*(?P<end>,|(?=\}))"""
)
_PLAIN = re.compile(r"[<>|=]?[biufcSUV]\d{1,9}")
_AXIS = re.compile(r"\s*\d{1,18}L?\s*")


class ArrayFile:
    """An `.npz`, of which single arrays are read, or an `.npy`, whose one array is called "".

    A context manager. Methods raise ValueError or OSError with a reason in one line, which does
    not name the file: "its list of members is too long".

    Args:
        path: the file.

    Raises:
        OSError: there is no such file, it is no regular one, or it cannot be read.
        ValueError: it is neither, or damaged; or a null character in the path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # No part of the file is read in a larger piece, whatever a damaged header says.
        self._file = _InPieces(open_regular(path).detach())
        self._members: dict[str, zipfile.ZipInfo | None] = {"": None}
        self._archive: zipfile.ZipFile | None = None
        try:
            self._length = os.fstat(self._file.fileno()).st_size
            if self._file.peek(len(_MAGIC))[: len(_MAGIC)] != _MAGIC:
                import zipfile  # here, as most bundles read images alone

                with _one_reason():
                    self._archive = zipfile.ZipFile(cast(IO[bytes], self._file))
                    self._members = _members(self._archive)
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays, as numpy calls them, in the order of the file."""
        return tuple(self._members)

    def shape_and_dtype(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array, from its header alone.

        Raises:
            KeyError: there is no array of that name.
            ValueError: it is damaged, or no array of plain numbers or text.
            OSError: the file cannot be read.
        """
        member = self._members[name]
        with _one_reason(), self._opened(member) as file:
            shape, _, dtype = _header(file)
            return shape, dtype

    def read(self, name: str, *, most: int | None = None) -> npt.NDArray[Any]:
        """Read an array.

        Args:
            name: one of the `names`.
            most: most bytes that it may have; None: as many as the memory that is available.

        Raises:
            KeyError: there is no array of that name.
            ValueError: it is damaged, no array of plain numbers or text, not as large as its
                header says, or larger than `most`.
            MemoryError: it is larger than the memory that is available.
            OSError: the file cannot be read.
        """
        member = self._members[name]
        with _one_reason(), self._opened(member) as file:
            shape, by_columns, dtype = _header(file)
            size = math.prod(shape) * dtype.itemsize
            held = self._held(member) - file.tell()
            if size != held:
                raise ValueError(
                    f"its header says {dtype} {list(shape)}, which is {size} bytes, and {held} "
                    "are there"
                )
            if most is not None and size > most:
                raise ValueError(f"it is {dtype} {list(shape)}, which is more than {most} bytes")
            if size > available_memory():
                raise MemoryError(f"it has {size} bytes, more than there is memory")
            found = _filled(file, shape, by_columns, dtype)
        _check_text(found)
        return found

    def close(self) -> None:
        """Close the file."""
        if self._archive is not None:
            self._archive.close()
        self._file.close()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _opened(self, member: zipfile.ZipInfo | None) -> Iterator[IO[bytes]]:
        if member is None:
            self._file.seek(0)
            yield cast(IO[bytes], self._file)
        else:
            assert self._archive is not None
            self._held(member)
            with self._archive.open(member) as file:
                yield file

    def _held(self, member: zipfile.ZipInfo | None) -> int:
        """Bytes of a member, unpacked; of an `.npy` those of the file."""
        if member is None:
            return self._length
        if member.flag_bits & 1:
            raise ValueError("it is encrypted")
        stored = member.compress_type == _STORED
        if not stored and member.compress_type != _DEFLATED:
            raise ValueError(f"it is packed by method {member.compress_type}, expected deflate")
        packed = member.compress_size
        if packed > self._length or member.file_size > packed * (1 if stored else _INFLATION):
            raise ValueError(f"it claims to hold {member.file_size} bytes, more than it can")
        return member.file_size


def read_npy(path: str | os.PathLike[str], *, most: int | None = None) -> npt.NDArray[Any]:
    """The array of an `.npy`.

    Raises:
        OSError, ValueError, MemoryError: as `ArrayFile` and its `read`.
    """
    with ArrayFile(path) as file:
        if file.names != ("",):
            raise ValueError("it is an archive, expected one array (.npy)")
        return file.read("", most=most)


def available_memory() -> int:
    """Memory that a process may still take, bytes, as far as the system says so."""
    limits = [2**62]
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as lines:
        free = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        limits += [1024 * int(kilobytes) for kilobytes in free]
    for path in _CONTAINER:  # "max" where there is no limit
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            limits.append(int(file.read()))
    return min(limits)


class _InPieces(io.BufferedReader):
    """A file of which no more than `_PIECE` bytes are read at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0 or size > _PIECE:
            here = self.tell()
            left = self.seek(0, os.SEEK_END) - here
            self.seek(here)
            if (left if size is None or size < 0 else min(size, left)) > _PIECE:
                raise ValueError("its list of members is too long")
        return super().read(size)


@contextlib.contextmanager
def _one_reason() -> Iterator[None]:
    """Turn what a damaged archive raises, which is nearly everything, into a ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # A place in the archive that no file has is an OSError, too.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(on_one_line(reason[:300])) from error


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo | None]:
    found: dict[str, zipfile.ZipInfo | None] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(_SUFFIX)
        if len(name) > _MOST_NAME:
            raise ValueError(f"the name of a member has {len(name)} characters")
        if name in found:
            raise ValueError(f"the member {name!r} is there twice")
        found[name] = member
    return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns are stored one after the other, and type of an array.

    Parsed here, as numpy's reader takes in as long a header as a file claims to have, and
    evaluates it as Python, with warnings.
    """
    start = file.read(len(_MAGIC) + 2)
    if start[: len(_MAGIC)] != _MAGIC or len(start) < len(_MAGIC) + 2:
        raise ValueError("it is no array of numpy's")
    width = "<H" if start[-2] == 1 else "<I"
    length = struct.unpack(width, file.read(struct.calcsize(width)))[0]
    if start[-2] not in (1, 2) or length > _MOST_HEADER:
        raise ValueError("its header is not one of a plain array")
    header = file.read(length).decode("latin-1").strip()
    if len(header) < 2 or header[0] != "{" or header[-1] != "}":
        raise ValueError("its header is not complete")
    entries, place = {}, 1
    while entry := _ENTRY.match(header, place):
        entries[entry["key"]], place = entry, entry.end()
    if header[place:].strip() != "}" or len(entries) != 3:
        raise ValueError("its header is not one of a plain array")
    descr = entries["descr"]["descr"] or entries["descr"]["other"] or ""
    flag, shape = entries["fortran_order"]["flag"], entries["shape"]["shape"]
    if not _PLAIN.fullmatch(descr) or flag is None or shape is None:
        raise ValueError(f"it holds {descr[:20] or 'records'!r}, expected plain numbers or text")
    dtype = np.dtype(descr)
    if dtype.itemsize == 0:
        raise ValueError("it holds items of no bytes")
    return _axes(shape), flag == "True", dtype


def _axes(text: str) -> tuple[int, ...]:
    """The shape that is written `120, 3` or `120,`."""
    parts = text.split(",")
    if not parts[-1].strip():
        parts.pop()
        if len(parts) == 0 and "," in text:
            raise ValueError("its shape is not complete")
    if not all(map(_AXIS.fullmatch, parts)) or len(parts) > 32:
        raise ValueError("its shape is not one of an array")
    return tuple(int(part.strip().removesuffix("L")) for part in parts)


def _filled(
    file: IO[bytes], shape: tuple[int, ...], by_columns: bool, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    flat = np.empty(math.prod(shape), dtype)
    content, place = flat.view(np.uint8).data, 0
    while place < len(content):
        piece = file.read(min(_PIECE, len(content) - place))
        if not piece:
            raise ValueError(f"it ends after {place} of {len(content)} bytes")
        content[place : place + len(piece)] = piece
        place += len(piece)
    if file.read(1):  # at the end of a member its checksum is compared
        raise ValueError("it goes on behind its array")
    return flat.reshape(shape, order="F" if by_columns else "C")


def _check_text(found: npt.NDArray[Any]) -> None:
    """Refuse text of numbers that are no characters, which Python cannot hold."""
    if found.dtype.kind == "U" and found.size:
        order = "<" if found.dtype.str[0] == "<" else ">"
        codes = found.ravel("K").view(f"{order}u4")
        if int(codes.max()) > 0x10FFFF:
            raise ValueError("it holds text of what are no characters")
