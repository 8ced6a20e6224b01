"""Run a program that may crash or hang beside this process, and say what became of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

from primesvt_deploy.cli.here import has_working_directory
from primesvt_deploy.edge.runtime.errors import on_one_line

__all__ = ["Probe"]

_SECONDS = 30.0
_LONGEST = 300
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt)(: |$)")


class Probe:
    """A program that runs from now on; its outcome is asked for later.

    Args:
        command: program and arguments.
        stdin: text that it reads.
        seconds: how long it may take, from when its outcome is asked for.
    """

    def __init__(self, command: Sequence[str], *, stdin: str = "", seconds: float = _SECONDS):
        self._stdin, self._seconds = stdin, seconds
        self._output = self._errors = ""
        self._failure: str | None = None
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                cwd=None if has_working_directory() else os.sep,
            )
        except OSError as error:
            self._failure = f"it does not start: {error.strerror}"

    def failure(self) -> str | None:
        """Why it failed, on one line; None: it did not. Waits for its end."""
        if self._process is None:
            return self._failure
        process, self._process = self._process, None
        try:
            self._output, self._errors = process.communicate(self._stdin, self._seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            self._failure = f"it takes more than {self._seconds:.0f} s"
            return self._failure
        if process.returncode < 0:
            self._failure = f"it was ended by {_signal(-process.returncode)}"
        elif process.returncode:
            reason = _reason(self._errors) or f"it ended with {process.returncode}"
            self._failure = on_one_line(reason[:_LONGEST])
        return self._failure

    def json(self) -> Any:
        """The last line that it printed, as JSON; after `failure`."""
        return json.loads(self._output.strip().splitlines()[-1])


def _reason(errors: str) -> str:
    """The line that says why: Python's last exception, a compiler's first error, else the last."""
    lines = [line.rstrip() for line in errors.splitlines() if line.strip()]
    raised = [line for line in lines if _EXCEPTION.match(line)]
    told = [line for line in lines if "error: " in line]
    return (raised[-1:] or told[:1] or lines[-1:] or [""])[0].strip()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
