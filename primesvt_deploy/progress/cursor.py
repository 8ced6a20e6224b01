"""A terminal keeps its cursor when a signal ends the program that hid it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import IO

__all__ = ["cursor_shown_at_signals"]

_ENDING = (signal.SIGTERM, signal.SIGHUP)
_SHOW = b"\x1b[?25h"


@contextlib.contextmanager
def cursor_shown_at_signals(terminal: IO[str]) -> Iterator[None]:
    """Show the cursor before SIGTERM or SIGHUP ends the process, as they would without this.

    A signal that is ignored, or that another handles, is left alone; so is every signal outside the
    main thread.

    Args:
        terminal: what the cursor is hidden on.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(OSError, ValueError):
            # Not through the stream: the signal may have come amid a write to it.
            os.write(terminal.fileno(), _SHOW)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    ours: list[signal.Signals] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                if signal.getsignal(number) is signal.SIG_DFL:
                    ours.append(number)
                    signal.signal(number, end)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
