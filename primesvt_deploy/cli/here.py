"""The working directory, which may have been removed since the shell went there."""

from __future__ import annotations

import os

__all__ = ["NO_DIRECTORY", "has_working_directory"]

NO_DIRECTORY = "the working directory was removed: change to another, as with `cd`"


def has_working_directory() -> bool:
    """Whether the working directory is still there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True
