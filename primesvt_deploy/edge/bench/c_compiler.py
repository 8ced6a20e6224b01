"""The C compiler that the native runtime would be compiled with, without importing the runtime."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess

__all__ = ["compiler_version", "version_of"]

_COMPILERS = ("cc", "gcc", "clang")
_SECONDS = 10.0


def compiler_version() -> str | None:
    """First line that this machine's C compiler says of its version; None where there is none."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [[name] for name in _COMPILERS]:
        if shutil.which(command[0]):
            return version_of(command)
    return None


def version_of(command: list[str]) -> str | None:
    """First line that a compiler says of its version; None where it cannot be run."""
    try:
        said = subprocess.run(
            [*command, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = said.decode("utf-8", errors="replace").strip().splitlines()
    return lines[0].strip() if lines else None
