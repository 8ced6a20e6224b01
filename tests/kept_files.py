"""Directories of what tests made and may find again: of all workers of a run, and of later runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

__all__ = ["kept_directory"]

_KEPT_SECONDS = 14 * 86_400.0
"""A file that no run has asked for so long is removed."""


def kept_directory(request: pytest.FixtureRequest, name: str) -> Path:
    """A directory in pytest's cache; where that is off, one of this run alone.

    Files in it must be named by all that they depend on, and be written whole or not at all.
    """
    cache = getattr(request.config, "cache", None)
    if cache is None:
        temporary: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
        base = temporary.getbasetemp()
        on_worker = hasattr(request.config, "workerinput")
        directory = (base.parent if on_worker else base) / name
        directory.mkdir(exist_ok=True)
        return directory
    found: Path = cache.mkdir(name)
    oldest = time.time() - _KEPT_SECONDS
    for path in found.iterdir():
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:  # another worker has removed it
            continue
    return found
