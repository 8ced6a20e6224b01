"""Ctrl-C ends a command wherever it falls."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator

__all__ = ["lost_interrupts_repeated"]

_AGAIN_SECONDS = 0.01


@contextlib.contextmanager
def lost_interrupts_repeated() -> Iterator[None]:
    """Repeat a KeyboardInterrupt that Python had to drop, and do not print it.

    One that falls into a weakref callback, a finalizer or the garbage collector reaches no
    caller, and a trace by torch.export spends a good part of its time in these.
    """
    before = sys.unraisablehook
    timers: list[threading.Timer] = []

    def repeat(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        # Later: what is raised now would be dropped too.
        timers.append(threading.Timer(_AGAIN_SECONDS, _thread.interrupt_main))
        timers[-1].daemon = True
        timers[-1].start()

    sys.unraisablehook = repeat
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()
