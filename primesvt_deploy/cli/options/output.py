"""Options on how much a command says while it works: `--quiet` and `--verbose`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from primesvt_deploy.errors import SettingsError
from primesvt_deploy.progress.choose import Verbosity, shown_progress
from primesvt_deploy.progress.protocol import Progress

__all__ = ["output_options", "progress_of", "quiet_option"]

_LIBRARIES = ("torch.onnx", "onnxscript", "onnx_ir", "asyncssh", "py.warnings")
"""Loggers of libraries whose lines help to see what a stage does."""

quiet_option = click.option("--quiet", is_flag=True, help="Only results and errors.")


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--quiet` and `--verbose`; it gets them as `verbosity`."""

    @quiet_option
    @click.option(
        "--verbose", is_flag=True, help="Also the result of each step, and what libraries log."
    )
    @functools.wraps(command)
    def with_verbosity(*, quiet: bool, verbose: bool, **others: Any) -> Any:
        if quiet and verbose:
            raise SettingsError("--quiet and --verbose exclude each other: leave one out")
        verbosity = Verbosity.QUIET if quiet else Verbosity.NORMAL
        return command(verbosity=Verbosity.VERBOSE if verbose else verbosity, **others)

    return with_verbosity


@contextmanager
def progress_of(verbosity: Verbosity) -> Iterator[Progress]:
    """The progress of a command; with `--verbose` what libraries log is shown in it.

    Args:
        verbosity: from `output_options`.
    """
    with shown_progress(verbosity) as progress:
        if verbosity is not Verbosity.VERBOSE:
            yield progress
            return
        handler = _InProgress(progress)
        loggers = [logging.getLogger(name) for name in _LIBRARIES]
        before = [(one.handlers, one.level, one.propagate) for one in loggers]
        logging.captureWarnings(True)
        for logger in loggers:
            logger.handlers = [handler]  # torch has one of its own
            logger.setLevel(logging.INFO)
            logger.propagate = False
        try:
            yield progress
        finally:
            logging.captureWarnings(False)
            for logger, (handlers, level, propagates) in zip(loggers, before, strict=True):
                logger.handlers = handlers
                logger.setLevel(level)
                logger.propagate = propagates


class _InProgress(logging.Handler):
    """Shows what is logged as messages of a progress."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        """Show the first line of a record."""
        lines = record.getMessage().strip().splitlines() or [""]
        self._progress.message(f"{record.name}: {lines[0]}")
