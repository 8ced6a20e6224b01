"""Shapes of a traced graph for one sample at a time."""

from __future__ import annotations

import math

import onnx_ir as ir

from primesvt_deploy.lowering.contract import PreconditionError

__all__ = ["sample_shape"]


def sample_shape(value: ir.Value | None) -> tuple[int, ...]:
    """Shape of a traced tensor with a batch of 1.

    Args:
        value: its sizes are numbers, or products of numbers and the batch, such as `4*batch`.

    Raises:
        PreconditionError: a size is neither.
    """
    assert value is not None
    if value.shape is None:
        raise PreconditionError(f"tensor {value.name} has no shape: it was not traced")
    return tuple(_size(value, size) for size in value.shape)


def _size(value: ir.Value, size: int | ir.SymbolicDim) -> int:
    if isinstance(size, int):
        return size
    factors = str(size.value).replace(" ", "").split("*")
    if not all(factor.isdecimal() or factor.isidentifier() for factor in factors):
        raise PreconditionError(
            f"tensor {value.name} has size {size.value}: expected a number, or one times the batch"
        )
    return math.prod(int(factor) if factor.isdecimal() else 1 for factor in factors)
