"""Bars on a terminal: that of the running stage, and that of everything with the time left.

Ended stages scroll by above them as lines; the bars themselves are wiped away at the end.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from primesvt_deploy.progress.cursor import cursor_shown_at_signals
from primesvt_deploy.progress.shown import Shown
from primesvt_deploy.progress.words import about, clock

__all__ = ["Bars", "View"]

_MOST_COLUMNS = 100
_NARROW = 60
"""Columns below which names, counts and bars are short."""
_REFRESHES = 4
"""Drawings a second: each costs about a millisecond."""
_ALL = "in all"
_LEAST_BAR = 4


class View:
    """The bars at this moment, as wide as there is room; something that rich can print.

    Args:
        shown: what is drawn.
    """

    def __init__(self, shown: Shown) -> None:
        self._shown = shown

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Two lines of bars, and one of the last step's result."""
        stage = self._shown.running
        if stage is None:
            return
        # A line that fills the last column would wrap on some terminals.
        width = min(options.max_width - 1, _MOST_COLUMNS)
        narrow = width < _NARROW
        own = clock(self._shown.now() - stage.begun)
        count = stage.count or stage.within
        count = count.partition(" ")[0] if narrow else count
        share = stage.share if stage.is_countable else None
        planned = self._shown.forecast.has_plan
        words = f"{count} {own if planned else self._left(own, narrow)}".strip()
        rows = [(stage.name, _bar(share, self._shown.now()), words)]
        if planned:
            bar = _bar(self._shown.forecast.fraction(), 0.0)
            rows.append((_ALL, bar, self._left(clock(self._shown.seconds), narrow)))
        yield from console.render(_in_columns(rows, width), options.update_width(max(width, 10)))
        within = stage.within if stage.count else ""
        note = ", ".join(filter(None, (within, stage.note)))
        if note:
            text = Text(f"  {note}", style="dim", no_wrap=True, overflow="ellipsis")
            yield from console.render(text, options.update_width(max(width, 10)))

    def _left(self, passed: str, narrow: bool) -> str:
        """The time that has passed, and about how much is left."""
        left = self._shown.forecast.remaining()
        if left is None:
            return passed
        return f"{passed} {about(left)}" if narrow else f"{passed}, {about(left)} left"


class Bars(Shown):
    """Bars on the terminal that stderr is; a context manager."""

    def __init__(self, *, verbose: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(verbose=verbose, now=now)
        self._console = Console(
            stderr=True,
            markup=False,
            highlight=False,
            emoji=False,
            # Without any style, too: rich's own NO_COLOR leaves bold and dim.
            color_system=None if os.environ.get("NO_COLOR") else "auto",
        )
        self._live = Live(
            View(self),
            console=self._console,
            refresh_per_second=_REFRESHES,
            transient=True,
        )
        self._restores = contextlib.ExitStack()

    def __enter__(self) -> Bars:
        """Start to draw."""
        try:
            self._restores.enter_context(cursor_shown_at_signals(self._console.file))
            self._live.start()
        except BaseException:
            # An interrupt within: there will be no __exit__, and rich cannot stop what half began.
            with contextlib.suppress(Exception):
                self._stop()
            self._console.show_cursor()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wipe the bars away and leave the terminal as it was."""
        super().__exit__(kind, error, trace)
        self._stop()

    def _stop(self) -> None:
        with self._restores:
            self._live.stop()

    def print_line(self, text: str) -> None:
        """Print it above the bars."""
        self._console.print(text, overflow="fold")

    def changed(self) -> None:
        """Leave the drawing to rich's thread."""


def _in_columns(rows: Sequence[tuple[str, ProgressBar, str]], width: int) -> Table:
    """Names, bars and words below one another; the bars take the room that words leave."""
    words = max(len(row[2]) for row in rows)
    name = min(max(len(row[0]) for row in rows), max(width // 3, 8))
    name = max(name, min(width // 4, width - words - _LEAST_BAR - 2))  # so that bars seldom move
    bar = max(min(width - name - words - 2, width // 3), _LEAST_BAR)
    grid = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True, overflow="ellipsis", width=name)
    grid.add_column(width=bar)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for title, drawn, text in rows:
        grid.add_row(Text(title), drawn, Text(text))
    return grid


def _bar(share: float | None, moment: float) -> ProgressBar:
    """A bar; one that pulses where it is not known how far things are."""
    return ProgressBar(
        total=1.0, completed=share or 0.0, pulse=share is None, animation_time=moment
    )
