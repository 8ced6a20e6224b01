"""Copy the native engine into a bundle: C sources, how to build them, and an example."""

from __future__ import annotations

import shutil
from pathlib import Path

from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES

__all__ = ["ENGINE", "copy_engine"]

ENGINE = OWN_SOURCES
"""The engine's sources."""
_COPIED = ("*.c", "*.h", "Makefile", "CMakeLists.txt")


def copy_engine(target: Path) -> None:
    """Copy the engine's files into a new directory."""
    target.mkdir()
    for pattern in _COPIED:
        for path in sorted(ENGINE.glob(pattern)):
            shutil.copyfile(path, target / path.name)
