"""Progress as bars on a terminal, as lines elsewhere; on stderr: stdout is for results."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from primesvt_deploy.cli.tables.common import make_console

__all__ = ["Bars"]

_NUMBERS_WIDTH = 92
"""Columns that description, bar, count and times take on a terminal."""
_FEW_STEPS = 20
"""Steps up to which a stage prints each of its steps where there is no terminal."""


class Bars:
    """A `Progress` that draws; a context manager."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description:<20}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self._console,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._name, self._started, self._few = "", 0.0, False

    def __enter__(self) -> Bars:
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop drawing and leave the terminal as it was."""
        if kind is None:
            self._end_stage()
        self._bars.stop()

    def stage(self, name: str, total: int) -> None:
        """Begin a new bar."""
        self._end_stage()
        self._name, self._started = name, time.monotonic()
        self._few = total <= _FEW_STEPS
        self._task = self._bars.add_task(name, total=total, note="")
        if not self._live:
            self._console.print(f"{name} ...")

    def step(self, note: str = "") -> None:
        """Advance the bar by a step."""
        if self._task is not None:
            # The note gives way on a narrow terminal, not the numbers before it.
            room = max(self._console.width - _NUMBERS_WIDTH, 0)
            self._bars.update(self._task, advance=1, note=note[:room])
            if note and not self._live and self._few:
                self._console.print(f"  {note}", soft_wrap=True)

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, soft_wrap=True)

    def _end_stage(self) -> None:
        if self._task is None:
            return
        task = next(task for task in self._bars.tasks if task.id == self._task)
        self._bars.update(self._task, completed=task.total)
        if not self._live:
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._name}: {seconds:.1f} s")
