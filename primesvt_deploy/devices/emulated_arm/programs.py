"""Run a program: its output, or one line on why it failed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from primesvt_deploy.edge.runtime.errors import on_one_line
from primesvt_deploy.errors import EmulationError

__all__ = ["call", "last_words"]

_LONGEST = 500


def call(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a command; its standard output.

    Args:
        command: program and arguments.
        environment: its environment; None: this process's.
        folder: its working directory; None: this process's.

    Raises:
        EmulationError: it does not start, or ends with another status than 0.
    """
    variables = {**(os.environ if environment is None else environment), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=variables, cwd=folder
        )
    except OSError as error:
        raise EmulationError(f"`{shlex.join(command)}` does not start: {error}") from error
    if done.returncode:
        reason = last_words(done.stderr or done.stdout)
        raise EmulationError(f"`{shlex.join(command)}` ended with {done.returncode}: {reason}")
    return done.stdout


def last_words(output: str) -> str:
    """The gist of a failed program's output in one line: its errors, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(E:|ERROR:)", line)]
    return on_one_line(" ".join(errors or lines[-1:])[:_LONGEST]) or "it printed nothing"
