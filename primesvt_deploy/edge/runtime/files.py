"""Read regular files alone, and no more of them than fits: nothing waits on a pipe or a device."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader

__all__ = ["open_regular", "read_regular", "reason_of", "require_regular"]

_KINDS = (
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


def open_regular(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a regular file to read; anything else is refused before it is opened.

    Raises:
        OSError: there is no such file, it is no regular one, or it cannot be read; its `strerror`
            says why.
        ValueError: a null character in the path.
    """
    require_regular(os.stat(path), path)
    # Should a pipe have taken its place meanwhile, opening it does not wait either.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        require_regular(os.fstat(descriptor), path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | os.PathLike[str], *, most: int) -> bytes:
    """Content of a regular file of at most `most` bytes.

    Raises:
        OSError: as `open_regular`, or it is larger.
        ValueError: a null character in the path.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        # Not `most` at once: so much is allocated first, and a small machine has less.
        content = file.read(size + 1) if size <= most else b""
        if content is None:  # of a device that looks like a file, as /proc/kmsg does
            raise OSError(errno.EINVAL, "it is a device", os.fspath(path))
        if size < len(content) <= most:  # of no size, as those in /proc, or it grows
            content += file.read(most + 1 - len(content))
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", os.fspath(path))
    return content


def require_regular(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    """Refuse what `os.stat` found at a path unless it is a regular file.

    Raises:
        OSError: it is a directory, a pipe, a socket or a device.
    """
    if stat.S_ISREG(found.st_mode):
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", os.fspath(path))
    kind = next((kind for holds, kind in _KINDS if holds(found.st_mode)), "no file")
    raise OSError(errno.EINVAL, f"it is {kind}", os.fspath(path))


def reason_of(error: Exception) -> str:
    """Why a file cannot be used, without the file's name, which messages start with."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
