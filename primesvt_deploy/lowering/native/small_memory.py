"""Have a native program work in little memory, for a microcontroller; the numbers are the same.

Lists of active inputs are kept for one position alone, or, where that needs less, not at all: they
are made anew for each window, and few at a time.
"""

from __future__ import annotations

from dataclasses import replace

from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import Operator, SparseOp
from primesvt_deploy.lowering.native.scratch import scratch_bytes

__all__ = ["in_little_memory"]

_LISTED = 64
"""Active inputs that are listed at a time, and as many more."""


def in_little_memory(program: NativeProgram) -> NativeProgram:
    """The same program with the shorter kind of lists for each layer."""
    return replace(program, operators=tuple(_short(op) for op in program.operators))


def _short(operator: Operator) -> Operator:
    if not isinstance(operator, SparseOp):
        return operator
    short = replace(operator, tile=0, listed=_LISTED, gathered=0)
    return min(short, replace(operator, tile=1, gathered=0), key=scratch_bytes)
