"""Compare version numbers; imports nothing that they are of."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["UPGRADE", "lacking", "version_numbers"]

UPGRADE = "pip install -U onnxruntime"
"""What to do about an onnxruntime that is too old."""


def version_numbers(version: str) -> tuple[int, ...]:
    """`1.26.0.dev3` as (1, 26): what is not a number ends it, zeros at the end are none."""
    leading = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in leading.group().split(".")] if leading else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def lacking(version: str, requires: Mapping[str, str]) -> list[str]:
    """What an onnxruntime of some version is too old for, each with the version it needs.

    Args:
        version: of onnxruntime.
        requires: the least version, by `domain::Operator` or `opset`.
    """
    return [
        f"{what} (needs {needed} or newer)"
        for what, needed in requires.items()
        if version_numbers(version) < version_numbers(needed)
    ]
