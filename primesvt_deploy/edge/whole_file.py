"""Write a file whole or not at all: no reader, and no crash, ever meets half of one.

The standard library alone; `bench --host` copies it to a device with `edge/bench`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PARTIAL", "bundle_around", "whole_file", "write_whole"]

PARTIAL = ".partial"
"""What the name of a file ends with while it is written; a killed process leaves one behind."""
_MANIFEST, _SCHEMA = "manifest.json", b'"primesvt-bundle/'
_MOST_MANIFEST = 2**22


def bundle_around(path: str | os.PathLike[str]) -> Path | None:
    """The bundle that a path lies within; None: none.

    A file that its manifest does not list makes a bundle another one than it says, and unusable.

    Args:
        path: of a file or directory that may not exist yet.
    """
    try:
        above = Path(os.path.realpath(path)).parents
    except ValueError:  # a path that nothing can have
        return None
    for directory in above:
        with contextlib.suppress(OSError):
            manifest = directory / _MANIFEST
            if manifest.is_file():
                with manifest.open("rb") as file:
                    if _SCHEMA in file.read(_MOST_MANIFEST):
                        return directory
    return None


def write_whole(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
    """Write a file whole or not at all; see `whole_file`.

    Args:
        path: the file, replaced if it exists.
        content: what it shall hold; text is encoded as UTF-8.

    Raises:
        OSError: it cannot be written; what stood at `path` stands there still.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path; what is written there replaces `path` when the block ends well.

    The temporary file stands in the same directory, is on the disk before it is renamed, and is
    removed where the block raises. A link at `path` stays, and what it leads to is replaced; a
    device or a pipe is written to as it comes.

    Args:
        path: the file, replaced if it exists.

    Raises:
        OSError: it cannot be written; what stood at `path` stands there still.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield target
        return
    temporary = target.with_name(f"{target.name}{PARTIAL}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
