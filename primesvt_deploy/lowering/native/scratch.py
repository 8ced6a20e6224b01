"""Scratch memory that an operator of the engine works in.

The same sums as `svit_scratch_bytes` in `edge/native`; the engine refuses a file with too little.
"""

from __future__ import annotations

from primesvt_deploy.lowering.native.records import (
    AttentionOp,
    DenseOp,
    Operator,
    SinkRef,
    SparseOp,
)

__all__ = ["scratch_bytes"]

_CLASSES = 16
_LIST_SLACK = 32
_LANE_PAD = 64
_SLACK = 256


def scratch_bytes(operator: Operator) -> int:
    """Bytes that an operator needs, aligned."""
    if isinstance(operator, SparseOp):
        return _aligned(_sparse(operator))
    if isinstance(operator, DenseOp):
        currents = operator.sink.steps * _padded(operator.outputs) * 4
        return _aligned(currents + _sink(operator.sink, operator.outputs, wide=True))
    if isinstance(operator, AttentionOp):
        values = _padded(operator.value_size)
        each = operator.key_size * values * 2 + values * 4
        return _aligned(operator.output.steps * each + 2 * values * 4 + _SLACK)
    return 0


def _sparse(op: SparseOp) -> int:
    window = op.window
    sets = -(-op.input.step_bits * op.input.steps_per_group // 4) * op.input.groups
    taps = window.kernel_height * window.kernel_width
    bucket = op.list_entries + _LIST_SLACK
    total = _aligned(sets * _CLASSES * bucket * 2)
    if taps > 1:
        ring = (window.kernel_height - 1) * window.dilation_y + 1
        total += ring * window.width * sets * _aligned((_CLASSES + 1 + bucket) * 2)
        total += sets * _aligned((taps * op.list_entries + _LIST_SLACK) * 2)
    wide = op.block_rows != 0
    total += _aligned(sets * 4 * _padded(op.outputs) * (4 if wide else 2))
    return total + _sink(op.sink, op.outputs, wide=wide)


def _sink(sink: SinkRef, outputs: int, *, wide: bool) -> int:
    position = sink.steps * _padded(outputs)
    total = position * 4
    if sink.pooled:
        rows = -(-sink.pool.kernel_height // sink.pool.stride_y)
        total += rows * sink.pool.out_width * position * (4 if wide else 2)
    return total


def _padded(count: int) -> int:
    return -(-count // _LANE_PAD) * _LANE_PAD


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
