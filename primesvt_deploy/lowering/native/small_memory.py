"""Have a native program work in little memory, for a microcontroller; the numbers are the same.

Lists of a pixel's active inputs are not kept for the windows that overlap there, but made anew for
each window, and few at a time. That costs little where the weight rows are added one by one.
"""

from __future__ import annotations

from dataclasses import replace

from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Operator, SparseOp

__all__ = ["in_little_memory"]

_LISTED = 64
"""Active inputs that are listed at a time, and as many more."""


def in_little_memory(program: NativeProgram) -> NativeProgram:
    """The same program with short lists that are not kept."""
    return replace(program, operators=tuple(_short(op) for op in program.operators))


def _short(operator: Operator) -> Operator:
    if not isinstance(operator, SparseOp):
        return operator
    return replace(operator, joins=0, listed=_LISTED)
