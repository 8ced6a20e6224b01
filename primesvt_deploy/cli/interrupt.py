"""Ctrl-C ends a command wherever it falls."""

from __future__ import annotations

import _thread
import contextlib
import sys
import threading
from collections.abc import Iterator

__all__ = ["lost_interrupts_repeated"]

_AGAIN_SECONDS = 0.05


@contextlib.contextmanager
def lost_interrupts_repeated() -> Iterator[None]:
    """Repeat a KeyboardInterrupt that Python had to drop, and do not print it.

    One that falls into a weakref callback, a finalizer or the garbage collector reaches no
    caller, and a trace by torch.export spends a good part of its time in these.
    """
    before = sys.unraisablehook
    dropped, ended = threading.Event(), threading.Event()

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            dropped.set()
        else:
            before(unraisable)

    # In a thread, and later: what is raised within the hook would be dropped too.
    threading.Thread(target=_repeat, args=(dropped, ended), daemon=True).start()
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
        ended.set()
        dropped.set()


def _repeat(dropped: threading.Event, ended: threading.Event) -> None:
    """Interrupt the main thread whenever an interrupt was dropped."""
    while dropped.wait() and not ended.wait(_AGAIN_SECONDS):
        dropped.clear()
        _thread.interrupt_main()
