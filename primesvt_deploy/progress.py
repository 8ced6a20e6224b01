"""Progress of long-running stages: the protocol that they report to; only the CLI draws it."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SILENT", "Progress", "TimedProgress"]


class Progress(Protocol):
    """Receives the progress of stages."""

    def stage(self, name: str, total: int) -> None:
        """Begin a stage of `total` steps; the one before has ended."""

    def step(self, note: str = "") -> None:
        """Count a step of the current stage; `note` is its result in words."""

    def message(self, text: str) -> None:
        """Show a line that a user should read."""


class _Silent:
    def stage(self, name: str, total: int) -> None:
        """Nothing."""

    def step(self, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""


SILENT: Progress = _Silent()


class TimedProgress:
    """Passes progress on and measures how long each stage takes."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._started: list[tuple[str, float]] = []

    def stage(self, name: str, total: int) -> None:
        """Begin a stage."""
        self._started.append((name, time.perf_counter()))
        self._inner.stage(name, total)

    def step(self, note: str = "") -> None:
        """Count a step."""
        self._inner.step(note)

    def message(self, text: str) -> None:
        """Show a line that a user should read."""
        self._inner.message(text)

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage so far, by name, in order; the last one is still running."""
        ends = [begun for _, begun in self._started[1:]] + [time.perf_counter()]
        return {
            name: round(end - begun, 2)
            for (name, begun), end in zip(self._started, ends, strict=True)
        }
