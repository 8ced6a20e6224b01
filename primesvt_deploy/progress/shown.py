"""Progress that is shown: the part that lines, bars and notebooks have in common."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.progress.forecast import Forecast
from primesvt_deploy.progress.protocol import PlannedStage
from primesvt_deploy.progress.running import RunningStage
from primesvt_deploy.progress.words import about, clock

__all__ = ["Lines", "Shown"]

_MINUTE = 60.0


class Shown(ABC):
    """A `Progress` that people see: a line for each ended stage; a context manager.

    Args:
        verbose: a line for each step's result, too.
        now: a clock, s.
    """

    def __init__(self, *, verbose: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self._verbose = now, verbose
        self.begun = now()
        self.forecast = Forecast(now)
        self.running: RunningStage | None = None

    def __enter__(self) -> Shown:
        """Begin to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the last stage; one that failed is left without a line."""
        if kind is None:
            self._end()
        self.running = None

    def plan(self, stages: Sequence[PlannedStage]) -> None:
        """Take the stages that are to come into the estimate of the time left."""
        self.forecast.plan(stages)

    def stage(self, name: str, total: int, unit: str = "steps") -> None:
        """End the stage before with a line, and begin another."""
        self._end()
        name = on_one_line(name)
        self.forecast.begin(name)
        self.running = RunningStage(name, total, unit, self.now())
        self.changed()

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Show how far the current step is."""
        if self.running is not None:
            self.running.advance(done, total, unit)
            self.forecast.report(self.running.share)
            self.changed()

    def step(self, note: str = "") -> None:
        """Show that a step is done."""
        if self.running is not None:
            note = on_one_line(note)
            self.running.step(note)
            self.forecast.report(self.running.share)
            if note and self._verbose and not self.running.has_results:
                self._say(f"{self.running.name}: {note}")
            self.changed()

    def message(self, text: str, *more: str) -> None:
        """Show a line with its time, and more below; a stage whose steps are done comes first."""
        if self.running is not None and self.running.share >= 1.0:
            self._end()
        self._say(on_one_line(text))
        for line in more:
            self.print_line(on_one_line(line))

    @property
    def seconds(self) -> float:
        """Time since the beginning, s."""
        return self.now() - self.begun

    @abstractmethod
    def print_line(self, text: str) -> None:
        """Print a line that stays."""

    @abstractmethod
    def changed(self) -> None:
        """Take notice of a change; called often."""

    def _end(self) -> None:
        stage = self.running
        if stage is not None:
            self.running = None
            self._say(stage.summary(self.now() - stage.begun))

    def _say(self, text: str) -> None:
        self.print_line(f"[{clock(self.seconds):>5}] {text}")


class Lines(Shown):
    """Lines on stderr, for a file or a pipe: one at the end of a stage, and one a minute."""

    def __init__(self, *, verbose: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(verbose=verbose, now=now)
        self._told = now()

    def print_line(self, text: str) -> None:
        """Print it on stderr at once."""
        self._told = self.now()
        print(text, file=sys.stderr, flush=True)

    def changed(self) -> None:
        """Tell how far a long stage is, where nothing was told for a minute."""
        stage = self.running
        if stage is None or self.now() - self._told < _MINUTE:
            return
        counts = [count for count in (stage.count, stage.within) if count]
        if not counts and not stage.share:
            return
        words = [f"{stage.name}: {', '.join(counts) or f'{stage.share:.0%}'}"]
        left = self.forecast.remaining()
        if left is not None:
            all_ = " in all" if self.forecast.has_plan else ""
            words.append(f"{about(left)} left{all_}")
        self._say(", ".join(words))
