"""Progress of long-running stages: the protocol that they report to, and who reports nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["AUTOMATIC", "SILENT", "PlannedStage", "Progress", "Silent", "TimedProgress"]


@dataclass(frozen=True)
class PlannedStage:
    """A stage that is still to come, and an estimate of its work.

    Args:
        name: as `Progress.stage` will get it; several in a row that begin with it are one.
        images: its work, in images that the dense model classifies.
        seconds: that it takes besides, however fast the model is.
        most: seconds after which it ends at the latest.
        guessed: whether it may well take less, as a search does that ends when it has found enough;
            nothing is then learned from its time about later stages.
        image_s: seconds an image, as they were measured before; None: unknown.
    """

    name: str
    images: float = 0.0
    seconds: float = 0.0
    most: float = math.inf
    guessed: bool = False
    image_s: float | None = None


class Progress(Protocol):
    """Receives the progress of stages; derive from `Silent` to implement only some of it."""

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Name the stages after the current one; what was planned before is replaced."""

    def stage(self, name: str, total: int, unit: str = "steps") -> None:
        """Begin a stage of `total` steps, called `unit` ("": not shown); the last one has ended."""

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Say how far the current step is, `done` of `total` (0: unknown); ends no step."""

    def step(self, note: str = "") -> None:
        """Count a step of the current stage; `note` is its result in words."""

    def message(self, text: str, *more: str) -> None:
        """Show a line that a user should read, and others that belong to it, such as a table's."""


class Silent:
    """A `Progress` that shows nothing."""

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Nothing."""

    def stage(self, name: str, total: int, unit: str = "steps") -> None:
        """Nothing."""

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Nothing."""

    def step(self, note: str = "") -> None:
        """Nothing."""

    def message(self, text: str, *more: str) -> None:
        """Nothing."""


SILENT: Progress = Silent()
AUTOMATIC: Progress = Silent()
"""Default of the functions of the API: a bar on a terminal or in a notebook, elsewhere nothing."""


class TimedProgress:
    """Passes progress on and measures how long each stage takes."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._started: list[tuple[str, float]] = []

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Name the stages that are still to come."""
        self._inner.plan(stages)

    def stage(self, name: str, total: int, unit: str = "steps") -> None:
        """Begin a stage."""
        self._started.append((name, time.perf_counter()))
        self._inner.stage(name, total, unit)

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Say how far the current step is."""
        self._inner.advance(done, total, unit)

    def step(self, note: str = "") -> None:
        """Count a step."""
        self._inner.step(note)

    def message(self, text: str, *more: str) -> None:
        """Show a line that a user should read, and others that belong to it."""
        self._inner.message(text, *more)

    def seconds(self) -> dict[str, float]:
        """Seconds of all stages so far, summed by name; the last one is still running."""
        ends = [begun for _, begun in self._started[1:]] + [time.perf_counter()]
        found: dict[str, float] = {}
        for (name, begun), end in zip(self._started, ends, strict=True):
            found[name] = round(found.get(name, 0.0) + end - begun, 2)
        return found
