"""Scratch memory that an operator of the engine works in.

The same sums as `svit_scratch_bytes` in `edge/native`; the engine refuses a file with too little.
"""

from __future__ import annotations

from enum import Enum

from primesvt_deploy.lowering.native.records import (
    AttentionOp,
    DenseOp,
    Operator,
    PixelsOp,
    SinkKind,
    SinkRef,
    SparseOp,
    WeightFormat,
    WindowRef,
)

__all__ = ["scratch_bytes"]

_CLASSES = 16
_CHUNK = 64
_COPIED = 8
_LANE_PAD = 32
_SLACK = 256
_TILE = 4


def scratch_bytes(operator: Operator) -> int:
    """Bytes that an operator needs, aligned."""
    if isinstance(operator, SparseOp):
        return _aligned(_sparse(operator))
    if isinstance(operator, DenseOp):
        return _aligned(_dense(operator))
    if isinstance(operator, PixelsOp):
        return _aligned(_pixels(operator))
    if isinstance(operator, AttentionOp):
        values = _padded(operator.value_size)
        each = operator.key_size * values * 2 + values * 4
        return _aligned(operator.output.steps * each + 2 * values * 4 + _SLACK)
    return 0


def _sparse(op: SparseOp) -> int:
    window = op.window
    sets = -(-op.input.step_bits * op.input.steps_per_group // op.set_bits)
    channels = window.channels * op.largest
    listed = (channels if op.joins else op.listed + _CHUNK) + _COPIED
    total = _aligned(sets * _CLASSES * listed * 2)
    records = 0
    if op.joins:
        ring = (window.kernel_height - 1) * window.dilation_y + 1
        records = ring * window.width * sets * op.input.groups * (_CLASSES + 1 + channels)
        taps = window.kernel_height * window.kernel_width
        total += _aligned((taps * channels + _COPIED) * 2)
    total += _aligned((records + _COPIED) * 2)
    pitch = _padded(op.outputs) + (_LANE_PAD if op.weights is WeightFormat.INT4 else 0)
    size = 4 if op.block_rows else 2
    total += _aligned(sets * op.input.groups * op.set_bits * pitch * size)
    return total + _sink(op.sink, pitch, _Current.INT32 if op.block_rows else _Current.INT16)


def _dense(op: DenseOp) -> int:
    window, pitch = op.window, _padded(op.outputs)
    inputs = window.kernel_height * window.kernel_width * (window.channels // op.groups)
    currents = (op.sink.steps * pitch + (_LANE_PAD if op.groups > 1 else 0)) * 4
    return currents + _aligned(8 * inputs) + _sink(op.sink, pitch, _Current.FLOAT)


def _pixels(op: PixelsOp) -> int:
    window, pitch = op.window, _padded(op.outputs)
    columns = (window.out_width - 1) * window.stride_x + window.kernel_width
    lines = (window.kernel_height + 1) * _padded(columns * (window.channels + 1) + 1) * 2
    return lines + _TILE * pitch * 4 + _sink(op.sink, pitch, _Current.INT32)


class _Current(Enum):
    INT16 = 2
    INT32 = 4
    FLOAT = 5


def _sink(sink: SinkRef, pitch: int, current: _Current) -> int:
    position = sink.steps * pitch
    fires = sink.kind is SinkKind.NEURON and (current is _Current.INT16 or not sink.pooled)
    total = 0 if current is _Current.FLOAT or fires else position * 4
    if sink.pooled:
        total += _cells(sink.pool) * position * (2 if current is _Current.INT16 else 4)
    return total


def _cells(pool: WindowRef) -> int:
    """Windows of a pool that are open at a time."""
    rows = -(-pool.kernel_height // pool.stride_y)
    columns = -(-pool.kernel_width // pool.stride_x)
    shares_one = pool.kernel_height - pool.stride_y <= 1
    if shares_one and rows > 1 and columns < pool.out_width:
        return pool.out_width + columns
    return rows * pool.out_width


def _padded(count: int) -> int:
    return -(-count // _LANE_PAD) * _LANE_PAD


def _aligned(size: int) -> int:
    return -(-size // 64) * 64
