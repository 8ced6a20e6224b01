"""Follow what a guard runs (`detached.py`), for the host: `python3 -m ...follow DIRECTORY OFFSET`.

Prints one line each: `p OFFSET TEXT`, a new line of the progress and the bytes up to its end;
`e N CODE`, command N has ended; `gone`, the directory's guard has ended. Any input on stdin means
that the host is there: only then `alive` is refreshed.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["ends", "follow", "guarded", "progress"]

_POLL_S = 0.1
_SILENCE_S = 30.0
"""Seconds without input on stdin after which the host counts as gone."""


def guarded(directory: Path) -> bool:
    """Whether the guard of a directory is running."""
    try:
        with open(directory / "lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def ends(directory: Path) -> dict[int, int]:
    """Exit statuses of the commands that have ended, by number."""
    found: dict[int, int] = {}
    while (link := directory / f"rc-{len(found)}").is_symlink():
        found[len(found)] = int(os.readlink(link))
    return found


def progress(directory: Path, offset: int, *, whole: bool) -> Iterator[tuple[int, str]]:
    """Lines after the first `offset` bytes, each with the offset of its end.

    Args:
        directory: the guarded directory.
        offset: bytes that were read before.
        whole: nothing more is being written, so that an unfinished last line counts too.
    """
    try:
        with open(directory / "progress.log", "rb") as log:
            log.seek(offset)
            for line in log:
                if line.endswith(b"\n") or whole:
                    offset += len(line)
                    yield offset, line.decode(errors="replace").rstrip()
    except FileNotFoundError:
        return


def follow(directory: Path, offset: int, *, silence_s: float = _SILENCE_S) -> None:
    """Print progress and ends of commands until stdin closes or falls silent, or the guard ends.

    Args:
        directory: the guarded directory.
        offset: bytes of the progress that the host has already.
        silence_s: seconds without input on stdin after which this ends.
    """
    heard, printed = time.monotonic(), 0
    while time.monotonic() - heard < silence_s:
        if select.select([0], [], [], _POLL_S)[0]:
            if not os.read(0, 4096):
                return
            heard = time.monotonic()
            try:
                os.utime(directory / "alive")
            except FileNotFoundError:
                print("gone", flush=True)
                return
        lives, ended = guarded(directory), ends(directory)
        for end, text in progress(directory, offset, whole=len(ended) > printed):
            print(f"p {end} {text}", flush=True)
            offset = end
        for number in range(printed, len(ended)):
            print(f"e {number} {ended[number]}", flush=True)
        printed = len(ended)
        if not lives:
            print("gone", flush=True)
            return


if __name__ == "__main__":
    follow(Path(sys.argv[1]), int(sys.argv[2]))
