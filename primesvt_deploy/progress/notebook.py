"""Progress in a notebook: lines of text in the cell's output, which are replaced as it goes on."""

from __future__ import annotations

import html
import importlib
import io
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console

from primesvt_deploy.progress.bars import View
from primesvt_deploy.progress.shown import Shown

__all__ = ["Notebook", "in_notebook"]

_COLUMNS = 90
_BETWEEN_S = 0.5
"""Seconds between two updates of the output."""


def in_notebook() -> bool:
    """Whether this is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


class Notebook(Shown):
    """Bars as text in one output of the cell; needs no widgets."""

    def __init__(self, *, verbose: bool = False, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(verbose=verbose, now=now)
        self._lines: list[str] = []
        self._drawn = float("-inf")
        self._handle: Any = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the lines of the ended stages."""
        super().__exit__(kind, error, trace)
        self._draw()

    def print_line(self, text: str) -> None:
        """Add it to the output."""
        self._lines.append(text)
        self._draw()

    def changed(self) -> None:
        """Draw anew, twice a second at most."""
        if self.now() - self._drawn >= _BETWEEN_S:
            self._draw()

    def _draw(self) -> None:
        display = importlib.import_module("IPython.display")
        self._drawn = self.now()
        console = Console(
            file=io.StringIO(), width=_COLUMNS, color_system=None, force_jupyter=False
        )
        console.print(View(self))
        assert isinstance(console.file, io.StringIO)
        text = "\n".join([*self._lines, console.file.getvalue().rstrip()]).rstrip()
        content = display.HTML(f"<pre>{html.escape(text)}</pre>")
        if self._handle is None:
            self._handle = display.display(content, display_id=True)
        else:
            self._handle.update(content)
