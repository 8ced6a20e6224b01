"""Run a program and give what it prints, or say in one line why it did not work."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from primesvt_deploy.errors import EmulationError

__all__ = ["call", "last_words"]

_LONGEST = 500


def call(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """What a command prints to its standard output.

    Args:
        command: program and arguments.
        environment: its environment; None: this process's.
        folder: its working directory; None: this process's.

    Raises:
        EmulationError: it does not start, or ends with another status than 0.
    """
    told = {**(os.environ if environment is None else environment), "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=told, cwd=folder
        )
    except OSError as error:
        raise EmulationError(f"`{shlex.join(command)}` does not start: {error}") from error
    if done.returncode:
        said = last_words(done.stderr or done.stdout)
        raise EmulationError(f"`{shlex.join(command)}` ended with {done.returncode}: {said}")
    return done.stdout


def last_words(said: str) -> str:
    """What a failed program's output comes down to, in one line: its errors, or its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(E:|ERROR:)", line)]
    return " ".join(errors or lines[-1:])[:_LONGEST] or "it said nothing"
