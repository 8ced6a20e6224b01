"""The file that a model's weights were read from: what it is called, and its digest."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from primesvt_deploy.edge.runtime.files import open_regular
from primesvt_deploy.errors import ModelError

__all__ = ["Source", "checked_sha256", "open_checkpoint", "source_of"]

_CHUNK = 2**20


@dataclass(frozen=True)
class Source:
    """The file that weights were read from.

    Args:
        file: its name, without a directory.
        sha256: of its content, 64 hexadecimal digits.
        bytes: its size.
    """

    file: str
    sha256: str
    bytes: int


def checked_sha256(value: str | None) -> str | None:
    """A SHA-256 that the user gives, in lower case.

    Raises:
        ModelError: it is something else.
    """
    if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise ModelError(
            f"--sha256 is {value[:70]!r}, expected 64 hexadecimal digits: pass what sha256sum says"
        )
    return value.lower() if value is not None else None


def open_checkpoint(path: Path) -> BinaryIO:
    """Open a checkpoint file to read.

    Raises:
        ModelError: there is none, it is no regular file, or it cannot be read.
    """
    try:
        return open_regular(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ModelError(f"no checkpoint file at {path}: check --checkpoint") from error
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(
            f"cannot read a checkpoint at {path} ({said}), expected a file: check --checkpoint"
        ) from error


def source_of(file: BinaryIO, path: Path, expected: str | None = None) -> Source:
    """Digest of an open checkpoint file, which is read once, in parts.

    Args:
        file: the file; left at its beginning.
        path: of the file, for its name and messages.
        expected: its SHA-256 as the user gives it; None: any.

    Raises:
        ModelError: the file has another SHA-256, or cannot be read.
    """
    expected = checked_sha256(expected)
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(_CHUNK))
    try:
        while count := os.readv(file.fileno(), [buffer]):
            digest.update(buffer[:count])
            size += count
        file.seek(0)
    except OSError as error:
        raise ModelError(f"cannot read {path} ({error.strerror}): copy it again") from error
    found = digest.hexdigest()
    if expected not in (None, found):
        raise ModelError(
            f"{path} has the SHA-256 {found}, expected {expected} (--sha256): copy it again"
        )
    return Source(path.name, found, size)
