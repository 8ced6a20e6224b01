"""Copy the native engine into a bundle: C sources, how to build them, and an example."""

from __future__ import annotations

import shutil
from pathlib import Path

from primesvt_deploy.edge.runtime.native_library import OWN_SOURCES

__all__ = ["ENGINE", "copy_engine", "copy_mcu_example"]

ENGINE = OWN_SOURCES
"""The engine's sources."""
_COPIED = ("*.c", "*.h", "*.ld", "Makefile", "CMakeLists.txt", "README.md")


def copy_engine(target: Path) -> None:
    """Copy the engine's files into a new directory."""
    _copy(ENGINE, target)


def copy_mcu_example(target: Path) -> None:
    """Copy the example program for a microcontroller into a new directory."""
    _copy(ENGINE / "mcu", target)


def _copy(source: Path, target: Path) -> None:
    target.mkdir()
    for pattern in _COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)
