"""Choose how progress is shown: as bars, as lines in a pipe, as text in a notebook, or not."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from enum import Enum
from typing import ParamSpec, TypeVar

from primesvt_deploy.progress.protocol import AUTOMATIC, SILENT, Progress
from primesvt_deploy.progress.shown import Lines

__all__ = ["Verbosity", "drawn_by_default", "shown_progress"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class Verbosity(Enum):
    """How much a command says while it works."""

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


def shown_progress(
    verbosity: Verbosity = Verbosity.NORMAL,
) -> AbstractContextManager[Progress]:
    """Progress on stderr: bars on a terminal that can draw them, lines elsewhere.

    Args:
        verbosity: quiet: nothing; verbose: the result of each step as well.
    """
    if verbosity is Verbosity.QUIET:
        return nullcontext(SILENT)
    verbose = verbosity is Verbosity.VERBOSE
    if _can_draw():
        from primesvt_deploy.progress.bars import Bars

        return Bars(verbose=verbose)
    return Lines(verbose=verbose)


def drawn_by_default(
    function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """Give a function whose `progress` is `AUTOMATIC` one that people see, if there are any."""

    @functools.wraps(function)
    def with_progress(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if kwargs.get("progress", AUTOMATIC) is not AUTOMATIC:
            return function(*args, **kwargs)
        with _automatic() as progress:
            kwargs["progress"] = progress
            return function(*args, **kwargs)

    return with_progress


def _automatic() -> AbstractContextManager[Progress]:
    """Bars on a terminal, text in a notebook, elsewhere nothing."""
    if "IPython" in sys.modules:
        from primesvt_deploy.progress.notebook import Notebook, in_notebook

        if in_notebook():
            return Notebook()
    return shown_progress() if _can_draw() else nullcontext(SILENT)


def _can_draw() -> bool:
    """Whether stderr is a terminal that moves its cursor."""
    stream = sys.stderr
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream is not None and stream.isatty() and not dumb
