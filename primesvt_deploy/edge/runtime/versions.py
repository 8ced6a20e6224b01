"""Compare version numbers, without importing the packages concerned."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["UPGRADE", "lacking", "version_numbers"]

UPGRADE = "pip install -U onnxruntime"
"""What to do about an onnxruntime that is too old."""


def version_numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version, without zeros at the end: (1, 26) for `1.26.0.dev3`."""
    # Python refuses to read numbers of thousands of digits.
    leading = re.match(r"\d{1,18}(\.\d{1,18})*", version)
    numbers = [int(part) for part in leading.group().split(".")] if leading else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def lacking(version: str, requires: Mapping[str, str]) -> list[str]:
    """List requirements that a version of onnxruntime does not meet, each with the version needed.

    Args:
        version: version of onnxruntime.
        requires: the least version, by `domain::Operator` or `opset`.
    """
    return [
        f"{what} (needs {needed} or newer)"
        for what, needed in requires.items()
        if version_numbers(version) < version_numbers(needed)
    ]
