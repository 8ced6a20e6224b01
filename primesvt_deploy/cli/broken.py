"""A package that is installed but cannot be loaded, told from a mistake in this code."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import FrameType

from primesvt_deploy.errors import NotInstalledError, type_and_message

__all__ = ["broken_package"]

_OWN = f"{Path(__file__).parents[1]}{os.sep}"
_IMPORTERS = ("<frozen importlib", f"{Path(importlib.__file__).parent}{os.sep}")


def broken_package(error: BaseException) -> NotInstalledError | None:
    """Error that names the package whose import failed; None: the error arose elsewhere.

    The import is one that this code began and another's module did not survive, whatever it raised:
    a missing shared library, a file cut short, a version that does not fit.

    Args:
        error: whatever came out of a command.
    """
    name = _imported(error)
    if name is None or (isinstance(error, ModuleNotFoundError) and error.name == name):
        return None
    return NotInstalledError(
        f"{name} is installed but cannot be loaded ({type_and_message(error)}): see "
        "`primesvt-deploy doctor`"
    )


def _imported(error: BaseException) -> str | None:
    """Name of the package whose module was run, or read, as the error arose; None: none was."""
    after: FrameType | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        if file.startswith(_OWN):
            after = None
        elif after is None and not file.startswith(_IMPORTERS):
            after = frame
    if after is not None:
        is_module = after.f_code.co_name == "<module>"
        return str(after.f_globals.get("__name__")).partition(".")[0] if is_module else None
    if isinstance(error, SyntaxError) and error.filename:
        return _package_of(error.filename)
    if isinstance(error, ImportError) and error.path:  # a module that lacks a name, or no library
        name = (error.name or "").partition(".")[0]
        return None if name == __name__.partition(".")[0] else name or None
    return None


def _package_of(filename: str) -> str | None:
    """Name of the package that a file is of; None: it is of this one, or of none."""
    file = Path(filename)
    if file.is_relative_to(_OWN):
        return None
    roots = [Path(entry) for entry in sys.path if entry and file.is_relative_to(entry)]
    if not roots:
        return None
    root = max(roots, key=lambda path: len(path.parts))
    return file.relative_to(root).parts[0].removesuffix(".py")
