"""How a private Ray ends: with this process, however that ends, and wholly."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

__all__ = ["shut_down", "sigterm_kept"]

_ENDING_SECONDS = 5.0
_LOOK_SECONDS = 0.05


@contextlib.contextmanager
def sigterm_kept() -> Iterator[Callable[[], None]]:
    """Put what SIGTERM does back at the end: Ray changes it when it starts.

    Yields:
        Has SIGTERM unwind the stack from now on, so that contexts end; outside the main thread it
        does nothing. To be called when Ray has started.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def start() -> None:
        signal.signal(signal.SIGTERM, end)

    before = signal.getsignal(signal.SIGTERM)
    try:
        yield start
    finally:
        signal.signal(signal.SIGTERM, before)


def shut_down(shutdown: Callable[[], None]) -> None:
    """Shut Ray down, and return when the processes that its raylet had started have ended, too.

    They notice that it has gone a moment later; those that do not are killed.

    Args:
        shutdown: Ray's own, which ends what this process has started.
    """
    left = _started_by_raylet()
    shutdown()
    until = time.monotonic() + _ENDING_SECONDS
    while left and time.monotonic() < until:
        left = {process for process in left if _parent(process) is not None}
        time.sleep(_LOOK_SECONDS)
    for process in left:
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def _started_by_raylet() -> set[int]:
    """Processes below a raylet that this process has started."""
    parents = {
        process: parent
        for process in (int(entry.name) for entry in Path("/proc").glob("[0-9]*"))
        if (parent := _parent(process)) is not None
    }
    own = [process for process, parent in parents.items() if parent == os.getpid()]
    found = {process for process in own if _name(process) == "raylet"}
    raylets = set(found)
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found - raylets


def _parent(process: int) -> int | None:
    """Parent of a process; None: it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def _name(process: int) -> str:
    try:
        return Path(f"/proc/{process}/comm").read_text().strip()
    except OSError:
        return ""
