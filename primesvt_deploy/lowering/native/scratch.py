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
_COPIED = 8
_LANE_PAD = 64
_SLACK = 256


def scratch_bytes(operator: Operator) -> int:
    """Bytes that an operator needs, aligned."""
    if isinstance(operator, SparseOp):
        return _aligned(_sparse(operator))
    if isinstance(operator, DenseOp):
        return _aligned(_dense(operator))
    if isinstance(operator, AttentionOp):
        values = _padded(operator.value_size)
        each = operator.key_size * values * 2 + values * 4
        return _aligned(operator.output.steps * each + 2 * values * 4 + _SLACK)
    return 0


def _sparse(op: SparseOp) -> int:
    window = op.window
    sets = -(-op.input.step_bits * op.input.steps_per_group // op.set_bits)
    channels = window.channels * op.input.planes
    listed = (channels if op.joins else op.piece) + _COPIED
    total = _aligned(sets * _CLASSES * listed * 2)
    records = 0
    if op.joins:
        ring = (window.kernel_height - 1) * window.dilation_y + 1
        records = ring * window.width * sets * op.input.groups * (_CLASSES + 1 + channels)
        taps = window.kernel_height * window.kernel_width
        total += _aligned((taps * channels + _COPIED) * 2)
    total += _aligned((records + _COPIED) * 2)
    wide = op.block_rows != 0
    currents = sets * op.input.groups * op.set_bits * _padded(op.outputs) * (4 if wide else 2)
    return total + _aligned(currents) + _sink(op.sink, op.outputs, wide=wide)


def _dense(op: DenseOp) -> int:
    window = op.window
    inputs = window.kernel_height * window.kernel_width * (window.channels // op.groups)
    currents = op.sink.steps * _padded(op.outputs) * 4
    return currents + _aligned(8 * inputs) + _sink(op.sink, op.outputs, wide=True)


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
