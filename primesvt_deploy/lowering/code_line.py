"""The line of the user's code behind an error of Python or of torch."""

from __future__ import annotations

import linecache
import os
import re
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["line_of_error", "line_of_stack"]

_LIBRARIES = ("torch", "spikingjelly", "torch_pruning", "onnxscript", "onnx_ir", "numpy", "einops")
_STACK_LINE = re.compile(r'File "(?P<file>.+?)", line (?P<line>\d+)')
_MOST_CHARACTERS = 100


def line_of_error(error: BaseException) -> str:
    """Innermost line of the user's code that an error came through, or "".

    Returns:
        Such as `nets.py:12: if x.sum() > 0:`.
    """
    frames = traceback.walk_tb(error.__traceback__)
    return _innermost([(frame.f_code.co_filename, line) for frame, line in frames])


def line_of_stack(stack: str) -> str:
    """Innermost line of the user's code in a stack as torch prints it, or ""."""
    found = _STACK_LINE.finditer(stack)
    return _innermost([(match["file"], int(match["line"])) for match in found])


def _innermost(frames: Sequence[tuple[str, int]]) -> str:
    for file, line in reversed(frames):
        if _is_users(file):
            source = " ".join(linecache.getline(file, line).split())
            return f"{Path(file).name}:{line}" + (
                f": {source[:_MOST_CHARACTERS]}" if source else ""
            )
    return ""


def _is_users(file: str) -> bool:
    if file.startswith("<"):
        return False
    if file.startswith(_libraries()):
        return False
    return "-packages" in file or not file.startswith(_directory(os.__file__))


@cache
def _libraries() -> tuple[str, ...]:
    specs = (find_spec(name) for name in _LIBRARIES if name in sys.modules)
    places = [_directory(spec.origin) for spec in specs if spec and spec.origin]
    return (*places, f"{Path(__file__).parents[1]}{os.sep}")


def _directory(file: str) -> str:
    return f"{Path(file).parent}{os.sep}"
