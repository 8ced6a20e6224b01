"""Bytes of a download, told while another program downloads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from primesvt_deploy.progress import Progress

__all__ = ["watched"]

_BETWEEN_S = 0.3


@contextmanager
def watched(
    folder: Path, progress: Progress, *, total: int = 0, pattern: str = "*"
) -> Iterator[None]:
    """Tell how many bytes the files in a folder have meanwhile; ends no step.

    Args:
        folder: where another program writes.
        progress: gets the bytes.
        total: bytes that it will be in the end; 0: unknown.
        pattern: of the names in the folder that count, with all that is below them.
    """
    done = threading.Event()
    most = 0

    def tell() -> None:
        nonlocal most
        most = max(most, _bytes_in(folder, pattern))  # files may go again
        progress.advance(min(most, total) if total else most, total, "bytes")

    def look() -> None:
        while not done.wait(_BETWEEN_S):
            tell()

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    tell()


def _bytes_in(folder: Path, pattern: str) -> int:
    found = 0
    for top in folder.glob(pattern):
        for path in (top, *top.rglob("*")):
            try:
                found += path.stat().st_size if path.is_file() else 0
            except OSError:  # it was moved meanwhile
                continue
    return found
