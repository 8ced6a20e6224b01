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

__all__ = ["COLUMNS", "products_bytes", "record_bytes", "scratch_bytes"]

COLUMNS = 192
"""Outputs of a layer that are computed at a time, `SVIT_COLUMNS` in the engine."""

_RECORD_HEAD = 17
_PART = 32
_CHUNK = 64
_MOST_LISTED = 640
_COPIED = 8
_LANE_PAD = 32
_SLACK = 256
_TILE = 4
_PRODUCT_INPUTS, _PRODUCT_WINDOWS, _PRODUCT_COLUMNS, _PACKED = 16, 8, 64, 128


def scratch_bytes(operator: Operator) -> int:
    """Bytes that an operator needs, aligned."""
    if isinstance(operator, SparseOp):
        return _aligned(max(_sparse(operator), products_bytes(operator)))
    if isinstance(operator, DenseOp):
        return _aligned(_dense(operator))
    if isinstance(operator, PixelsOp):
        return _aligned(_pixels(operator))
    if isinstance(operator, AttentionOp):
        values = _padded(operator.value_size)
        each = operator.key_size * values * 2 + values * 4
        return _aligned(operator.output.steps * each + 2 * values * 4 + _SLACK)
    return 0


def record_bytes(op: SparseOp, tile: int) -> int:
    """Bytes of the lists of a tile of positions."""
    inputs, pieces = _pieces(op.window)
    records = _sets(op) * op.input.groups * op.input.planes * pieces
    return _slots(op.window, tile) * records * (_RECORD_HEAD + inputs + _COPIED) * 2


def products_bytes(op: SparseOp) -> int:
    """Bytes in which all products of a layer are summed; 0: they never are."""
    if not op.gathered:
        return 0
    window = op.window
    rows = window.kernel_height * window.kernel_width * window.channels
    inputs = -(-rows // _PRODUCT_INPUTS) * _PRODUCT_INPUTS
    windows = -(-op.gathered * op.input.steps // _PRODUCT_WINDOWS) * _PRODUCT_WINDOWS
    total = _aligned(windows * inputs) + min(inputs, _PACKED) * _PRODUCT_COLUMNS
    total += windows * _PRODUCT_COLUMNS * 4
    return total + _sink(op.sink, _PRODUCT_COLUMNS, _padded(op.outputs), _Current.INT32)


def _slots(window: WindowRef, tile: int) -> int:
    """Columns of pixels that the windows of a tile read."""
    return (tile - 1) * window.stride_x + (window.kernel_width - 1) * window.dilation_x + 1


def _pieces(window: WindowRef) -> tuple[int, int]:
    """Inputs that are listed together, and how many such pieces a column of pixels has."""
    runs = -(-window.channels // _MOST_LISTED)
    channels = -(-window.channels // runs)
    each = min(_MOST_LISTED // channels, window.kernel_height)
    return channels * each, -(-window.kernel_height * runs // each)


def _lists(op: SparseOp) -> int:
    window, sets = op.window, _sets(op)
    if op.tile:
        listed, pieces = _pieces(window)
        slots, parts = _slots(window, op.tile), window.kernel_width * pieces
        records = record_bytes(op, op.tile)
    else:
        listed, slots, parts = op.listed + _CHUNK, 1, 1
        records = sets * (_RECORD_HEAD + listed + _COPIED) * 2
    rows = window.kernel_height * window.kernel_width * window.channels
    joined = _RECORD_HEAD + _COPIED + (rows if parts > 1 else 0)
    total = _aligned(sets * 2**op.set_bits * (listed + _COPIED) * 2) + _aligned(records)
    return total + _aligned(4 * slots) + _aligned(_PART * parts) + _aligned(2 * joined)


def _sparse(op: SparseOp) -> int:
    sets, total = _sets(op), _lists(op)
    pitch = _padded(min(op.outputs, COLUMNS) if op.tile else op.outputs)
    pitch += _LANE_PAD if op.weights is WeightFormat.INT4 else 0
    size = 4 if op.block_rows else 2
    total += _aligned(op.set_bits * pitch * 2) if op.block_rows else 0
    total += _aligned(sets * op.input.groups * op.set_bits * pitch * size)
    current = _Current.INT32 if op.block_rows else _Current.INT16
    return total + _sink(op.sink, pitch, _padded(op.outputs), current)


def _sets(op: SparseOp) -> int:
    return -(-op.input.step_bits * op.input.steps_per_group // op.set_bits)


def _dense(op: DenseOp) -> int:
    window, pitch = op.window, _padded(op.outputs)
    inputs = window.kernel_height * window.kernel_width * (window.channels // op.groups)
    currents = (op.sink.steps * pitch + (_LANE_PAD if op.groups > 1 else 0)) * 4
    return currents + _aligned(8 * inputs) + _sink(op.sink, pitch, pitch, _Current.FLOAT)


def _pixels(op: PixelsOp) -> int:
    window, pitch = op.window, _padded(op.outputs)
    columns = (window.out_width - 1) * window.stride_x + window.kernel_width
    lines = (window.kernel_height + 1) * _padded(columns * (window.channels + 1) + 1) * 2
    return lines + _TILE * pitch * 4 + _sink(op.sink, pitch, pitch, _Current.INT32)


class _Current(Enum):
    INT16 = 2
    INT32 = 4
    FLOAT = 5


def _sink(sink: SinkRef, pitch: int, cell_pitch: int, current: _Current) -> int:
    fires = sink.kind is SinkKind.NEURON and (current is _Current.INT16 or not sink.pooled)
    total = 0 if current is _Current.FLOAT or fires else sink.steps * pitch * 4
    if sink.pooled:
        cells = _cells(sink.pool) * sink.steps * cell_pitch
        total += cells * (2 if current is _Current.INT16 else 4)
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
